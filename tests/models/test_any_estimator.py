"""The general path: which stages are shared, which columns are kept, and one grid point fitted as a Pipeline would be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from pyspark.errors import PySparkException
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import Binarizer, MinMaxScaler, SQLTransformer, StandardScaler, VectorAssembler
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from models import any_estimator
from models.folds import Folds
from models.trials import describe_error
from models.tuning import CrossValidator
from transforms.errors import ModelError

COUNTED: Counter[tuple[str, str]] = Counter()
SEEN: list[list[str]] = []


class CountedScaler(StandardScaler):
    """Counts its fits by parameter."""

    def _fit(self, dataset: DataFrame) -> Any:
        COUNTED["scaler", str(self.getWithMean())] += 1
        return super()._fit(dataset)


class CountedRange(MinMaxScaler):
    """Counts its fits by parameter."""

    def _fit(self, dataset: DataFrame) -> Any:
        COUNTED["range", str(self.getMax())] += 1
        return super()._fit(dataset)


class WatchedLogistic(LogisticRegression):
    """Remembers the columns that it was given. Being none of MLlib's own classes, it might read any."""

    def _fit(self, dataset: DataFrame) -> Any:
        SEEN.append(dataset.columns)
        return super()._fit(dataset)


@pytest.fixture(autouse=True)
def _count_from_zero() -> None:
    COUNTED.clear()
    SEEN.clear()


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    random = np.random.default_rng(5)
    values = [(i, *map(float, random.normal(size=2)), float(i % 2), i % 2 if i < 40 else 1 - i % 2) for i in range(80)]
    return spark.createDataFrame(values, ["key", "a", "b", "label", "fold"]).repartition(2).cache()


def assembler() -> VectorAssembler:
    return VectorAssembler(inputCols=["a", "b"], outputCol="raw")


def run(estimator: Any, grid: list[Any], rows: DataFrame, **given: Any) -> list[any_estimator.Fit]:
    routes = [any_estimator.route(estimator, point, extra) for point, extra in enumerate(grid)]
    return list(any_estimator.fits(rows, Folds(2, "fold"), routes, BinaryClassificationEvaluator(numBins=0), **given))  # type: ignore[arg-type]


def test_grids_over_feature_stages_share_what_they_have_in_common(rows: DataFrame) -> None:
    """Scaler x range x estimator, 2 x 2 x 2 points: per fold the scaler is fitted twice, the range scaler four times."""
    scaler, span = (
        CountedScaler(inputCol="raw", outputCol="scaled"),
        CountedRange(inputCol="scaled", outputCol="features"),
    )
    last = LogisticRegression(maxIter=2)
    pipeline = Pipeline(stages=[assembler(), scaler, span, last])
    grid = (
        ParamGridBuilder()
        .addGrid(scaler.withMean, [False, True])
        .addGrid(span.max, [1.0, 2.0])
        .addGrid(last.regParam, [0.1, 0.2])
        .build()
    )

    found = run(pipeline, grid, rows, parallelism=2)

    assert COUNTED == {("scaler", "False"): 2, ("scaler", "True"): 2, ("range", "1.0"): 4, ("range", "2.0"): 4}
    assert sorted((fit.fold, fit.point) for fit in found) == [(fold, point) for fold in range(2) for point in range(8)]
    assert all(fit.error is None for fit in found)


def test_columns_are_cut_down_only_for_known_readers(rows: DataFrame) -> None:
    """MLlib's own estimator and evaluator get what they name; another estimator all columns."""
    scaler = StandardScaler(inputCol="raw", outputCol="features")
    run(Pipeline(stages=[assembler(), scaler, WatchedLogistic(maxIter=1)]), [{}], rows)
    way = any_estimator.route(Pipeline(stages=[assembler(), scaler, LogisticRegression()]), 0, {})
    wide = rows.selectExpr("*", "a AS features")

    assert SEEN == [["key", "a", "b", "label", "fold", "raw", "features"]] * 2
    assert any_estimator._pruned(wide, way, BinaryClassificationEvaluator()).columns == ["label", "features"]


