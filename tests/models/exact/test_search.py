"""Exact cross-validation against stock: stock MLlib run to a tolerance of 1e-12 on the same folds gives the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.errors import UnsupportedOperationException
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    Evaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.feature import Imputer, OneHotEncoder, StandardScaler, StringIndexer, VectorAssembler
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import Vectors
from pyspark.ml.regression import LinearRegression
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession

from models.exact.driver import choice
from models.folds import Folds
from models.tuning import CrossValidator, Search, fit, tune
from tests.models.exact.against_stock import FOLDS, both
from transforms.errors import ModelError

SETTINGS = settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # an example takes seconds: failing ones are shown as they are
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def rows(spark: SparkSession, *, seed: int, count: int, width: int, classes: int = 2, odd: bool = False) -> DataFrame:
    """Random rows. `odd`: a collinear column, a sparse vector in every third row, and folds of unequal size; a column of zeros too.

    (Of another constant MLlib's running variance is seldom exactly 0, and its coefficient then is rounding.)
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width)) * (1 + np.arange(width)) + rng.normal(size=width)
    if odd:
        x[:, 0] = 0.0
        x[:, -1] = x[:, 1] - x[:, 2]
    margins = x @ rng.normal(size=(width, classes)) / width
    kind = np.argmax(margins + rng.gumbel(size=margins.shape), axis=1)
    kind[: 2 * classes * FOLDS] = np.tile(np.repeat(np.arange(classes), FOLDS), 2)
    value = x @ rng.normal(size=width) + rng.normal(size=count)
    fold = np.arange(count) % FOLDS
    if odd:
        fold[4 * classes * FOLDS :] = rng.choice(FOLDS, size=count - 4 * classes * FOLDS, p=[0.8, 0.2])
    weight = rng.uniform(0.5, 2.0, size=count)

    def vector(i: int) -> Any:
        return Vectors.sparse(width, list(enumerate(x[i]))) if odd and i % 3 == 0 else Vectors.dense(x[i])

    made = [(vector(i), float(value[i]), float(kind[i]), float(weight[i]), int(fold[i])) for i in range(count)]
    return spark.createDataFrame(made, ["features", "value", "kind", "weight", "fold"]).repartition(2)


def solvers(frame: DataFrame, estimator: Any, grid: Sequence[Any], evaluator: Evaluator) -> set[str]:
    """Which solvers fit the points."""
    planned = CrossValidator(
        estimator=estimator, estimatorParamMaps=list(grid), evaluator=evaluator, foldCol="fold", numFolds=FOLDS
    ).plan(frame)
    return {fit.solver for fit in planned}


