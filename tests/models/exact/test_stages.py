"""Pipelines whose feature stages all folds share, against stock cross-validation; and those that go another way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import (
    Bucketizer,
    Imputer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    SQLTransformer,
    StandardScaler,
    StringIndexer,
    VectorAssembler,
)
from pyspark.ml.regression import LinearRegression
from pyspark.ml.tuning import CrossValidator as StockCrossValidator
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession

from models import any_estimator, exact_estimator
from models.exact.driver.raw_design import NoRecipe
from models.exact.driver.stages import Recipe
from models.folds import Folds
from models.tuning import CrossValidator
from tests.models.exact.against_stock import FOLDS, both
from transforms.errors import ModelError


@pytest.fixture(scope="module")
def people(spark: SparkSession) -> DataFrame:
    """240 rows: numbers and texts with nulls, one NaN, ties among levels, and a level that one fold alone has."""
    rng = np.random.default_rng(5)
    rows = []
    for i in range(240):
        a, b, c, d = (float(v) for v in rng.normal(size=4))
        color = ["red", "blue", "green", "grey"][int(rng.integers(4))]
        margin = a - b + 0.5 * (color == "red") + 0.3 * d
        rows.append(
            (
                None if i % 5 == 0 else a,
                float("nan") if i % 7 == 0 else 3 * b + 10,
                c,
                d,
                None if i % 11 == 0 else ("rare" if i in (10, 20) else color),
                ["x", "y", "z"][i % 3],
                margin + float(rng.normal()),
                float(margin + rng.logistic() > 0),
                float(rng.uniform(0.5, 2)),
                i % FOLDS,
            )
        )
    names = "a double, b double, c double, d double, color string, kind string, value double, flag double, weight double, fold int"
    frame = spark.createDataFrame(rows, names).repartition(2).cache()
    frame.count()
    return frame


def pipeline(last: Any) -> tuple[Pipeline, dict[str, Any]]:
    """Every kind of stage, and the stages by name."""
    stages = {
        "imputer": Imputer(inputCols=["a", "b"], outputCols=["a_", "b_"]),
        "buckets": Bucketizer(inputCol="c", outputCol="bucket", splits=[-10.0, -0.5, 0.5, 10.0]),
        "indexer": StringIndexer(inputCols=["color", "kind"], outputCols=["color_", "kind_"], handleInvalid="keep"),
        "encoder": OneHotEncoder(inputCols=["color_"], outputCols=["colors"]),
        "ranged": VectorAssembler(inputCols=["c", "d"], outputCol="c_d"),
        "scaler": MinMaxScaler(inputCol="c_d", outputCol="c_d_scaled", min=-1.0),
        "all": VectorAssembler(inputCols=["a_", "b_", "bucket", "kind_", "colors", "c_d_scaled"], outputCol="raw"),
        "standard": StandardScaler(inputCol="raw", outputCol="features"),
        "last": last,
    }
    return Pipeline(stages=list(stages.values())), stages


def assert_same(ours: Any, theirs: Any, frame: DataFrame, column: str) -> None:
    np.testing.assert_allclose(ours.avgMetrics, theirs.avgMetrics, rtol=1e-6)
    assert [type(stage) for stage in ours.bestModel.stages] == [type(stage) for stage in theirs.bestModel.stages]
    mine, other = (
        [row[0] for row in model.bestModel.transform(frame.orderBy("value")).select(column).collect()]
        for model in (ours, theirs)
    )
    np.testing.assert_allclose(np.array(mine), np.array(other), rtol=1e-6, atol=1e-6)


def test_logistic_regression_after_every_kind_of_stage(people: DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    """The grid is over the stages too: imputation, encoding, centring; one search answers it all."""
    caplog.set_level(logging.INFO, "models")
    estimator, stages = pipeline(LogisticRegression(labelCol="flag", weightCol="weight", regParam=0.01))
    grid = (
        ParamGridBuilder()
        .addGrid(stages["imputer"].strategy, ["mean", "median"])
        .addGrid(stages["standard"].withMean, [False, True])
        .addGrid(stages["encoder"].dropLast, [False, True])
        .build()
    )
    evaluator = BinaryClassificationEvaluator(labelCol="flag", weightCol="weight", numBins=0)
    ours, theirs = both(people, estimator, grid, evaluator)
    assert_same(ours, theirs, people, "probability")
    assert "once a fold" not in caplog.text


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_linear_regression_after_every_kind_of_stage(people: DataFrame, metric: str) -> None:
    """Levels in another order, and weights that scalers do not know."""
    estimator, stages = pipeline(LinearRegression(labelCol="value", weightCol="weight"))
    grid = (
        ParamGridBuilder()
        .addGrid(stages["indexer"].stringOrderType, ["frequencyAsc", "alphabetDesc"])
        .addGrid(stages["standard"].withStd, [False, True])
        .addGrid(stages["last"].regParam, [0.0, 0.1])
        .build()
    )
    evaluator = RegressionEvaluator(labelCol="value", weightCol="weight", metricName=metric)
    ours, theirs = both(people, estimator, grid, evaluator)
    assert_same(ours, theirs, people, "prediction")


def test_vectors_of_the_frame_are_scaled_in_each_fold(people: DataFrame) -> None:
    """Assembled before the search, as many do."""
    frame = VectorAssembler(inputCols=["c", "d"], outputCol="vector").transform(people)
    scaler = MaxAbsScaler(inputCol="vector", outputCol="features")
    estimator = Pipeline(stages=[scaler, LogisticRegression(labelCol="flag", regParam=0.1, standardization=False)])
    evaluator = BinaryClassificationEvaluator(labelCol="flag", numBins=0)
    ours, theirs = both(frame, estimator, [{}], evaluator)
    assert_same(ours, theirs, frame, "probability")


@pytest.mark.parametrize("kind", ["linear", "logistic"])
def test_assembled_numbers_are_read_as_they_are(people: DataFrame, kind: str) -> None:
    """A transformer makes one of the numbers; no vector is made but for the models, and sub-models are whole pipelines."""
    doubled = SQLTransformer(statement="SELECT *, 2 * c AS `twice c` FROM __THIS__")
    assembler = VectorAssembler(inputCols=["twice c", "d"], outputCol="features")
    linear = LinearRegression(labelCol="value", regParam=0.1, weightCol="weight")
    logistic = LogisticRegression(labelCol="flag", regParam=0.1)
    last: Any = {"linear": linear, "logistic": logistic}[kind]
    evaluator: Any = {
        "linear": RegressionEvaluator(labelCol="value", weightCol="weight"),
        "logistic": BinaryClassificationEvaluator(labelCol="flag", numBins=0),
    }[kind]
    estimator = Pipeline(stages=[doubled, assembler, last])
    grid = ParamGridBuilder().addGrid(last.elasticNetParam, [0.0, 0.5]).build()

    ours, theirs = both(people, estimator, grid, evaluator)

    assert_same(ours, theirs, people, {"linear": "prediction", "logistic": "probability"}[kind])
    assert ours.bestModel.stages[-1].hasSummary
    searched = exact_estimator._Group(
        [any_estimator.route(estimator, 0, {})], Folds(FOLDS, "fold"), evaluator, 1, False, None, None
    ).numbers(people)
    assert searched is not None
    assert searched[1].raw is not None
    assert searched[1].raw.numbers == ("twice c", "d")


def test_models_of_folds_are_whole_pipelines(people: DataFrame) -> None:
    """With `collectSubModels`, each with the stages of its fold."""
    estimator, stages = pipeline(LogisticRegression(labelCol="flag", regParam=0.1))
    grid = ParamGridBuilder().addGrid(stages["standard"].withMean, [False, True]).build()
    shared: dict[str, Any] = {
        "estimator": estimator, "estimatorParamMaps": grid, "numFolds": FOLDS, "foldCol": "fold", "collectSubModels": True,
        "evaluator": BinaryClassificationEvaluator(labelCol="flag", numBins=0),
    }  # fmt: skip
    tight = estimator.copy()
    tight.getStages()[-1]._set(tol=1e-12, maxIter=300)
    ours, theirs = (
        CrossValidator(**shared).fit(people),
        StockCrossValidator(**{**shared, "estimator": tight}).fit(people),
    )
    for fold in range(FOLDS):
        for mine, other in zip(ours.subModels[fold], theirs.subModels[fold], strict=True):
            probabilities = [
                np.array([row[0] for row in model.transform(people.orderBy("value")).select("probability").collect()])
                for model in (mine, other)
            ]
            np.testing.assert_allclose(*probabilities, atol=1e-6)


def test_levels_that_are_all_known(people: DataFrame) -> None:
    """The default `handleInvalid="error"`: no level for unknown values, and encoders drop the rarest one."""
    encoder = OneHotEncoder(inputCol="index", outputCol="kinds")
    stages = [
        StringIndexer(inputCol="kind", outputCol="index"),
        encoder,
        VectorAssembler(inputCols=["kinds", "c", "index"], outputCol="features"),
        LogisticRegression(labelCol="flag", regParam=0.1),
    ]
    grid = ParamGridBuilder().addGrid(encoder.dropLast, [False, True]).build()
    evaluator = BinaryClassificationEvaluator(labelCol="flag", numBins=0)
    ours, theirs = both(people, Pipeline(stages=stages), grid, evaluator)
    assert_same(ours, theirs, people, "probability")


def test_a_level_that_only_validation_rows_have_is_an_error(people: DataFrame) -> None:
    """Stock fails as well, in the middle of a job."""
    stages = [
        StringIndexer(inputCol="color", outputCol="index", handleInvalid="error"),
        OneHotEncoder(inputCol="index", outputCol="features"),
        LogisticRegression(labelCol="flag"),
    ]
    validator = CrossValidator(
        estimator=Pipeline(stages=stages), estimatorParamMaps=[{}], numFolds=FOLDS, foldCol="fold",
        evaluator=BinaryClassificationEvaluator(labelCol="flag"),
    )  # fmt: skip
    with pytest.raises(ModelError) as caught:
        validator.fit(people.filter("color IS NOT NULL"))
    assert str(caught.value) == (
        "StringIndexer: column 'color' has 'rare' in the validation rows of a fold and not in its training rows, and handleInvalid"
        " is 'error'; set it to 'keep', or use fewer folds."
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: [StringIndexer(inputCol="color", outputCol="o", handleInvalid="skip")], "StringIndexer skips rows"),
        (lambda: [Imputer(inputCol="a", outputCol="o", missingValue=-1.0)], "Imputer has a missingValue of its own"),
        (
            lambda: [OneHotEncoder(inputCol="c", outputCol="o")],
            "OneHotEncoder reads a column that no StringIndexer makes",
        ),
        (lambda: [VectorAssembler(inputCols=["nowhere"], outputCol="o")], "column 'nowhere' is absent"),
        (
            lambda: [Bucketizer(inputCol="c", outputCol="o")],
            "Bucketizer is no map of the columns that folds could share",
        ),
        (lambda: [Imputer(inputCol="a", outputCol="o")], "no stage that is fitted leads to 'o'"),
        (
            lambda: [
                Imputer(inputCol="a", outputCol="i"),
                VectorAssembler(inputCols=["i"], outputCol="v"),
                MinMaxScaler(inputCol="v", outputCol="o"),
            ],
            "MinMaxScaler needs the range of imputed or indexed columns",
        ),
    ],
)
def test_stages_without_a_recipe(people: DataFrame, make: Callable[[], list[Any]], reason: str) -> None:
    with pytest.raises(NoRecipe) as caught:
        Recipe.of(make(), "o", people.schema)
    assert str(caught.value) == reason