def test_stages_after_the_last_estimator_are_applied(rows: DataFrame) -> None:
    """A transformer behind the estimator is part of the model and of what is evaluated."""
    tail = SQLTransformer(statement="SELECT *, prediction + 1 AS shifted FROM __THIS__")
    pipeline = Pipeline(stages=[assembler(), LogisticRegression(featuresCol="raw", maxIter=2), tail])

    found = run(pipeline, [{}], rows, keep_models=True)

    shifted = found[0].model().transform(rows).select("prediction", "shifted").collect()  # type: ignore[union-attr]
    assert all(row["shifted"] == row["prediction"] + 1 for row in shifted)


def test_a_failing_feature_stage_fails_its_points_only(rows: DataFrame) -> None:
    """A scaler with an impossible range: its points hold the error, the others go on."""
    span = MinMaxScaler(inputCol="raw", outputCol="features")
    pipeline = Pipeline(stages=[assembler(), span, LogisticRegression(maxIter=2)])

    found = run(pipeline, [{span.max: 2.0}, {span.max: -1.0}], rows)

    assert {(fit.point, fit.fold): fit.error is None for fit in found} == {
        (0, 0): True,
        (0, 1): True,
        (1, 0): False,
        (1, 1): False,
    }


def test_pairs_to_skip_are_not_fitted(rows: DataFrame) -> None:
    """A fold without any pair left is not touched at all."""
    estimator = WatchedLogistic(featuresCol="raw", maxIter=1)
    assembled = assembler().transform(rows)

    found = run(
        estimator, [{estimator.regParam: 0.1}, {estimator.regParam: 0.2}], assembled, skip={(0, 0), (1, 0), (1, 1)}
    )

    assert [(fit.point, fit.fold) for fit in found] == [(0, 1)]
    assert len(SEEN) == 1


@pytest.mark.parametrize("with_estimator", [True, False])
def test_one_point_is_fitted_as_its_pipeline_would_be(rows: DataFrame, with_estimator: bool) -> None:
    """The same predictions as `Pipeline.fit` with the grid point's parameters; a Pipeline of transformers alone works too."""
    last = LogisticRegression(featuresCol="scaled", maxIter=3)
    final = [last] if with_estimator else [Binarizer(inputCol="a", outputCol="prediction")]
    scaler = StandardScaler(inputCol="raw", outputCol="scaled")
    pipeline = Pipeline(stages=[assembler(), scaler, *final])
    extra = {scaler.withMean: True, last.regParam: 0.3}

    ours, theirs = any_estimator.fit_whole(any_estimator.route(pipeline, 0, extra), rows), pipeline.fit(rows, extra)

    found, expected = (
        model.transform(rows).select("key", "prediction").orderBy("key").collect() for model in (ours, theirs)
    )
    assert found == expected
    assert [type(stage) for stage in ours.stages] == [type(stage) for stage in theirs.stages]


def test_a_pipeline_without_an_estimator_is_only_measured(rows: DataFrame) -> None:
    """As stock does, with nothing to fit."""
    own = Pipeline(stages=[SQLTransformer(statement="SELECT *, a AS rawPrediction FROM __THIS__")])
    judge = BinaryClassificationEvaluator(numBins=0)
    validator = CrossValidator(estimator=own, estimatorParamMaps=[{}], evaluator=judge, numFolds=2, foldCol="fold")
    whole = rows.withColumn("rawPrediction", F.col("a"))
    folds = [judge.evaluate(whole.where(f"fold = {fold}")) for fold in range(2)]
    assert validator.fit(rows).avgMetrics == pytest.approx([np.mean(folds)], abs=1e-12)


def test_what_a_worker_raised_is_told_without_its_traceback(spark: SparkSession) -> None:
    """The class and the first line; the driver's own errors as they are."""

    def fails(batches: Any) -> Any:
        raise ModelError("the rows: expected none, found some.\nStack trace:\n  [bt] more of it")
        yield from batches

    with pytest.raises(PySparkException) as caught:
        spark.range(1).mapInArrow(fails, "id long").collect()
    assert describe_error(caught.value) == "ModelError: the rows: expected none, found some."
    assert describe_error(ValueError("one\ntwo")) == "ValueError: one"
