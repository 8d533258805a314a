"""Boosted trees of all folds and grid points together, against each trained alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import FMClassifier, MultilayerPerceptronClassifier, OneVsRest
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.linalg import Vectors
from pyspark.ml.regression import FMRegressor, LinearRegression
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn import metrics
from xgboost.spark import SparkXGBClassifier, SparkXGBRanker, SparkXGBRegressor

from models import trees
from models.folds import Folds
from models.tuning import CrossValidator
from tests.models import tree_rows
from tests.models.tree_rows import COMMON, EARLY, FOLDS, ROWS, fitted_stages, found, grid
from transforms.errors import ConfigError


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    return tree_rows.make(spark)


CASES = [
    (SparkXGBClassifier, "two", {}, BinaryClassificationEvaluator, {"metricName": "areaUnderROC", "numBins": 0}),
    (SparkXGBClassifier, "two", {"weight_col": "weight"}, BinaryClassificationEvaluator, {"metricName": "areaUnderPR", "numBins": 0}),
    (SparkXGBClassifier, "three", {"max_bin": 16}, MulticlassClassificationEvaluator, {"metricName": "logLoss"}),
    (SparkXGBRegressor, "number", {"tree_method": "approx"}, RegressionEvaluator, {"metricName": "mae"}),
    (SparkXGBRegressor, "number", {"objective": "reg:tweedie", "base_score": 0.5}, RegressionEvaluator, {"metricName": "r2"}),
    (SparkXGBClassifier, "two", EARLY, BinaryClassificationEvaluator, {"metricName": "areaUnderROC", "numBins": 0}),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "label", "settings", "judge", "metric"), CASES)
def test_after_fitted_stages_each_model_is_the_one_trained_alone(
    rows: DataFrame, kind: Any, label: str, settings: dict[str, Any], judge: Any, metric: dict[str, Any]
) -> None:
    """Rows of the fold alone make the matrix: the values of the stock model, and the models that are kept, are the same."""
    last = kind(features_col="all", label_col=label, **{**COMMON, **settings})
    frame = rows.withColumn("number", F.abs("number")) if "objective" in settings else rows
    evaluator, folds = judge(labelCol=label, **metric), Folds(FOLDS, "fold")

    ours = found(frame, folds, Pipeline(stages=[*fitted_stages(), last]), grid(last), evaluator, keep_models=True)

    expected = {}
    for fold in range(FOLDS):
        train, valid = frame.where(folds.trains(fold)), frame.where(folds.validates(fold))
        features = Pipeline(stages=fitted_stages()).fit(train)
        for point, extra in enumerate(grid(last)):
            model = trees.fit(last.copy(extra), features.transform(train))
            expected[point, fold] = evaluator.evaluate(model.transform(features.transform(valid)))
            kept = ours[point, fold].model()
            assert isinstance(kept, PipelineModel)
            assert evaluator.evaluate(kept.transform(valid)) == pytest.approx(expected[point, fold], abs=1e-12)
    assert len(set(expected.values())) == len(expected)
    assert {pair: fit.value for pair, fit in ours.items()} == pytest.approx(expected, abs=1e-6)
    assert {fit.solver for fit in ours.values()} == {"xgboost, a matrix a fold"}


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_a_model_is_that_of_the_rows_of_its_fold(rows: DataFrame, weighted: bool) -> None:
    """As XGBoost itself trains on them; scikit-learn judges."""
    settings = {"weight_col": "weight"} if weighted else {}
    last = SparkXGBClassifier(label_col="two", **COMMON, **settings)
    evaluator = BinaryClassificationEvaluator(
        labelCol="two", numBins=0, **({"weightCol": "weight"} if weighted else {})
    )

    ours = found(rows, Folds(FOLDS, "fold"), last, grid(last), evaluator)

    local = rows.orderBy("key").toPandas()
    x = np.array([vector.toArray() for vector in local["features"]], dtype=np.float32)
    y, fold = local["two"].to_numpy(), local["fold"].to_numpy()
    weight = local["weight"].to_numpy() if weighted else np.ones(ROWS)
    expected = {}
    for point, (depth, count) in enumerate(((2, 8), (4, 5))):
        for k in range(FOLDS):
            train, valid = fold != k, fold == k
            part = xgboost.QuantileDMatrix(x[train], y[train], weight=weight[train])
            parameters = {"max_depth": depth, "objective": "binary:logistic", "nthread": 1}
            margin = xgboost.train(parameters, part, count).inplace_predict(x[valid], predict_type="margin")
            expected[point, k] = metrics.roc_auc_score(y[valid], margin, sample_weight=weight[valid])
    assert {pair: fit.value for pair, fit in ours.items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_models_that_stop_early(rows: DataFrame) -> None:
    """As XGBoost trains on the rows of a fold that are not aside, and stops by those that are; a model that stopped predicts by its best."""
    last = SparkXGBClassifier(label_col="two", weight_col="weight", **{**COMMON, "n_estimators": 60}, **EARLY)
    judge = BinaryClassificationEvaluator(labelCol="two", numBins=0)

    ours = found(rows, Folds(FOLDS, "fold"), last, [{last.max_depth: 2}, {last.max_depth: 4}], judge)

    local = rows.orderBy("key").toPandas()
    x = np.array([vector.toArray() for vector in local["features"]], dtype=np.float32)
    columns = (local[name].to_numpy() for name in ("two", "fold", "weight", "aside"))
    y, fold, weight, aside = columns
    values, rounds = {}, {}
    for point, depth in enumerate((2, 4)):
        for k in range(FOLDS):
            trains, stops = (fold != k) & ~aside, (fold != k) & aside
            train = xgboost.QuantileDMatrix(x[trains], y[trains], weight=weight[trains])
            stop = xgboost.QuantileDMatrix(x[stops], y[stops], weight=weight[stops], ref=train)
            parameters = {"max_depth": depth, "objective": "binary:logistic", "nthread": 1, "learning_rate": 0.8}
            model = xgboost.train(
                parameters, train, 60, evals=[(stop, "stop")], early_stopping_rounds=2, verbose_eval=False
            )
            best = (0, model.best_iteration + 1)
            margin = model.inplace_predict(x[fold == k], predict_type="margin", iteration_range=best)
            values[point, k] = metrics.roc_auc_score(y[fold == k], margin)
            rounds[point, k] = model.num_boosted_rounds()
    assert max(rounds.values()) < 60
    assert {pair: fit.rounds for pair, fit in ours.items()} == rounds
    assert {pair: fit.value for pair, fit in ours.items()} == pytest.approx(values, abs=1e-6)


@pytest.mark.slow
def test_folds_in_time_train_on_the_past(rows: DataFrame) -> None:
    """Another part trains in each fold, first folds on few rows; known trials are not trained again."""
    last = SparkXGBRegressor(label_col="number", **COMMON)
    frame = rows.where("fold >= 0").withColumn(
        "from", F.when(F.col("key") % 5 > 0, F.greatest(F.lit(1), F.col("fold") + 1))
    )
    frame = frame.withColumn("fold", F.when(F.col("fold") == 0, -1).otherwise(F.col("fold") - 1)).withColumn(
        "from", F.col("from") - 1
    )
    folds = Folds(2, "fold", "earlier", "from")
    evaluator = RegressionEvaluator(labelCol="number")

    ours = found(frame, folds, last, grid(last), evaluator, skip={(0, 1)})

    assert sorted(ours) == [(0, 0), (1, 0), (1, 1)]
    for (point, fold), fit in ours.items():
        model = trees.fit(last.copy(grid(last)[point]), frame.where(folds.trains(fold)))
        alone = evaluator.evaluate(model.transform(frame.where(folds.validates(fold))))
        assert fit.value == pytest.approx(alone, rel=1e-6)


@pytest.mark.slow
def test_a_point_that_fails_leaves_the_others(rows: DataFrame) -> None:
    """XGBoost's own sentence is the trial's error."""
    last = SparkXGBClassifier(label_col="two", **COMMON)
    evaluator = BinaryClassificationEvaluator(labelCol="two", numBins=0)
    points = [{last.max_depth: 2}, {last.learning_rate: -1.0}]

    ours = found(rows, Folds(FOLDS, "fold"), last, points, evaluator)

    assert {pair for pair, fit in ours.items() if fit.error is None} == {(0, k) for k in range(FOLDS)}
    assert {str(fit.error) for (point, _), fit in ours.items() if point} == {
        "XGBoostError: value -1 for Parameter learning_rate should be greater equal to 0"
    }


@pytest.mark.slow
def test_a_point_that_the_estimator_refuses_is_its_own_failure(rows: DataFrame) -> None:
    """The other points are trained."""
    last = SparkXGBClassifier(label_col="two", **COMMON)
    judge = BinaryClassificationEvaluator(labelCol="two", numBins=0)

    ours = found(rows, Folds(FOLDS, "fold"), last, [{last.objective: "no such"}, {}], judge)

    errors = {pair: str(fit.error) for pair, fit in ours.items() if fit.error is not None}
    assert errors == {
        (0, k): "Setting custom 'objective' param is not allowed in 'SparkXGBClassifier'." for k in range(3)
    }
    assert len(ours) == 6


@pytest.mark.slow
def test_the_drop_in_takes_it(rows: DataFrame, tmp_path: Path) -> None:
    """`plan` names it, the winner is fitted on all rows and loads as a stock model."""
    last = SparkXGBClassifier(features_col="all", label_col="two", **COMMON)
    validator = CrossValidator(
        estimator=Pipeline(stages=[*fitted_stages(), last]), estimatorParamMaps=grid(last), numFolds=FOLDS, foldCol="fold",
        evaluator=BinaryClassificationEvaluator(labelCol="two", numBins=0), parallelism=2,
    )  # fmt: skip

    assert [(each.solver, each.reason) for each in validator.plan(rows)] == [
        ("xgboost, a matrix a fold", "all grid points share the binned rows of a fold")
    ] * 2
    model = validator.fit(rows)
    model.bestModel.write().save(str(tmp_path / "model"))
    loaded = PipelineModel.load(str(tmp_path / "model"))
    scores = [each.transform(rows).orderBy("key").select("prediction").collect() for each in (model.bestModel, loaded)]
    assert scores[0] == scores[1]


@pytest.mark.quick
def test_plan_says_what_boosted_trees_cannot_share(rows: DataFrame) -> None:
    """Not that no exact solver knows them, which nobody asked."""
    last = SparkXGBClassifier(label_col="two", **{**COMMON, "num_workers": 2})
    judge = BinaryClassificationEvaluator(labelCol="two", numBins=0)
    (planned,) = CrossValidator(estimator=last, estimatorParamMaps=[{}], evaluator=judge).plan(rows)
    assert (planned.solver, planned.reason) == (
        "general",
        "only features, label, weight and rows aside, one worker and CPUs are shared by boosted trees",
    )


@pytest.mark.quick
@pytest.mark.parametrize(
    ("estimator", "halving", "expected"),
    [
        (
            lambda: LinearRegression(labelCol="number"), 3,
            "LinearRegression cannot be halved: its models do not grow round by round. Remove `halving`.",
        ),
        (
            lambda: SparkXGBRegressor(label_col="number", num_workers=2), 3,
            "SparkXGBRegressor cannot be halved: only features, label, weight and rows aside, one worker and CPUs are shared by boosted"
            " trees. Remove `halving`.",
        ),
        (
            lambda: SparkXGBRegressor(label_col="number", num_workers=1), 1,
            "halving is 1; expected 2 or more: one grid point in so many goes on.",
        ),
        (
            lambda: SparkXGBRanker(label_col="number", qid_col="fold"), None,
            "SparkXGBRanker ranks rows within queries, which folds would cut and no evaluator of MLlib judges. Search over a classifier or"
            " a regressor.",
        ),
        (
            lambda: OneVsRest(classifier=FMClassifier(), labelCol="three", weightCol="weight"), None,
            "FMClassifier would ignore weightCol 'weight'. Remove it, or search over an estimator that reads weights.",
        ),
        (
            lambda: OneVsRest(classifier=MultilayerPerceptronClassifier(), labelCol="three", weightCol="weight"), None,
            "MultilayerPerceptronClassifier would ignore weightCol 'weight'. Remove it, or search over an estimator that reads weights.",
        ),
        (
            lambda: FMRegressor(labelCol="number")._set(weightCol="weight"), None,
            "FMRegressor would ignore weightCol 'weight'. Remove it, or search over an estimator that reads weights.",
        ),
    ],
    ids=["linear", "two workers", "one in one", "ranker", "one against the rest", "a network so", "factorization"],
)  # fmt: skip
def test_what_cannot_be_searched_so_is_refused(
    rows: DataFrame, estimator: Any, halving: int | None, expected: str
) -> None:
    """By `plan` and by `fit` alike, in one sentence."""
    judge = RegressionEvaluator(labelCol="number")
    validator = CrossValidator(
        estimator=estimator(), estimatorParamMaps=[{}], evaluator=judge, numFolds=FOLDS, foldCol="fold", halving=halving
    )
    for attempt in (validator.plan, validator.fit):
        with pytest.raises(ConfigError) as refused:
            attempt(rows)
        assert str(refused.value) == expected


@pytest.mark.slow
def test_rows_that_xgboost_refuses_fail_the_folds_that_train_on_them(rows: DataFrame) -> None:
    """A negative weight in fold 0: fold 0 alone does not train on it. All of it in one task."""
    key = rows.where("fold = 0").agg(F.min("key")).collect()[0][0]
    frame = rows.withColumn("weight", F.when(F.col("key") == key, -1.0).otherwise(F.col("weight")))
    last = SparkXGBClassifier(label_col="two", weight_col="weight", **COMMON)
    judge = BinaryClassificationEvaluator(labelCol="two", numBins=0)

    fits = found(frame, Folds(FOLDS, "fold"), last, grid(last), judge, parallelism=1)

    whole = found(rows, Folds(FOLDS, "fold"), last, grid(last), judge)
    assert {pair: fit.value for pair, fit in fits.items() if fit.error is None} == {
        pair: fit.value for pair, fit in whole.items() if pair[1] == 0
    }
    assert all("Weights must be positive" in str(fit.error) for (_, fold), fit in fits.items() if fold)


@pytest.mark.slow
def test_points_that_set_rows_aside_do_not_share_rows_with_others(rows: DataFrame) -> None:
    """Each is trained as alone, in whichever order they come."""
    last = SparkXGBRegressor(label_col="number", **COMMON)
    early = {last.validationIndicatorCol: "aside", last.early_stopping_rounds: 2, last.learning_rate: 0.8}
    folds, judge = Folds(FOLDS, "fold"), RegressionEvaluator(labelCol="number")
    whole = [found(rows, folds, last, [extra], judge) for extra in (early, {})]
    for first, second in ((0, 1), (1, 0)):
        points = [(early, {})[first], (early, {})[second]]
        fits = found(rows, folds, last, points, judge)
        for point, alone in enumerate((first, second)):
            for fold in range(FOLDS):
                assert (fits[point, fold].value, fits[point, fold].rounds) == (
                    whole[alone][0, fold].value,
                    whole[alone][0, fold].rounds,
                )


@pytest.mark.slow
def test_rows_without_sound_features_and_points_without_rounds(spark: SparkSession, rows: DataFrame) -> None:
    """Each is a sentence."""
    last = SparkXGBRegressor(label_col="number", **COMMON)
    folds, judge = Folds(FOLDS, "fold"), RegressionEvaluator(labelCol="number")
    fits = found(rows, folds, last, [{last.n_estimators: 0}, {}], judge)
    assert {str(fit.error) for (point, _), fit in fits.items() if point == 0} == {
        "n_estimators is 0; expected 1 or more."
    }
    assert all(fit.error is None for (point, _), fit in fits.items() if point == 1)
    few = [
        (0, Vectors.dense([1.0, 2.0, 3.0]), 1.0),
        (1, Vectors.dense([1.0]), 2.0),
        (2, Vectors.dense([1.0, 2.0]), 3.0),
    ]
    uneven = spark.createDataFrame(few, ["fold", "features", "number"])
    (said,) = {str(fit.error) for fit in found(uneven, folds, last, [{}], judge).values()}
    assert said == "The vectors of features have 1 to 3 values; expected the same number in all rows."
    empty = spark.createDataFrame(
        [(k, None if k else [1.0], 1.0) for k in range(3)], "fold int, features array<double>, number double"
    )
    (said,) = {str(fit.error) for fit in found(empty, folds, last, [{}], judge).values()}
    assert said == "2 of 3 rows have null for a vector of features; leave them out or fill them."
