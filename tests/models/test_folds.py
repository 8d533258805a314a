"""Folds by column and by hash, and the canonical order of rows."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import StandardScaler
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import Vectors
from pyspark.ml.regression import GeneralizedLinearRegression, LinearRegression
from pyspark.sql import DataFrame, SparkSession

from models.folds import ROWS_PER_PARTITION, Folds, canonical, with_hash_folds
from models.tuning import CrossValidator
from transforms.errors import ModelError


def cells(spark: SparkSession, *rows: tuple[int | None, int | None]) -> DataFrame:
    numbered = [(id, *row) for id, row in enumerate(rows)]
    return spark.createDataFrame(numbered, "id int, fold bigint, train_from int").repartition(2)


def members(frame: DataFrame, folds: Folds) -> list[tuple[list[int], list[int]]]:
    """For each fold the sorted `id` of its training and of its validation rows."""
    return [
        tuple(sorted(row["id"] for row in frame.where(part(k)).collect()) for part in (folds.trains, folds.validates))  # type: ignore[misc]
        for k in range(folds.count)
    ]


@pytest.mark.quick
def test_who_trains_and_who_validates(spark: SparkSession) -> None:
    """Others: every other row, those that no fold validates too. Earlier: rows of earlier folds, or by `train_from`; null never."""
    rows = [(0, -1, 0), (1, 0, 1), (2, 0, None), (3, 1, None), (4, -1, 1)]
    frame = spark.createDataFrame(rows, "id int, fold int, train_from int").repartition(2)

    assert members(frame, Folds(2, "fold")) == [([0, 3, 4], [1, 2]), ([0, 1, 2, 4], [3])]
    assert members(frame, Folds(2, "fold", "earlier")) == [([0, 4], [1, 2]), ([0, 1, 2, 4], [3])]
    assert members(frame, Folds(2, "fold", "earlier", "train_from")) == [([0], [1, 2]), ([0, 1, 4], [3])]


WRONG = [
    ([(0, None), (1, None), (7, None)], "others", "Fold number must be in range [0, 2), or -1 for a row that no fold validates, but got 7 in column 'fold'."),
    ([(0, None), (1, None), (None, None)], "others", "Fold number must be in range [0, 2), or -1 for a row that no fold validates, but got null in column 'fold'."),
    ([(0, None), (0, None)], "others", "The training data at fold 0 is empty: use fewer folds, or data that fills them.\nThe validation data at fold 1 is empty: use fewer folds, or data that fills them."),
    ([(-1, 0), (0, 0), (1, None)], "earlier", "Column 'train_from' lets rows train the fold that they validate: it must be greater than 'fold'."),
    ([(-1, 1), (0, None), (1, None)], "earlier", "The training data at fold 0 is empty: use fewer folds, or data that fills them."),
    ([(-1, 0), (0, -1), (1, None)], "earlier", "Column 'train_from' lets rows train the fold that they validate: it must be greater than 'fold'."),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "scheme", "message"), WRONG)
def test_columns_that_are_no_folds_are_refused(
    spark: SparkSession, rows: list[tuple[int | None, int | None]], scheme: str, message: str
) -> None:
    """By one aggregate, before anything is fitted."""
    with pytest.raises(ModelError) as caught:
        Folds(2, "fold", scheme, "train_from" if scheme == "earlier" else None).check(cells(spark, *rows))  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("estimator", "evaluator", "rows", "scheme", "message"),
    [
        *((LinearRegression, RegressionEvaluator, *case) for case in WRONG),
        *((LogisticRegression, BinaryClassificationEvaluator, *case) for case in (WRONG[0], WRONG[3])),
        (GeneralizedLinearRegression, RegressionEvaluator, *WRONG[3]),
        (lambda: Pipeline(stages=[StandardScaler(inputCol="features", outputCol="scaled"), LinearRegression()]), RegressionEvaluator, *WRONG[0]),
    ],
)  # fmt: skip
def test_every_path_of_a_search_refuses_them(
    spark: SparkSession,
    estimator: Any,
    evaluator: Any,
    rows: list[tuple[int | None, int | None]],
    scheme: str,
    message: str,
) -> None:
    """Also those that find out from their own sums over the rows; 2^40 is more than an int."""
    frame = cells(spark, *[(2**40 if fold == 7 else fold, first) for fold, first in rows * 4])
    frame = frame.selectExpr("*", "CAST(id % 2 AS DOUBLE) AS label", "ARRAY(CAST(id AS DOUBLE), id % 3) AS numbers")
    frame = frame.select("fold", "train_from", "label", array_to_vector("numbers").alias("features"))
    search = CrossValidator(
        estimator=estimator(),
        estimatorParamMaps=[{}],
        evaluator=evaluator(),
        numFolds=2,
        foldCol="fold",
        foldScheme=scheme,
    )
    if scheme == "earlier":
        search = search.copy({search.trainFromCol: "train_from"})
    with pytest.raises(ModelError) as caught:
        search.fit(frame)
    assert str(caught.value) == message.replace("got 7", f"got {2**40}")


def test_a_fold_column_of_another_type_is_refused(spark: SparkSession) -> None:
    """Text would compare as text."""
    with pytest.raises(ModelError, match="Column 'fold' is string; expected whole fold numbers: cast it to int"):
        Folds(2, "fold").check(cells(spark, (0, None)).selectExpr("CAST(fold AS STRING) AS fold"))


def hashed(frame: DataFrame, *, count: int = 3, seed: int = 1, key: str = "") -> list[tuple[int, int]]:
    """(id, fold) in order; rows with one id are equal, so that only how many of them fall in each fold matters."""
    rows = with_hash_folds(frame, count=count, seed=seed, key=key, column="fold").select("id", "fold").collect()
    return sorted((row["id"], row["fold"]) for row in rows)


def test_content_folds_depend_on_content_alone(spark: SparkSession) -> None:
    """One, two and seven partitions, other row order, dense or sparse vectors: the same folds; another seed: others."""
    dense = [(i, {"a": i, "b": 1}, Vectors.dense([0.0, float(i), 0.0]), Vectors.dense([i + 0.5])) for i in range(60)]
    sparse = [
        (i, {"b": 1, "a": i}, Vectors.sparse(3, {1: float(i)} if i else {}), Vectors.sparse(1, {0: i + 0.5}))
        for i in range(60)
    ]
    schema = ["id", "map", "vector", "full"]
    expected = hashed(spark.createDataFrame(dense, schema).repartition(1))

    for partitions in (2, 7):
        random.Random(partitions).shuffle(sparse)
        assert hashed(spark.createDataFrame(sparse, schema).repartition(partitions)) == expected
    assert hashed(spark.createDataFrame(dense, schema), seed=2) != expected


def test_equal_rows_spread_over_the_folds(spark: SparkSession) -> None:
    """Four different rows, ten of each: no fold is empty, and the partitioning does not matter."""
    frame = spark.createDataFrame([(i % 4,) for i in range(40)], ["id"])
    found = hashed(frame.repartition(2))

    assert {fold for _, fold in found} == {0, 1, 2}
    assert found == hashed(frame.repartition(5))


def test_equal_rows_share_a_fold_where_most_rows_are_distinct(spark: SparkSession) -> None:
    """Twice a hundred rows: no sort is needed to fill every fold."""
    found = hashed(spark.createDataFrame([(i % 100,) for i in range(200)], ["id"]).repartition(2))

    assert [fold for _, fold in found[::2]] == [fold for _, fold in found[1::2]]
    assert {fold for _, fold in found} == {0, 1, 2}


def test_rows_of_one_key_share_a_fold(spark: SparkSession) -> None:
    """Grouped folds: about a third of the keys each."""
    frame = spark.createDataFrame([(i // 3, i) for i in range(900)], ["id", "value"]).repartition(3)
    found = hashed(frame, key="id")

    assert len(set(found)) == 300
    sizes = [sum(fold == k for _, fold in set(found)) for k in range(3)]
    assert all(80 < size < 120 for size in sizes)


def test_the_canonical_order_is_decided_by_keys_and_number(spark: SparkSession) -> None:
    """The same rows in the same order of the same partitions, however they came."""
    frame = spark.range(500).selectExpr("id % 50 AS a", "CAST(id AS STRING) AS b")
    rows = ROWS_PER_PARTITION + 1
    first, second = (canonical(f, ("a", "b"), rows) for f in (frame.repartition(1), frame.repartition(6).orderBy("b")))

    assert first.rdd.getNumPartitions() == 2
    assert first.rdd.glom().collect() == second.rdd.glom().collect()
