"""Statistics of rows: a fit from those of old and new rows is the fit of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.ml.linalg import Vectors
from pyspark.ml.regression import LinearRegression
from pyspark.ml.tuning import CrossValidator as StockCrossValidator
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from models.tuning import CrossValidator, Statistics
from transforms.errors import ConfigError, ModelError

FOLDED: dict[str, Any] = {"numFolds": 2, "foldCol": "fold"}


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 4))
    y = x @ [1.0, 0.0, -2.0, 0.5] + rng.normal(size=300)
    records = [
        (Vectors.dense(values), float(label), float(rng.integers(1, 4)), int(rng.integers(0, 2)), i)
        for i, (values, label) in enumerate(zip(x, y, strict=True))
    ]
    return spark.createDataFrame(records, ["x", "y", "w", "fold", "id"]).repartition(2).cache()


def linear(**changes: Any) -> LinearRegression:
    return LinearRegression(**{"featuresCol": "x", "labelCol": "y", "weightCol": "w", "tol": 1e-12, **changes})


def validator(estimator: Any = None, metric: str = "rmse", **folds: Any) -> CrossValidator:
    estimator = estimator or linear()
    last = estimator.getStages()[-1] if isinstance(estimator, Pipeline) else estimator
    grid = ParamGridBuilder().addGrid(last.regParam, [0.01, 0.1]).addGrid(last.elasticNetParam, [0.0, 0.5]).build()
    evaluator = RegressionEvaluator(labelCol="y", weightCol="w", metricName=metric)  # type: ignore[arg-type]
    return CrossValidator(estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, **(folds or FOLDED))


def test_old_and_new_rows_together_are_stock_cross_validation_of_all(rows: DataFrame, tmp_path: Path) -> None:
    """The old ones kept in a file, and the new ones in one fold alone."""
    ours = validator()
    new = (F.col("id") >= 280) & (F.col("fold") == 1)
    ours.statistics(rows.filter(~new)).save(str(tmp_path / "seen"))

    seen = Statistics.load(str(tmp_path / "seen")) + ours.statistics(rows.filter(new))
    found = ours.fitStatistics(seen)

    expected = StockCrossValidator(
        estimator=ours.getEstimator(),
        estimatorParamMaps=ours.getEstimatorParamMaps(),
        evaluator=ours.getEvaluator(),
        **FOLDED,
    ).fit(rows)
    assert seen.rows == 300
    np.testing.assert_allclose(found.avgMetrics, expected.avgMetrics, rtol=1e-6)
    np.testing.assert_allclose(found.stdMetrics, expected.stdMetrics, rtol=1e-5)
    best: Any = found.bestModel
    stock_best: Any = expected.bestModel
    np.testing.assert_allclose(best.coefficients.toArray(), stock_best.coefficients.toArray(), rtol=1e-6)
    assert best.intercept == pytest.approx(stock_best.intercept, rel=1e-6)
    assert best.getRegParam() == stock_best.getRegParam()
    assert not best.hasSummary


def test_folds_by_key_and_an_assembler_before(rows: DataFrame) -> None:
    """Hashes of keys stay with their rows, whatever rows there are; transformers learn nothing."""
    wide = rows.select(
        F.col("y"), F.col("w"), F.col("id"), F.lit(1.5).alias("one"), (F.col("y") * F.col("id") / 100).alias("two")
    )
    pipeline = Pipeline(stages=[VectorAssembler(inputCols=["one", "two"], outputCol="x"), linear()])
    ours = validator(pipeline, numFolds=3, keyCol="id", seed=7)

    parts = [ours.statistics(wide.filter(F.col("id") % 3 == part)) for part in range(3)]
    found = ours.fitStatistics(parts[0] + parts[1] + parts[2])

    expected = ours.fit(wide)
    np.testing.assert_allclose(found.avgMetrics, expected.avgMetrics, rtol=1e-9)
    predictions = [
        np.array([row[0] for row in model.transform(wide).orderBy("id").select("prediction").collect()])
        for model in (found, expected)
    ]
    np.testing.assert_allclose(*predictions, rtol=1e-9)


def test_statistics_of_other_folds_or_columns_are_refused(rows: DataFrame) -> None:
    ours = validator()
    seen = ours.statistics(rows)
    other = validator(linear(featuresCol="z"), numFolds=3, foldCol="fold")
    told = "expected the same columns, feature stages and folds."
    with pytest.raises(ModelError) as error:
        other.fitStatistics(seen)
    assert error.value.problems == (
        f"Statistics of rows differ in featuresCol: 'x' and 'z'; {told}",
        f"Statistics of rows differ in numFolds: 2 and 3; {told}",
    )


def test_searches_that_need_the_rows_are_refused(rows: DataFrame) -> None:
    scaled = Pipeline(stages=[StandardScaler(inputCol="x", outputCol="z"), linear()])
    logistic = LogisticRegression(featuresCol="x", labelCol="y")
    grid = ParamGridBuilder().addGrid(logistic.regParam, [0.1]).build()
    classifier = CrossValidator(
        estimator=logistic, estimatorParamMaps=grid, evaluator=BinaryClassificationEvaluator(labelCol="y"), **FOLDED
    )
    for search, reason in (
        (validator(scaled), "feature stages learn from all rows"),
        (classifier, "only linear regression is determined by sums over rows"),
    ):
        with pytest.raises(ModelError) as refused:
            search.statistics(rows)
        assert refused.value.problems == (f"Statistics of rows do not do for this search: {reason}. Fit all rows.",)
    absolute = validator(metric="mae")
    with pytest.raises(ModelError, match="mae needs the errors of single rows"):
        absolute.statistics(rows)
    assembler = VectorAssembler(outputCol="z")
    over_stages = validator(Pipeline(stages=[assembler, linear(featuresCol="z")]))
    over_stages.setEstimatorParamMaps(
        ParamGridBuilder().addGrid(assembler.inputCols, [["w", "id"], ["id", "w"]]).build()
    )
    with pytest.raises(ModelError, match="the grid is over feature stages or columns"):
        over_stages.statistics(rows)
    with pytest.raises(ModelError, match="There are no rows"):
        validator().statistics(rows.filter("id < 0"))
    with pytest.raises(ConfigError, match="need foldCol or keyCol"):
        validator(numFolds=3).statistics(rows)


def test_features_are_the_same_by_name(rows: DataFrame) -> None:
    """Assembled in another order they are others; uids, which each process makes anew, do not matter."""

    def of(*names: str) -> Statistics:
        assembler = VectorAssembler(inputCols=list(names))
        stages = [assembler, linear(featuresCol=assembler.getOutputCol())]
        return validator(Pipeline(stages=stages), numFolds=2, keyCol="id", seed=1).statistics(rows)

    assert (of("w", "id") + of("w", "id")).rows == 600
    with pytest.raises(ModelError) as error:
        of("w", "id") + of("id", "w")
    assert [problem.partition(":")[0] for problem in error.value.problems] == [
        "Statistics of rows differ in features",
        "Statistics of rows differ in stages",
    ]


def test_a_metric_that_is_not_finite_does_not_win(rows: DataFrame) -> None:
    one_a_fold = rows.filter("id < 40").withColumn("fold", F.when(F.col("id") == 0, 1).otherwise(0))
    ours = validator(metric="r2")
    with pytest.raises(ModelError, match="expected a finite number"):
        ours.fitStatistics(ours.statistics(one_a_fold))


def test_a_fold_without_rows_is_told_when_it_is_fitted(rows: DataFrame) -> None:
    ours = validator()
    with pytest.raises(ModelError, match="no row of this part of the fold has a positive weight"):
        ours.fitStatistics(ours.statistics(rows.filter("fold = 0")))
    with pytest.raises(ModelError, match="must be in range"):
        ours.statistics(rows.withColumn("fold", F.lit(7)))
