"""The `train` block: grids, estimators by task, and every mistake in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.ml.classification import LogisticRegression
from pyspark.sql import SparkSession

from conf.schema import Train
from models import search
from models.preprocessing import Design, Profile
from models.search import Point
from transforms.errors import ConfigError


def train(**candidates: dict[str, Any]) -> Train:
    return Train.model_validate({"metric": "accuracy", "candidates": candidates, "seed": 5})


@pytest.mark.quick
def test_points_are_the_product_of_the_grid_in_file_order(spark: SparkSession) -> None:
    """The last parameter varies fastest; a candidate without a grid has one point."""
    spec = train(
        l={"estimator": "logistic_regression", "grid": {"reg_param": [0.1, 0.2], "elastic_net_param": [0.0, 1.0]}},
        t={"estimator": "boosted_trees"},
    )

    assert [point for plan in search.plans(spec, "binary") for point in plan.points] == [
        Point("l", 0, {"reg_param": 0.1, "elastic_net_param": 0.0}),
        Point("l", 1, {"reg_param": 0.1, "elastic_net_param": 1.0}),
        Point("l", 2, {"reg_param": 0.2, "elastic_net_param": 0.0}),
        Point("l", 3, {"reg_param": 0.2, "elastic_net_param": 1.0}),
        Point("t", 0, {}),
    ]


def test_yaml_names_become_mllib_parameters(spark: SparkSession) -> None:
    """Fixed parameters are set on the estimator, grid values keyed by its own Param; whole numbers become floats where MLlib has floats."""
    (plan,) = search.plans(
        train(l={"estimator": "logistic_regression", "grid": {"reg_param": [1]}, "params": {"max_iter": 7, "tol": 1}}),
        "binary",
    )

    assert isinstance(plan.estimator, LogisticRegression)
    assert (plan.estimator.getMaxIter(), plan.estimator.getTol()) == (7, 1.0)
    assert plan.grid == ({plan.estimator.regParam: 1.0},)
    assert isinstance(plan.grid[0][plan.estimator.regParam], float)


@pytest.mark.parametrize(
    ("estimator", "task", "kind", "design"),
    [
        ("logistic_regression", "binary", "LogisticRegression", Design.LINEAR),
        ("logistic_regression", "multiclass", "LogisticRegression", Design.LINEAR),
        ("linear_regression", "regression", "LinearRegression", Design.LINEAR),
        ("boosted_trees", "binary", "SparkXGBClassifier", Design.BOOSTED),
        ("boosted_trees", "regression", "SparkXGBRegressor", Design.BOOSTED),
        ("random_forest", "multiclass", "RandomForestClassifier", Design.TREES),
        ("random_forest", "regression", "RandomForestRegressor", Design.TREES),
        ("pyspark.ml.classification.GBTClassifier", "binary", "GBTClassifier", Design.TREES),
        ("pyspark.ml.classification.FMClassifier", "binary", "FMClassifier", Design.SCALED),
        (
            "pyspark.ml.regression.GeneralizedLinearRegression",
            "regression",
            "GeneralizedLinearRegression",
            Design.SCALED,
        ),
    ],
)
def test_estimators_by_task(spark: SparkSession, estimator: str, task: str, kind: str, design: Design) -> None:
    """A short name or a dotted path gives the class, and how it wants its features."""
    (plan,) = search.plans(train(c={"estimator": estimator}), task)

    assert (type(plan.estimator).__name__, plan.design) == (kind, design)


def test_random_estimators_take_the_seed_of_the_file(spark: SparkSession) -> None:
    """`train.seed` reaches MLlib's `seed` and XGBoost's `random_state`."""
    forest, boosted = search.plans(train(f={"estimator": "random_forest"}, b={"estimator": "boosted_trees"}), "binary")

    assert forest.estimator.getOrDefault("seed") == 5
    assert boosted.estimator.getOrDefault("random_state") == 5
    assert boosted.estimator.getOrDefault("num_workers") == 1


def test_a_forest_gets_bins_for_its_widest_category(spark: SparkSession) -> None:
    """MLlib refuses fewer bins than levels; a number in the file stands, and levels beyond the limit do not count."""
    profile = Profile((), ("a", "b", "c"), frozenset(), {"a": 3, "b": 100, "c": 5000})
    free, fixed = search.plans(
        train(f={"estimator": "random_forest"}, g={"estimator": "random_forest", "params": {"max_bins": 150}}), "binary"
    )

    bins = [plan.pipeline(profile, "mean").getStages()[-1].getOrDefault("maxBins") for plan in (free, fixed)]
    assert bins == [101, 150]


@pytest.mark.parametrize("where", ["params", "grid", "space"])
def test_trees_that_stop_early_need_rows_aside(spark: SparkSession, where: str) -> None:
    """Wherever the file asks for it."""
    rounds: Any = 5 if where == "params" else [5, 10]
    early, plain = search.plans(
        train(
            e={"estimator": "boosted_trees", where: {"early_stopping_rounds": rounds}}, p={"estimator": "boosted_trees"}
        ),
        "binary",
    )
    assert early.estimator.getOrDefault("validationIndicatorCol") == "row=aside"
    assert not plain.estimator.isSet("validationIndicatorCol")


WRONG = [
    (
        {"estimator": "linear_regression"},
        "'linear_regression' does not predict a binary label. Use one of logistic_regression, boosted_trees, random_forest.",
    ),
    (
        {"estimator": "logistic"},
        "expected logistic_regression, linear_regression, boosted_trees, random_forest or a dotted path, found 'logistic'."
        " Did you mean 'logistic_regression'?",
    ),
    (
        {"estimator": "os.system"},
        "'os.system' is refused: a dotted path names a class below pyspark.ml or xgboost.spark.",
    ),
    (
        {"estimator": "pyspark.ml.classification.Logistic"},
        "'pyspark.ml.classification.Logistic' cannot be used: module 'pyspark.ml.classification' has no attribute 'Logistic'."
        " Name an estimator class, such as pyspark.ml.classification.FMClassifier.",
    ),
    (
        {"estimator": "pyspark.ml.clustering.KMeans"},
        "'pyspark.ml.clustering.KMeans' does not learn to predict a label. Name a classifier or a regressor.",
    ),
    (
        {"estimator": "pyspark.ml.classification.OneVsRest"},
        "'pyspark.ml.classification.OneVsRest' wraps another estimator. Name that estimator itself.",
    ),
    (
        {"estimator": "pyspark.ml.classification.LinearSVC"},
        "'pyspark.ml.classification.LinearSVC' gives no probabilities, which a binary task needs. Use another, such as logistic_regression.",
    ),
]


@pytest.mark.parametrize(("candidate", "message"), WRONG)
def test_an_estimator_that_does_not_fit_is_refused(
    spark: SparkSession, candidate: dict[str, Any], message: str
) -> None:
    """Where, what was found, what to do."""
    with pytest.raises(ConfigError) as caught:
        search.plans(train(c=candidate), "binary")

    assert str(caught.value) == f"train.candidates.c.estimator: {message}"


def test_a_classifier_is_refused_for_a_regression(spark: SparkSession) -> None:
    """By dotted path, where the table of short names does not say it."""
    with pytest.raises(ConfigError, match=r"FMClassifier' is a classifier; the task is regression"):
        search.plans(train(c={"estimator": "pyspark.ml.classification.FMClassifier"}), "regression")


def test_all_wrong_parameters_are_listed(spark: SparkSession) -> None:
    """Of all candidates: unknown with the nearest name, wrong type, and those that are not the file's to set."""
    with pytest.raises(ConfigError) as caught:
        search.plans(
            train(
                l={
                    "estimator": "logistic_regression",
                    "grid": {"reg_parm": [0.1, 0.2]},
                    "params": {"max_iter": "many"},
                },
                t={"estimator": "boosted_trees", "params": {"label_col": "x", "num_workers": 4, "max_dept": 3}},
            ),
            "binary",
        )

    assert caught.value.problems == (
        "train.candidates.l.params.max_iter: 'many' does not fit: Invalid param value given for param \"maxIter\"."
        " Could not convert many to int.",
        "train.candidates.l.grid.reg_parm: LogisticRegression has no parameter 'reg_parm'. Did you mean 'reg_param'?",
        "train.candidates.t.params.label_col: 'label_col' is set by millrace. Remove it.",
        "train.candidates.t.params.num_workers: 'num_workers' is set by millrace. Remove it.",
        "train.candidates.t.params.max_dept: SparkXGBClassifier has no parameter 'max_dept'. Did you mean 'max_depth'?",
    )


