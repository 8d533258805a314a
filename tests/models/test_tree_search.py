"""Boosted trees of all folds and grid points together, against each trained alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    Evaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.feature import StandardScaler, StringIndexer, VectorAssembler, VectorSizeHint
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn import metrics
from xgboost.spark import SparkXGBClassifier, SparkXGBRegressor

from models import any_estimator, tree_search, trees
from models.folds import Folds, canonical
from models.tree_task import Request
from models.tuning import CrossValidator

ROWS, FOLDS = 600, 3
COMMON: dict[str, Any] = {"n_estimators": 8, "max_depth": 3, "num_workers": 1, "missing": float("nan")}


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    """Four features with missing values, a text, labels of two and of three classes, a number, a weight and a fold."""
    random = np.random.default_rng(7)
    values = []
    for key in range(ROWS):
        x = random.normal(size=4)
        number = float(x[0] + x[1] * x[2])
        two, three = float(number + random.normal() > 0), float(np.digitize(number, [-1, 1]))
        x[random.integers(4)] = np.nan
        text = "abcd"[int(random.integers(4))]
        values.append(
            (key, Vectors.dense(x), text, two, three, number, float(1 + key % 2), int(random.integers(-1, FOLDS)))
        )
    names = ["key", "features", "text", "two", "three", "number", "weight", "fold"]
    return canonical(spark.createDataFrame(values, names), ("key",), ROWS).cache()


def grid(estimator: Any) -> list[dict[Any, Any]]:
    return [{estimator.max_depth: depth, estimator.n_estimators: count} for depth, count in ((2, 8), (4, 5))]


def found(
    frame: DataFrame,
    folds: Folds,
    estimator: Any,
    points: list[Any],
    judge: Evaluator,
    *,
    parallelism: int = 2,
    **options: Any,
) -> Any:
    routes = [any_estimator.route(estimator, point, extra) for point, extra in enumerate(points)]
    assert [tree_search.reason_against(way, judge) for way in routes] == [None] * len(routes)
    return {
        (fit.point, fit.fold): fit
        for fit in tree_search.fits(frame, folds, routes, judge, parallelism=parallelism, **options)
    }  # fmt: skip


CASES = [
    (SparkXGBClassifier, "two", {}, BinaryClassificationEvaluator, {"metricName": "areaUnderROC", "numBins": 0}),
    (SparkXGBClassifier, "two", {"weight_col": "weight"}, BinaryClassificationEvaluator, {"metricName": "areaUnderPR", "numBins": 0}),
    (SparkXGBClassifier, "three", {"max_bin": 16}, MulticlassClassificationEvaluator, {"metricName": "logLoss"}),
    (SparkXGBRegressor, "number", {"tree_method": "approx"}, RegressionEvaluator, {"metricName": "mae"}),
    (SparkXGBRegressor, "number", {"objective": "reg:tweedie", "base_score": 0.5}, RegressionEvaluator, {"metricName": "r2"}),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "label", "settings", "judge", "metric"), CASES)
def test_after_fitted_stages_each_model_is_the_one_trained_alone(
    rows: DataFrame, kind: Any, label: str, settings: dict[str, Any], judge: Any, metric: dict[str, Any]
) -> None:
    """Rows of the fold alone make the matrix: the values of the stock model, and the models that are kept, are the same."""
    last = kind(features_col="scaled", label_col=label, **{**COMMON, **settings})
    stages = [StandardScaler(inputCol="features", outputCol="scaled", withMean=True), last]
    frame = rows.withColumn("number", F.abs("number")) if "objective" in settings else rows
    evaluator, folds = judge(labelCol=label, **metric), Folds(FOLDS, "fold")

    ours = found(frame, folds, Pipeline(stages=stages), grid(last), evaluator, keep_models=True)

    expected = {}
    for point, extra in enumerate(grid(last)):
        for fold in range(FOLDS):
            train, valid = frame.where(folds.trains(fold)), frame.where(folds.validates(fold))
            scaler = stages[0].fit(train)
            model = trees.fit(last.copy(extra), scaler.transform(train))
            expected[point, fold] = evaluator.evaluate(model.transform(scaler.transform(valid)))
            kept = ours[point, fold].model()
            assert isinstance(kept, PipelineModel)
            assert evaluator.evaluate(kept.transform(valid)) == pytest.approx(expected[point, fold], abs=1e-12)
    assert {pair: fit.value for pair, fit in ours.items()} == pytest.approx(expected, abs=1e-6)
    assert {fit.solver for fit in ours.values()} == {"xgboost, shared matrix"}


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_one_matrix_of_all_rows_serves_every_fold(rows: DataFrame, weighted: bool) -> None:
    """As XGBoost itself trains on the rows of a fold with the cuts of all rows; scikit-learn judges."""
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
    whole = xgboost.QuantileDMatrix(x, y)
    expected = {}
    for point, (depth, count) in enumerate(((2, 8), (4, 5))):
        for k in range(FOLDS):
            train, valid = fold != k, fold == k
            part = xgboost.QuantileDMatrix(x[train], y[train], weight=weight[train], ref=whole)
            parameters = {"max_depth": depth, "objective": "binary:logistic", "nthread": 1}
            margin = xgboost.train(parameters, part, count).inplace_predict(x[valid], predict_type="margin")
            expected[point, k] = metrics.roc_auc_score(y[valid], margin, sample_weight=weight[valid])
    assert {pair: fit.value for pair, fit in ours.items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_the_answer_does_not_depend_on_how_models_are_shared_out(rows: DataFrame) -> None:
    """One task, or a task for each model: then each trains for one fold, still with the cuts of all rows."""
    last = SparkXGBRegressor(label_col="number", **COMMON)
    folds, judge = Folds(FOLDS, "fold"), RegressionEvaluator(labelCol="number")
    one, six = (
        {pair: fit.value for pair, fit in found(rows, folds, last, grid(last), judge, parallelism=tasks).items()}
        for tasks in (1, 6)
    )
    assert one == six


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
        assert fit.value == pytest.approx(alone, rel=0.05)  # other cuts: those of all rows


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
def test_the_drop_in_takes_it(rows: DataFrame, tmp_path: Path) -> None:
    """`plan` names it, the winner is fitted on all rows and loads as a stock model."""
    indexer = StringIndexer(inputCol="text", outputCol="code")
    sized = VectorSizeHint(inputCol="features", size=4, handleInvalid="optimistic")
    assembler = VectorAssembler(inputCols=["features", "code"], outputCol="all", handleInvalid="keep")
    last = SparkXGBClassifier(features_col="all", label_col="two", **COMMON)
    validator = CrossValidator(
        estimator=Pipeline(stages=[indexer, sized, assembler, last]), estimatorParamMaps=grid(last), numFolds=FOLDS, foldCol="fold",
        evaluator=BinaryClassificationEvaluator(labelCol="two", numBins=0), parallelism=2,
    )  # fmt: skip

    assert [(each.solver, each.reason) for each in validator.plan(rows)] == [
        ("xgboost, shared matrix", "all folds and grid points share the binned rows, and tasks share out the models")
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
        "only features, label and weight, one worker and CPUs are shared by boosted trees",
    )


@pytest.mark.quick
def test_work_is_dealt_out_evenly() -> None:
    """The longest first, each to the task with least to do."""
    requests = [
        Request(n, 0, {"max_depth": depth}, {"num_boost_round": 10}, {}) for n, depth in enumerate([2, 8, 4, 6, 3])
    ]
    shares = tree_search.dealt(requests, 2)
    assert [[request.number for request in share] for share in shares] == [[1, 4], [3, 2, 0]]
    assert [sum(request.work for request in share) for share in shares] == [110.0, 120.0]