def weights(model: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Coefficients and intercepts of a linear or logistic model, or of the last stage of a pipeline's."""
    last = model.stages[-1] if hasattr(model, "stages") else model
    if hasattr(last, "coefficientMatrix"):
        return np.column_stack([last.coefficientMatrix.toArray(), last.interceptVector.toArray()])
    return np.append(last.coefficients.toArray(), last.intercept)


def assert_same(ours: Any, theirs: Any) -> None:
    assert np.allclose(ours.avgMetrics, theirs.avgMetrics, rtol=1e-6, atol=1e-6)
    assert np.allclose(ours.stdMetrics, theirs.stdMetrics, rtol=1e-6, atol=1e-6)
    mine, other = weights(ours.bestModel), weights(theirs.bestModel)
    assert np.max(np.abs(mine - other)) <= 1e-6 * max(1.0, np.max(np.abs(other)))


@SETTINGS
@given(st.data())
def test_linear_regression_is_stocks(spark: SparkSession, data: st.DataObject) -> None:
    """Any two values of every parameter of the penalty, every metric, with and without weights."""
    odd = data.draw(st.booleans())
    frame = rows(
        spark, seed=data.draw(st.integers(0, 1000)), count=data.draw(st.sampled_from([40, 120])), width=4, odd=odd
    )
    weight = data.draw(st.sampled_from([None, "weight"]))
    extra = {"weightCol": weight} if weight else {}
    estimator = LinearRegression(
        labelCol="value",
        solver=data.draw(st.sampled_from(["auto", "auto", "l-bfgs"])),
        standardization=data.draw(st.booleans()),
        **extra,
    )
    grid = (
        ParamGridBuilder()
        .addGrid(estimator.regParam, [data.draw(st.sampled_from([0.01, 0.1, 1.0]))])
        .addGrid(estimator.elasticNetParam, [0.0, data.draw(st.sampled_from([0.3, 1.0]))])
        .addGrid(estimator.fitIntercept, [True, False])
        .build()
    )
    metric = data.draw(st.sampled_from(["rmse", "mse", "r2", "mae", "var"]))
    evaluator = RegressionEvaluator(labelCol="value", metricName=metric, **extra)
    assert solvers(frame, estimator, grid, evaluator) == {choice.LINEAR}
    assert_same(*both(frame, estimator, grid, evaluator))


@SETTINGS
@given(st.data())
def test_binary_logistic_regression_is_stocks(spark: SparkSession, data: st.DataObject) -> None:
    """As above; areas are exact on both sides."""
    odd = data.draw(st.booleans())
    frame = rows(
        spark, seed=data.draw(st.integers(0, 1000)), count=data.draw(st.sampled_from([60, 150])), width=4, odd=odd
    )
    weight = data.draw(st.sampled_from([None, "weight"]))
    extra = {"weightCol": weight} if weight else {}
    estimator = LogisticRegression(labelCol="kind", standardization=data.draw(st.booleans()), **extra)
    penalties = st.tuples(st.sampled_from([0.02, 0.1, 0.5]), st.sampled_from([0.0, 0.2, 0.5]), st.booleans())
    grid = [
        {estimator.regParam: reg, estimator.elasticNetParam: net, estimator.fitIntercept: intercept}
        for reg, net, intercept in data.draw(st.lists(penalties, min_size=2, max_size=2))
    ]
    evaluator = data.draw(
        st.sampled_from(
            [
                BinaryClassificationEvaluator(labelCol="kind", numBins=0, **extra),
                BinaryClassificationEvaluator(labelCol="kind", numBins=0, metricName="areaUnderPR"),
                MulticlassClassificationEvaluator(labelCol="kind", metricName="logLoss", **extra),
                MulticlassClassificationEvaluator(labelCol="kind", metricName="f1"),
            ]
        )
    )
    assert solvers(frame, estimator, grid, evaluator) == {choice.LOGISTIC}
    assert_same(*both(frame, estimator, grid, evaluator))


@SETTINGS
@given(st.data())
def test_multinomial_logistic_regression_is_stocks(spark: SparkSession, data: st.DataObject) -> None:
    """Three to six classes. Ridge only: stock's solver for lasso stops at an error of 1e-6 itself; `test_softmax_regression` has that."""
    classes = data.draw(st.integers(3, 6))
    frame = rows(spark, seed=data.draw(st.integers(0, 1000)), count=150, width=3, classes=classes)
    estimator = LogisticRegression(labelCol="kind", standardization=data.draw(st.booleans()), weightCol="weight")
    grid = (
        ParamGridBuilder()
        .addGrid(estimator.regParam, [data.draw(st.sampled_from([0.02, 0.1, 0.5]))])
        .addGrid(estimator.fitIntercept, [True, False])
        .build()
    )
    metric = data.draw(st.sampled_from(["logLoss", "f1", "accuracy", "weightedRecall"]))
    evaluator = MulticlassClassificationEvaluator(labelCol="kind", metricName=metric, weightCol="weight")
    assert_same(*both(frame, estimator, grid, evaluator))


def test_stages_before_the_regression_are_fitted_in_each_fold(spark: SparkSession) -> None:
    """Nulls, texts and scales: a grid over a feature stage and over the penalty."""
    rng = np.random.default_rng(3)
    made = [
        (
            None if i % 7 == 0 else float(rng.normal()),
            float(rng.normal() * 9),
            "abcd"[i % 4],
            float(rng.random() < 0.4),
            i % 2,
        )
        for i in range(160)
    ]
    frame = spark.createDataFrame(made, "a double, b double, c string, label double, fold int").repartition(2)
    scaler = StandardScaler(inputCol="raw", outputCol="features")
    last = LogisticRegression()
    pipeline = Pipeline(
        stages=[
            Imputer(inputCols=["a"], outputCols=["a_full"]),
            StringIndexer(inputCol="c", outputCol="c_index", handleInvalid="keep"),
            OneHotEncoder(inputCols=["c_index"], outputCols=["c_hot"]),
            VectorAssembler(inputCols=["a_full", "b", "c_hot"], outputCol="raw"),
            scaler,
            last,
        ]
    )
    grid = ParamGridBuilder().addGrid(scaler.withMean, [False, True]).addGrid(last.regParam, [0.01, 0.2]).build()
    evaluator = MulticlassClassificationEvaluator(metricName="logLoss")
    assert solvers(frame, pipeline, grid, evaluator) == {choice.LOGISTIC}
    ours, theirs = both(frame, pipeline, grid, evaluator)
    assert_same(ours, theirs)
    assert [type(stage).__name__ for stage in ours.bestModel.stages] == [
        type(stage).__name__ for stage in theirs.bestModel.stages
    ]


@pytest.mark.parametrize("kind", ["linear", "logistic"])
def test_partitions_do_not_matter(spark: SparkSession, kind: str) -> None:
    """One, two and seven."""
    frame = rows(spark, seed=1, count=300, width=5)
    estimator: Any = LinearRegression(labelCol="value") if kind == "linear" else LogisticRegression(labelCol="kind")
    evaluator = (
        RegressionEvaluator(labelCol="value") if kind == "linear" else BinaryClassificationEvaluator(labelCol="kind")
    )
    grid = ParamGridBuilder().addGrid(estimator.regParam, [0.01, 0.3]).addGrid(estimator.elasticNetParam, [0.5]).build()
    found = [
        CrossValidator(
            estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, foldCol="fold", numFolds=FOLDS
        ).fit(frame.repartition(partitions))
        for partitions in (1, 2, 7)
    ]
    for other in found[1:]:
        assert np.allclose(other.avgMetrics, found[0].avgMetrics, rtol=0, atol=1e-8)
        assert np.allclose(weights(other.bestModel), weights(found[0].bestModel), rtol=1e-7, atol=1e-9)


def test_earlier_folds_train_on_the_past(spark: SparkSession) -> None:
    """Rows train from `start` on, validate in `fold`; each score is that of a model fitted by hand on exactly those rows."""
    frame = rows(spark, seed=2, count=240, width=3).selectExpr(
        "features", "kind", "CAST(pmod(hash(features), 4) AS INT) - 1 AS fold", "weight"
    )
    frame = frame.selectExpr(
        "*", "IF(weight < 0.8, NULL, CAST(fold + 1 + CAST(weight > 1.5 AS INT) AS INT)) AS start"
    ).cache()
    folds = Folds(3, "fold", "earlier", "start")
    estimator = LogisticRegression(labelCol="kind", regParam=0.05)
    evaluator = BinaryClassificationEvaluator(labelCol="kind", numBins=0)
    found = tune(Search(estimator, [{}], evaluator, folds), frame)
    by_hand = [
        evaluator.evaluate(
            estimator.copy({estimator.tol: 1e-12, estimator.maxIter: 1000})
            .fit(frame.filter(folds.trains(k)))
            .transform(frame.filter(folds.validates(k)))
        )
        for k in range(3)
    ]
    frame.unpersist()
    assert {trial.solver for trial in found.trials} == {choice.LOGISTIC}
    assert np.allclose(found.scores[0], by_hand, rtol=0, atol=1e-6)


def test_multinomial_models_of_two_classes_have_areas(spark: SparkSession) -> None:
    """A grid over the family; the evaluator takes the margin of the last class."""
    frame = rows(spark, seed=3, count=150, width=3)
    estimator = LogisticRegression(labelCol="kind", regParam=0.05)
    grid = ParamGridBuilder().addGrid(estimator.family, ["binomial", "multinomial"]).build()
    ours, theirs = both(frame, estimator, grid, BinaryClassificationEvaluator(labelCol="kind", numBins=0))
    assert ours.avgMetrics == pytest.approx(theirs.avgMetrics, abs=1e-6)


def test_an_unconverged_fit_keeps_its_meaning(spark: SparkSession) -> None:
    """Three iterations were asked for, and three are done; `exact` insists on the optimum."""
    frame = rows(spark, seed=4, count=100, width=3)
    estimator = LogisticRegression(labelCol="kind", maxIter=3)
    evaluator = BinaryClassificationEvaluator(labelCol="kind", numBins=0)
    validator = CrossValidator(
        estimator=estimator, estimatorParamMaps=[{}], evaluator=evaluator, foldCol="fold", numFolds=FOLDS
    )
    reason = "maxIter is 3, which asks for a fit that may not have converged; exact=True overrides"
    assert [(fit.solver, fit.reason) for fit in validator.plan(frame)] == [("general", reason)]
    assert weights(validator.fit(frame).bestModel) == pytest.approx(weights(estimator.fit(frame)), rel=1e-12)
    converged = estimator.copy({estimator.maxIter: 1000, estimator.tol: 1e-12}).fit(frame)
    assert weights(validator.setExact(True).fit(frame).bestModel) == pytest.approx(weights(converged), rel=1e-6)


@pytest.mark.parametrize(
    ("intercept", "standardization", "reg_param"), [(True, True, 0.0), (True, False, 0.3), (False, True, 0.3)]
)
def test_the_summary_of_a_linear_model_is_stocks(
    spark: SparkSession, intercept: bool, standardization: bool, reg_param: float
) -> None:
    """Standard errors, t and p values too, with a penalty on squares and without any."""
    frame = rows(spark, seed=6, count=90, width=4)
    estimator = LinearRegression(
        labelCol="value", weightCol="weight", regParam=reg_param, fitIntercept=intercept, standardization=standardization
    )  # fmt: skip
    ours: Any = fit(estimator, {}, frame)
    theirs = estimator.fit(frame)
    for name in ("coefficientStandardErrors", "tValues", "pValues", "objectiveHistory", "r2", "degreesOfFreedom"):
        found, expected = getattr(ours.summary, name), getattr(theirs.summary, name)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-12), name


