"""Boosted trees of `xgboost.spark` fitted in one plain Spark task.

`xgboost.spark` fits inside a barrier stage, which costs about 3 s a fit in polling alone, whatever the data, and needs its slots at
once. One worker needs no barrier. Here the same parameters go to the same `xgboost.train` over rows in canonical order,
and the booster becomes the same stock `xgboost.spark` model. `tree_search` does this for all folds and grid points together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.ml import Estimator, Model
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import BooleanType

from models import boosters, data_parallel_trees, gpus, tree_division, tree_task
from models.boosters import Request
from models.exact.driver.barrier import Unavailable
from models.exact.worker import devices
from models.tree_task import ASIDE, CELL, ORDINAL, Matrices
from transforms.errors import ModelError

SOLVER = "xgboost, one task"
_MODEL = pa.schema([("config", pa.string()), ("model", pa.binary()), ("error", pa.string())])
log = logging.getLogger(__name__)
_ONE_AT_A_TIME = Lock()
_OTHER_INPUTS = ("base_margin_col", "qid_col", "features_cols", "enable_sparse_data_optim", "xgb_model")


def applies(estimator: Estimator[Any]) -> bool:
    """Whether `fit` gives what the estimator's own fit gives: CPU, one worker, no input but features, label, weight and rows aside."""
    if not type(estimator).__module__.startswith("xgboost.spark"):
        return False
    unset = all(not value_of(estimator, name) for name in _OTHER_INPUTS)
    return unset and value_of(estimator, "num_workers") == 1 and value_of(estimator, "device") in (None, "cpu")


def fit(estimator: Any, frame: DataFrame) -> Model:
    """Fit an estimator that `applies` accepts.

    Args:
        frame: rows in canonical order; XGBoost's sums depend on the order of rows.

    Returns:
        The estimator's stock model, without the training metric of each round that the stock fit computes besides.

    Raises:
        ModelError: XGBoost refuses the rows or a parameter, or a GPU has no room for the rows.
    """
    prepared = inputs(estimator, frame)
    booster, rounds, matrix = estimator._get_xgb_parameters(prepared)
    request = Request(0, 0, booster, rounds, matrix)
    division = tree_division.of_inputs(prepared, 1, binned=is_binned(estimator))
    gpu = gpus.take(frame.sparkSession, "trees", against="" if division.tasks else tree_division.NOT_ON_GPU)
    if not division.tasks:
        try:
            return model_of(estimator, *_fit_together(prepared, division.features, request))
        except Unavailable as error:
            log.warning(tree_division.NEVERTHELESS, division.reason, error)
    ordered = prepared.withColumn(ORDINAL, F.monotonically_increasing_id()).coalesce(1)
    train = partial(_train, request=request, gpu=gpu)
    # Two would share the memory of one GPU.
    with _ONE_AT_A_TIME if gpu else nullcontext():
        row = ordered.mapInArrow(train, from_arrow_schema(_MODEL)).collect()[0]
    if row["error"] is not None:
        raise ModelError(row["error"])
    return model_of(estimator, row["config"], row["model"])


def inputs(estimator: Any, frame: DataFrame, *more: Column) -> DataFrame:
    """Columns `values`, `label`, `weight` and ASIDE of an estimator that `applies` accepts, as far as it has them, checked as its own fit
    checks them; and `more`."""
    estimator._validate_params()
    columns, _ = estimator._prepare_input_columns_and_feature_prop(frame)
    prepared = frame.select(*columns, *more)
    if ASIDE in prepared.columns and prepared.schema[ASIDE].dataType != BooleanType():
        raise TypeError("The validation indicator must be boolean type.")
    return prepared


def is_binned(estimator: Any) -> bool:
    """Whether its trees are grown on bins of the features."""
    return boosters.is_binned({"tree_method": value_of(estimator, "tree_method")})


def model_of(estimator: Any, config: str, booster: bytes) -> Model:
    """The estimator's stock model of a booster."""
    trained = estimator._convert_to_sklearn_model(bytearray(booster), config)
    model = estimator._create_pyspark_model(trained, None)
    model._resetUid(estimator.uid)
    fitted: Model = estimator._copyValues(model)
    return fitted


def _fit_together(prepared: DataFrame, features: int, request: Request) -> tuple[str, bytes]:
    """Configuration and booster of a model that workers train on a part of the rows each; nobody judges it."""
    rows = prepared.withColumn(CELL, F.lit(0))
    # Side by side they would wait for each other's slots in vain.
    with _ONE_AT_A_TIME, data_parallel_trees.together(rows, features, classifies=False) as workers:
        found = workers.train(request, np.array([True]), np.array([False]))
    return found.config, found.model


def _train(batches: Iterator[pa.RecordBatch], *, request: Request, gpu: bool) -> Iterator[pa.RecordBatch]:
    """The task: one row, of the model or of why there is none."""
    found: dict[str, Any] = {"config": None, "model": None, "error": None}
    with devices.let_go(gpu):
        try:
            found |= _trained(batches, request, gpu)
        except tree_task.REFUSALS as error:
            found["error"] = tree_task.first_line(error)
    yield pa.RecordBatch.from_pylist([found], _MODEL)


def _trained(batches: Iterable[pa.RecordBatch], request: Request, gpu: bool) -> dict[str, Any]:
    """All rows into one matrix, then the rounds of boosting; what lies on a GPU is let go with it."""
    rows = tree_task.columns(batches)
    if gpu:
        request = replace(request, booster={**request.booster, **tree_task.moved(rows)})
    matrices = Matrices.of(rows, request, np.ones(len(rows["label"]), dtype=bool))
    return boosters.kept(boosters.train(request, matrices.trained, matrices.judged))


def value_of(estimator: Any, name: str) -> Any:
    """A parameter's value, None where there is none or no such parameter."""
    return estimator.getOrDefault(name) if estimator.hasParam(name) and estimator.isDefined(name) else None