def test_a_fixed_value_out_of_range_is_refused(spark: SparkSession) -> None:
    """In MLlib's words; in a grid it is a trial that fails."""
    with pytest.raises(ConfigError, match=r"^train\.candidates\.l\.params: .*regParam given invalid value -1\.0"):
        search.plans(train(l={"estimator": "logistic_regression", "params": {"reg_param": -1.0}}), "binary")
    (plan,) = search.plans(train(l={"estimator": "logistic_regression", "grid": {"reg_param": [-1.0]}}), "binary")
    assert list(plan.grid[0].values()) == [-1.0]


@pytest.mark.parametrize(
    ("metric", "task", "name", "larger"),
    [
        ("area_under_roc", "binary", "areaUnderROC", True),
        ("area_under_pr", "binary", "areaUnderPR", True),
        ("log_loss", "binary", "logLoss", False),
        ("accuracy", "multiclass", "accuracy", True),
        ("f1", "binary", "fMeasureByLabel", True),
        ("f1", "multiclass", "f1", True),
        ("weighted_precision", "multiclass", "weightedPrecision", True),
        ("weighted_recall", "multiclass", "weightedRecall", True),
        ("rmse", "regression", "rmse", False),
        ("mae", "regression", "mae", False),
        ("mse", "regression", "mse", False),
        ("r2", "regression", "r2", True),
    ],
)
def test_evaluators_by_metric(spark: SparkSession, metric: str, task: str, name: str, larger: bool) -> None:
    """MLlib's name and direction; curves are exact."""
    evaluator = search.evaluator(metric, task)

    assert (evaluator.getMetricName(), evaluator.isLargerBetter(), search.larger_is_better(metric)) == (
        name,
        larger,
        larger,
    )
    assert not evaluator.hasParam("numBins") or evaluator.getNumBins() == 0


