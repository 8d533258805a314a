"""Boosted trees of `xgboost.spark` fitted in one plain Spark task.

`xgboost.spark` fits inside a barrier stage, which costs about 3 s a fit in polling alone, whatever the data, and needs its slots at
once. One worker needs no barrier. Here the same parameters go to the same `xgboost.train` over rows in canonical order,
and the booster becomes the same stock `xgboost.spark` model. `tree_search` does this for all folds and grid points together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.ml import Estimator, Model
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType

from models import gpus, tree_task
from models.exact.worker import devices
from models.tree_task import ASIDE, ORDINAL, Matrices, Request

SOLVER = "xgboost, one task"
_OTHER_INPUTS = ("base_margin_col", "qid_col", "features_cols", "enable_sparse_data_optim")


def applies(estimator: Estimator[Any]) -> bool:
    """Whether `fit` gives what the estimator's own fit gives: CPU, one worker, no input but features, label, weight and rows aside."""
    if not type(estimator).__module__.startswith("xgboost.spark"):
        return False
    unset = all(not _value(estimator, name) for name in _OTHER_INPUTS)
    return unset and _value(estimator, "num_workers") == 1 and _value(estimator, "device") in (None, "cpu")


def fit(estimator: Any, frame: DataFrame) -> Model:
    """Fit an estimator that `applies` accepts.

    Args:
        frame: rows in canonical order; XGBoost's sums depend on the order of rows.

    Returns:
        The estimator's stock model, without the training metric of each round that the stock fit computes besides.
    """
    prepared = inputs(estimator, frame)
    booster, rounds, matrix = estimator._get_xgb_parameters(prepared)
    ordered = prepared.withColumn(ORDINAL, F.monotonically_increasing_id()).coalesce(1)
    gpu = gpus.take(frame.sparkSession, "trees")
    train = partial(_train, request=Request(0, 0, booster, rounds, matrix), gpu=gpu)
    row = ordered.mapInArrow(train, "config string, model binary").collect()[0]
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


def model_of(estimator: Any, config: str, booster: bytes) -> Model:
    """The estimator's stock model of a booster."""
    trained = estimator._convert_to_sklearn_model(bytearray(booster), config)
    model = estimator._create_pyspark_model(trained, None)
    model._resetUid(estimator.uid)
    fitted: Model = estimator._copyValues(model)
    return fitted


def _train(batches: Iterator[pa.RecordBatch], *, request: Request, gpu: bool) -> Iterator[pa.RecordBatch]:
    """The task: all rows into one matrix, then the rounds of boosting."""
    with devices.let_go(gpu):
        rows = tree_task.columns(batches)
        if gpu:
            request = replace(request, booster={**request.booster, **tree_task.moved(rows)})
        found = tree_task.kept(Matrices.of(rows, request, weighted=True).train(request))
    yield pa.RecordBatch.from_pydict({name: [value] for name, value in found.items()})


def _value(estimator: Estimator[Any], name: str) -> Any:
    param = estimator.getParam(name)
    return estimator.getOrDefault(param) if estimator.isDefined(param) else None