@pytest.mark.parametrize("settings", [{"regParam": 0.1, "elasticNetParam": 0.5}, {"solver": "l-bfgs"}])
def test_a_summary_without_standard_errors_refuses_them_as_stocks_does(
    spark: SparkSession, settings: dict[str, Any]
) -> None:
    frame = rows(spark, seed=7, count=60, width=3)
    estimator = LinearRegression(labelCol="value", **settings)
    models: list[Any] = [fit(estimator, {}, frame), estimator.fit(frame)]
    for model in models:
        with pytest.raises(UnsupportedOperationException, match=r"No Std\. Error of coefficients available"):
            _ = model.summary.coefficientStandardErrors


def test_the_summary_of_a_logistic_model_ends_where_stocks_does(spark: SparkSession) -> None:
    """Of the way there we know the end."""
    frame = rows(spark, seed=8, count=90, width=4)
    estimator = LogisticRegression(labelCol="kind", regParam=0.1, elasticNetParam=0.5)
    ours: Any = fit(estimator, {}, frame)
    theirs = estimator.copy({estimator.tol: 1e-12}).fit(frame)
    assert ours.summary.objectiveHistory == pytest.approx(theirs.summary.objectiveHistory[-1:], rel=1e-6)
    assert ours.summary.areaUnderROC == pytest.approx(theirs.summary.areaUnderROC, rel=1e-9)