def test_ends_of_a_space_have_to_fit_and_so_has_what_lies_between() -> None:
    """A fraction would be drawn of a range that is not whole, and the parameter would refuse it in the midst of a search."""
    spaces = {
        "max_iter": ({"from": 10.0, "to": 100.0}, "max_iter: 43.1"),
        "reg_param": (["a", 0.1], "reg_param: 'a' does not fit"),
        "reg_parm": (
            {"from": 0.1, "to": 1.0},
            "reg_parm: LogisticRegression has no parameter 'reg_parm'. Did you mean 'reg_param'?",
        ),
    }
    for name, (space, message) in spaces.items():
        with pytest.raises(ConfigError) as caught:
            search.plans(train(l={"estimator": "logistic_regression", "space": {name: space}}), "binary")
        (problem,) = caught.value.problems
        assert problem.startswith(f"train.candidates.l.space.{message}"), problem
    fits = {"max_iter": {"from": 10, "to": 100}, "reg_param": {"from": 0.1, "to": 1}}
    (plan,) = search.plans(train(l={"estimator": "logistic_regression", "space": fits}), "binary")
    assert plan.points == ()


def test_only_boosted_trees_are_halved(spark: SparkSession) -> None:
    """Nothing else grows round by round."""
    with pytest.raises(ConfigError) as caught:
        search.plans(train(f={"estimator": "random_forest", "halving": 2}), "binary")
    assert caught.value.problems == (
        "train.candidates.f.halving: RandomForestClassifier does not grow round by round, as boosted_trees do. Remove it.",
    )
