"""Boosted trees of `xgboost.spark` fitted in one plain Spark task.

`xgboost.spark` fits inside a barrier stage, which costs about 3 s a fit in polling alone, whatever the data, and needs its slots at
once. One worker needs no barrier. Here the same parameters go to the same `xgboost.train` over rows in canonical order,
and the booster becomes the same stock `xgboost.spark` model. `tree_search` does this for all folds and grid points together.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.ml import Estimator, Model
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from models import gpus, tree_task
from models.exact.worker import devices
from models.tree_task import ORDINAL

SOLVER = "xgboost, one task"
_OTHER_INPUTS = (
    "validationIndicatorCol", "base_margin_col", "qid_col", "features_cols", "enable_sparse_data_optim", "early_stopping_rounds",
)  # fmt: skip


def applies(estimator: Estimator[Any]) -> bool:
    """Whether `fit` gives what the estimator's own fit gives: CPU, one worker, and no input but features, label and weight."""
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
    train = partial(_train, booster=booster, rounds=rounds, matrix=matrix, gpu=gpu)
    row = ordered.mapInArrow(train, "config string, model binary").collect()[0]
    return model_of(estimator, row["config"], row["model"])


def inputs(estimator: Any, frame: DataFrame, *more: Column) -> DataFrame:
    """Columns `values`, `label` and `weight` of an estimator that `applies` accepts, checked as its own fit checks them; and `more`."""
    estimator._validate_params()
    columns, _ = estimator._prepare_input_columns_and_feature_prop(frame)
    return frame.select(*columns, *more)


def model_of(estimator: Any, config: str, booster: bytes) -> Model:
    """The estimator's stock model of a booster."""
    trained = estimator._convert_to_sklearn_model(bytearray(booster), config)
    model = estimator._create_pyspark_model(trained, None)
    model._resetUid(estimator.uid)
    fitted: Model = estimator._copyValues(model)
    return fitted


def _train(batches: Iterator[pa.RecordBatch], *, gpu: bool, **given: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    """The task."""
    with devices.let_go(gpu):
        found = _trained(batches, gpu=gpu, **given)
    yield pa.RecordBatch.from_pydict({name: [value] for name, value in found.items()})


def _trained(
    batches: Iterator[pa.RecordBatch],
    *,
    booster: dict[str, Any],
    rounds: dict[str, Any],
    matrix: dict[str, Any],
    gpu: bool,
) -> dict[str, Any]:
    """All rows into one matrix, then the rounds of boosting."""
    import xgboost

    rows = tree_task.columns(batches)
    device = tree_task.moved(rows) if gpu else {}
    return tree_task.kept(xgboost.train({**booster, **device}, tree_task.made(rows, booster, matrix), **rounds))


def _value(estimator: Estimator[Any], name: str) -> Any:
    param = estimator.getParam(name)
    return estimator.getOrDefault(param) if estimator.isDefined(param) else None
