"""Boosted trees in one task: the same model as `xgboost.spark`'s own fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from xgboost.spark import SparkXGBClassifier, SparkXGBRegressor

from models import trees
from models.folds import canonical


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    """Four features with missing values, a label of two and of three classes, a number and a weight."""
    random = np.random.default_rng(3)
    values = []
    for key in range(400):
        x = random.normal(size=4)
        number = float(x[0] + x[1] * x[2])
        x[random.integers(4)] = np.nan
        values.append(
            (key, Vectors.dense(x), float(number > 0), float(np.digitize(number, [-1, 1])), number, float(1 + key % 2))
        )
    frame = spark.createDataFrame(values, ["key", "features", "two", "three", "number", "weight"])
    return canonical(frame, ("key",), 400).cache()


def scores(model: Any, rows: DataFrame) -> np.ndarray:
    """Probabilities, or the number that a regression predicts, in the order of the key."""
    column = vector_to_array(F.col("probability")) if model.hasParam("probabilityCol") else F.col("prediction")
    return np.array(model.transform(rows).orderBy("key").select(column.alias("score")).toPandas()["score"].tolist())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "label", "settings"),
    [
        (SparkXGBClassifier, "two", {}),
        (SparkXGBClassifier, "two", {"weight_col": "weight", "max_bin": 16, "subsample": 0.5, "random_state": 4}),
        (SparkXGBClassifier, "three", {"tree_method": "approx"}),
        (SparkXGBRegressor, "number", {"learning_rate": 0.5}),
    ],
)
def test_scores_equal_those_of_the_stock_fit(rows: DataFrame, kind: Any, label: str, settings: dict[str, Any]) -> None:
    """To the last bit: one worker and the same order of rows."""
    estimator = kind(features_col="features", label_col=label, n_estimators=8, max_depth=3, num_workers=1, **settings)
    assert trees.applies(estimator)

    ours, theirs = trees.fit(estimator, rows), estimator.fit(rows)

    assert type(ours) is type(theirs)
    assert ours.uid == estimator.uid
    assert np.array_equal(scores(ours, rows), scores(theirs, rows))


def test_the_model_does_not_depend_on_how_partitions_arrive(rows: DataFrame) -> None:
    """Rows are put back in the order of their partitions: more partitions of the same order give the same trees."""
    estimator = SparkXGBRegressor(features_col="features", label_col="number", n_estimators=5, num_workers=1)
    spread = rows.repartitionByRange(4, "key").sortWithinPartitions("key")
    whole = rows.coalesce(1).sortWithinPartitions("key")

    assert np.array_equal(scores(trees.fit(estimator, spread), rows), scores(trees.fit(estimator, whole), rows))


@pytest.mark.quick
@pytest.mark.parametrize(
    "settings",
    [{"num_workers": 2}, {"early_stopping_rounds": 3}, {"validation_indicator_col": "two"}, {"device": "cuda"}],
)
def test_other_settings_are_left_to_the_stock_fit(spark: SparkSession, settings: dict[str, Any]) -> None:
    """Several workers, early stopping, validation rows and GPUs."""
    assert not trees.applies(SparkXGBClassifier(features_col="features", **settings))
