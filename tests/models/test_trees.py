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
from transforms.errors import ModelError

ASIDE: dict[str, Any] = {"validation_indicator_col": "aside", "early_stopping_rounds": 2, "learning_rate": 0.6}


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    """Four features with missing values, a label of two and of three classes, a number, a weight and rows aside; the last feature is the
    code of a category in `codes`."""
    random = np.random.default_rng(3)
    values = []
    for key in range(400):
        x = random.normal(size=4)
        number = float(x[0] + x[1] * x[2])
        code = float(random.integers(5))
        number += code in (1.0, 3.0)
        x[random.integers(4)] = np.nan
        labels = float(number > 0), float(np.digitize(number, [-1, 1])), number
        values.append((key, Vectors.dense(x), Vectors.dense([*x[:3], code]), *labels, float(1 + key % 2), key % 4 == 1))
    names = ["key", "features", "codes", "two", "three", "number", "weight", "aside"]
    frame = spark.createDataFrame(values, names)
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
        (
            SparkXGBRegressor,
            "number",
            {"features_col": "codes", "feature_types": ["q", "q", "q", "c"], "missing": float("nan")},
        ),
        (SparkXGBClassifier, "two", {"n_estimators": 40, **ASIDE}),
        (SparkXGBRegressor, "number", {"n_estimators": 40, "weight_col": "weight", "tree_method": "approx", **ASIDE}),
    ],
)
def test_scores_equal_those_of_the_stock_fit(rows: DataFrame, kind: Any, label: str, settings: dict[str, Any]) -> None:
    """To the last bit: one worker and the same order of rows."""
    common = {"features_col": "features", "n_estimators": 8, "max_depth": 3, "num_workers": 1}
    estimator = kind(label_col=label, **{**common, **settings})
    assert trees.applies(estimator)

    ours, theirs = trees.fit(estimator, rows), estimator.fit(rows)

    assert type(ours) is type(theirs)
    assert ours.uid == estimator.uid
    assert np.array_equal(scores(ours, rows), scores(theirs, rows))
    if "early_stopping_rounds" in settings:
        assert ours.get_booster().num_boosted_rounds() < settings["n_estimators"]


def test_the_model_does_not_depend_on_how_partitions_arrive(rows: DataFrame) -> None:
    """Rows are put back in the order of their partitions: more partitions of the same order give the same trees."""
    estimator = SparkXGBRegressor(features_col="features", label_col="number", n_estimators=5, num_workers=1)
    spread = rows.repartitionByRange(4, "key").sortWithinPartitions("key")
    whole = rows.coalesce(1).sortWithinPartitions("key")

    assert np.array_equal(scores(trees.fit(estimator, spread), rows), scores(trees.fit(estimator, whole), rows))


@pytest.mark.quick
@pytest.mark.parametrize(
    "settings",
    [{"num_workers": 2}, {"base_margin_col": "number"}, {"device": "cuda"}],
)
def test_other_settings_are_left_to_the_stock_fit(spark: SparkSession, settings: dict[str, Any]) -> None:
    """Several workers, margins to begin with, and GPUs."""
    assert not trees.applies(SparkXGBClassifier(features_col="features", **settings))


def test_a_booster_to_begin_with_is_left_to_the_stock_fit(rows: DataFrame) -> None:
    begun = trees.fit(SparkXGBRegressor(features_col="features", label_col="number", n_estimators=2), rows)
    assert not trees.applies(SparkXGBRegressor(features_col="features", xgb_model=begun.get_booster()))


@pytest.mark.parametrize("settings", [{"weight_col": "negative"}, {"grow_policy": "sideways"}])
def test_what_xgboost_refuses_is_its_sentence(rows: DataFrame, settings: dict[str, Any]) -> None:
    """Not the traceback of a worker."""
    estimator = SparkXGBRegressor(features_col="features", label_col="number", n_estimators=2, **settings)
    with pytest.raises(ModelError) as caught:
        trees.fit(estimator, rows.withColumn("negative", F.lit(-1.0)))
    (said,) = caught.value.problems
    assert said.startswith("XGBoostError: ")
    assert "Traceback" not in said