def test_a_fit_without_an_optimum_is_logged(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    """A plane separates the classes: the best of an endless climb is no optimum."""
    frame = spark.range(60).selectExpr("array(double(id)) AS x", "double(id >= 30) AS kind", "int(id % 2) AS fold")
    frame = frame.withColumn("features", array_to_vector("x")).repartition(2)
    estimator = LogisticRegression(labelCol="kind")
    CrossValidator(
        estimator=estimator,
        estimatorParamMaps=[{estimator.regParam: 0.1}, {estimator.regParam: 0.0}],
        evaluator=BinaryClassificationEvaluator(labelCol="kind", numBins=0),
        foldCol="fold",
        numFolds=2,
    ).fit(frame)
    cause = "a plane separates the classes: without a penalty the likelihood has no maximum; set regParam above 0."
    assert [record.getMessage() for record in caplog.records if "converged" in record.getMessage()] == [
        f"Grid point 1 on fold {fold} has not converged: {cause}" for fold in (0, 1)
    ]


def test_more_features_than_moments_are_kept_of_go_the_general_path(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is the same."""
    frame = rows(spark, seed=5, count=80, width=4)
    estimator = LinearRegression(labelCol="value", regParam=0.1)
    validator = CrossValidator(
        estimator=estimator,
        estimatorParamMaps=[{}],
        evaluator=RegressionEvaluator(labelCol="value"),
        foldCol="fold",
        numFolds=FOLDS,
    )
    exact = validator.fit(frame).avgMetrics
    assert [(fit.solver, fit.passes) for fit in validator.plan(frame)] == [(choice.LINEAR, 1)]
    monkeypatch.setattr("models.exact_estimator.MOMENTS_BYTES", 100)
    reason = f"the moments of 4 features in {FOLDS + 1} cells of rows take more than 0 MiB"
    assert [(fit.solver, fit.reason, fit.passes) for fit in validator.plan(frame)] == [("general", reason, None)]
    assert validator.fit(frame).avgMetrics == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "transform(features, x -> IF(id = 7, double('NaN'), x))",
            r"^Feature 0 \(counted from 0\) is null or NaN in 1 rows of one partition; expected a number in each: impute or drop",
        ),
        ("features", r"^The training rows of a fold all have label 1; expected two classes at least: use fewer folds"),
    ],
)
def test_rows_that_give_no_model_are_refused(spark: SparkSession, change: str, message: str) -> None:
    """A missing feature; a fold whose training rows have one class. The sentence names the cure."""
    plain = spark.range(40).selectExpr(
        "id",
        "array(double(id), double(id * id % 7)) AS features",
        "double(id % 2 = 0 OR id % 3 = 0) AS kind",
        "int(id % 2) AS fold",
    )
    one_class = "fold = 1 OR kind = 1" if change != "features" else "TRUE"
    frame = plain.where(one_class).selectExpr("*", f"{change} AS changed")
    frame = frame.withColumn("features", array_to_vector("changed")).repartition(2)
    validator = CrossValidator(
        estimator=LogisticRegression(labelCol="kind"),
        estimatorParamMaps=[{}],
        evaluator=BinaryClassificationEvaluator(labelCol="kind"),
        foldCol="fold",
        numFolds=2,
    )
    with pytest.raises(ModelError, match=message):
        validator.fit(frame)
