"""Feature stages: pandas and scikit-learn as oracles, unseen and missing values, and names that lead back to raw columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from models import preprocessing
from models.preprocessing import Design, Profile

NUMERIC, CATEGORICAL = ("size", "weight"), ("kind",)
SCHEMA = "id int, size double, weight double, kind string"
INF, NAN = float("inf"), float("nan")
TRAIN = [
    (0, 1.0, 10.0, "box"),
    (1, None, 20.0, "box"),
    (2, NAN, 30.0, "bag"),
    (3, 4.0, 40.0, None),
    (4, -INF, 50.0, "box"),
    (5, 7.0, 60.0, "bag"),
]
SCORED = [(0, 2.0, 20.0, "bag"), (1, INF, None, "crate"), (2, None, NAN, None)]


@pytest.fixture
def rows(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(TRAIN, SCHEMA).repartition(2)


def fitted(rows: DataFrame, design: Design, impute: str = "mean") -> PipelineModel:
    profile = preprocessing.profile(rows, NUMERIC, CATEGORICAL)
    return Pipeline(stages=preprocessing.stages(profile, design, impute)).fit(rows)


def features(model: PipelineModel, frame: DataFrame) -> np.ndarray:
    """Matrix of features in the order of `id`, shape (rows, slots)."""
    made = model.transform(frame).orderBy("id").select(vector_to_array(F.col("features")).alias("features"))
    return np.array(made.toPandas()["features"].tolist())


def slots(model: PipelineModel, frame: DataFrame, column: str = "features") -> list[str]:
    groups = model.transform(frame).schema[column].metadata["ml_attr"]["attrs"].values()
    return [slot["name"] for slot in sorted((slot for group in groups for slot in group), key=lambda slot: slot["idx"])]


@pytest.mark.quick
def test_the_profile_counts_null_nan_and_infinite_as_missing(rows: DataFrame) -> None:
    """A null category is a level of its own."""
    assert preprocessing.profile(rows, NUMERIC, CATEGORICAL) == Profile(
        NUMERIC, CATEGORICAL, frozenset({"size"}), {"kind": 3}
    )


def test_linear_features_are_imputed_flagged_and_one_hot(rows: DataFrame, spark: SparkSession) -> None:
    """Slots: numbers with the training mean for missing ones, a flag where training has missing ones, one slot a level by frequency.

    An unseen category has no slot, a null one has; a column without missing values in training is imputed too, without a flag.
    """
    model = fitted(rows, Design.LINEAR)

    assert slots(model, rows) == [
        "size=imputed", "weight=imputed", "size=missing", "kind=levels_box", "kind=levels_bag", "kind=levels_(missing)",
    ]  # fmt: skip
    expected = [
        [1, 10, 0, 1, 0, 0],
        [4, 20, 1, 1, 0, 0],
        [4, 30, 1, 0, 1, 0],
        [4, 40, 0, 0, 0, 1],
        [4, 50, 1, 1, 0, 0],
        [7, 60, 0, 0, 1, 0],
    ]
    assert features(model, rows).tolist() == expected
    scored = features(model, spark.createDataFrame(SCORED, SCHEMA))
    assert scored.tolist() == [[2, 20, 0, 0, 1, 0], [4, 35, 1, 0, 0, 0], [4, 35, 1, 0, 0, 1]]


def test_the_median_is_that_of_the_rows_fitted_on(rows: DataFrame) -> None:
    """Not of the whole table: inside the cross-validation a fold sees its own training rows."""
    model = fitted(rows.where("id < 4"), Design.LINEAR, "median")

    assert features(model, rows)[4, 0] == np.median([1.0])


def test_scaled_features_are_divided_by_the_standard_deviation(rows: DataFrame) -> None:
    """Unbiased, without centring; every slot, flags and levels too."""
    plain, scaled = features(fitted(rows, Design.LINEAR), rows), features(fitted(rows, Design.SCALED), rows)

    assert np.allclose(scaled, plain / plain.std(axis=0, ddof=1), rtol=0, atol=1e-12)


def test_trees_get_imputed_numbers_and_indices(rows: DataFrame, spark: SparkSession) -> None:
    """Indices by frequency, ties by name; unseen is the next index; MLlib is told that they are categories."""
    model = fitted(rows, Design.TREES)

    assert slots(model, rows) == ["size=imputed", "weight=imputed", "size=missing", "kind=index"]
    assert features(model, rows)[:, 3].tolist() == [0, 0, 1, 2, 0, 1]
    assert features(model, spark.createDataFrame(SCORED, SCHEMA))[:, 3].tolist() == [1, 3, 2]
    nominal = model.transform(rows).schema["features"].metadata["ml_attr"]["attrs"]["nominal"]
    assert [slot["vals"] for slot in nominal] == [["box", "bag", "(missing)", "__unknown"]]


def test_a_category_of_too_many_levels_is_a_number_to_trees(spark: SparkSession) -> None:
    """Its rank by frequency, without the levels that would need as many bins."""
    frame = spark.createDataFrame([(i, 1.0, 2.0, f"k{i:03d}") for i in range(300)], SCHEMA)
    model = fitted(frame, Design.TREES)

    assert preprocessing.max_bins(preprocessing.profile(frame, NUMERIC, CATEGORICAL)) == 32
    assert slots(model, frame)[-1] == "kind=rank"
    assert "nominal" not in model.transform(frame).schema["features"].metadata["ml_attr"]["attrs"]
    assert features(model, frame)[:, -1].tolist() == list(range(300))


def test_boosted_trees_keep_missing_values(rows: DataFrame, spark: SparkSession) -> None:
    """Null, NaN and infinite numbers are NaN, which XGBoost treats as missing; no flags, no imputation."""
    model = fitted(rows, Design.BOOSTED)

    assert slots(model, rows) == ["size=value", "weight=value", "kind=index"]
    size = features(model, rows)[:, 0]
    assert np.array_equal(size, [1, NAN, NAN, 4, NAN, 7], equal_nan=True)
    scored = features(model, spark.createDataFrame(SCORED, SCHEMA))
    assert np.array_equal(scored, [[2, 20, 1], [NAN, NAN, 3], [NAN, NAN, 2]], equal_nan=True)


@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_levels_do_not_depend_on_partitioning(spark: SparkSession, partitions: int) -> None:
    """Equal counts are ordered by name."""
    frame = spark.createDataFrame(pd.DataFrame({"kind": list("cabbac" * 5), "id": range(30)}))
    stages = preprocessing.stages(preprocessing.profile(frame, (), ("kind",)), Design.BOOSTED, "mean")
    model = Pipeline(stages=stages).fit(frame.repartition(partitions))

    assert model.stages[1].labels == ["a", "b", "c"]
