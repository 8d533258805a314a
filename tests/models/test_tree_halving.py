"""Halving of boosted trees: who goes on, and what those that are stopped had."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.sql import DataFrame, SparkSession
from xgboost.spark import SparkXGBRegressor

from models.folds import Folds
from models.halving import Halving
from models.tuning import CrossValidator
from tests.models import tree_rows
from tests.models.tree_rows import COMMON, EARLY, FOLDS, fitted_stages, found


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    return tree_rows.make(spark)


@pytest.mark.slow
@pytest.mark.parametrize("by_fold", [False, True], ids=["one matrix", "a matrix a fold"])
@pytest.mark.parametrize("early", [{}, EARLY], ids=["to the end", "stopping early"])
def test_halving_stops_the_worse_ones(rows: DataFrame, early: dict[str, Any], *, by_fold: bool) -> None:
    """Whoever goes on ends as without halving; whoever is stopped has the value of a model of so many rounds."""
    judge, folds = RegressionEvaluator(labelCol="number"), Folds(FOLDS, "fold")
    features = {"features_col": "all"} if by_fold else {}
    last = SparkXGBRegressor(label_col="number", **COMMON, **features, **early)
    estimator = Pipeline(stages=[*fitted_stages(), last]) if by_fold else last
    points = [
        {last.max_depth: depth, last.learning_rate: rate, last.n_estimators: count}
        for depth, rate, count in ((1, 0.01, 20), (3, 0.3, 20), (2, 0.5, 8), (2, 0.02, 20), (5, 0.2, 20))
    ]

    halved = found(rows, folds, estimator, points, judge, halving=Halving(2, frozenset(range(5))), keep_models=True)
    whole = found(rows, folds, estimator, points, judge)

    shares = [{fit.share for (point, _), fit in halved.items() if point == k} for k in range(5)]
    assert shares[0] == shares[3] == {1 / 4}
    assert {1} in shares
    winners = {pair for pair, fit in halved.items() if fit.share == 1}
    assert {pair: halved[pair].value for pair in winners} == pytest.approx(
        {pair: whole[pair].value for pair in winners}, rel=1e-6
    )
    assert {pair: halved[pair].rounds for pair in winners} == {pair: whole[pair].rounds for pair in winners}
    for fit in halved.values():
        kept = fit.model()
        booster = (kept.stages[-1] if by_fold else kept).get_booster()
        assert booster.num_boosted_rounds() == fit.rounds
    short = [{**extra, last.n_estimators: math.ceil(extra[last.n_estimators] / 4)} for extra in points]
    quarter = found(rows, folds, estimator, short, judge)
    stopped = {pair for pair, fit in halved.items() if fit.share == 1 / 4}
    assert {pair: halved[pair].value for pair in stopped} == {pair: quarter[pair].value for pair in stopped}


@pytest.mark.slow
def test_halving_goes_on_where_it_was_killed(rows: DataFrame) -> None:
    """Some models of some points are known: the rest comes to the same end, and nothing is trained twice."""
    judge, folds = RegressionEvaluator(labelCol="number"), Folds(FOLDS, "fold")
    last = SparkXGBRegressor(label_col="number", **COMMON)
    points = [{last.max_depth: 1 + k % 3, last.learning_rate: 0.1 * (k + 1)} for k in range(6)]
    halving = Halving(2, frozenset(range(6)))
    whole = found(rows, folds, last, points, judge, halving=halving)

    assert sorted({fit.share for fit in whole.values()}) == [1 / 4, 1 / 2, 1]
    order = list(whole)
    for known in (set(order[:count]) for count in (1, 4, 10, len(order) - 1)):
        ended = {point: whole[point, fold].share for point, fold in known}
        rest = found(rows, folds, last, points, judge, halving=replace(halving, ended=ended), skip=known)
        assert rest.keys() == whole.keys() - known
        assert {pair: (fit.value, fit.share, fit.rounds) for pair, fit in rest.items()} == {
            pair: (fit.value, fit.share, fit.rounds) for pair, fit in whole.items() if pair not in known
        }


@pytest.mark.slow
def test_the_drop_in_halves(rows: DataFrame, tmp_path: Path) -> None:
    """The winner is one that went to the end, though a stopped one may look better; the estimator is stored with it."""
    last = SparkXGBRegressor(label_col="number", **COMMON)
    points = [{last.learning_rate: rate} for rate in (0.01, 0.3, 0.02, 0.5)]
    judge = RegressionEvaluator(labelCol="number")
    validator = CrossValidator(
        estimator=last, estimatorParamMaps=points, evaluator=judge, numFolds=FOLDS, foldCol="fold", halving=2
    )
    whole = CrossValidator(estimator=last, estimatorParamMaps=points, evaluator=judge, numFolds=FOLDS, foldCol="fold")
    halved, full = validator.setCollectSubModels(True).fit(rows), whole.fit(rows)
    rounds = [[model.get_booster().num_boosted_rounds() for model in of_fold] for of_fold in halved.subModels]
    assert rounds == [[2, 8, 2, 4]] * FOLDS
    best = int(np.argmin(full.avgMetrics))
    assert halved.avgMetrics[best] == pytest.approx(full.avgMetrics[best], rel=1e-6)
    assert [halved.avgMetrics[k] > full.avgMetrics[k] for k in (0, 2)] == [True, True]
    assert halved.bestModel.get_booster().num_boosted_rounds() == 8
    validator.save(str(tmp_path / "validator"))
    assert CrossValidator.load(str(tmp_path / "validator")).getHalving() == 2


@pytest.mark.slow
def test_points_of_other_features_are_halved_by_themselves(rows: DataFrame) -> None:
    """Of each two one goes on."""
    last = SparkXGBRegressor(features_col="all", label_col="number", **COMMON)
    stages = fitted_stages()
    points = [
        {stages[0].stringOrderType: order, last.learning_rate: rate}
        for order in ("frequencyDesc", "alphabetAsc")
        for rate in (0.01, 0.5)
    ]
    halving = Halving(2, frozenset(range(4)))
    judge, folds = RegressionEvaluator(labelCol="number"), Folds(FOLDS, "fold")
    fits = found(rows, folds, Pipeline(stages=[*stages, last]), points, judge, halving=halving)
    assert {point: {fits[point, fold].share for fold in range(FOLDS)} for point in range(4)} == {
        0: {0.5},
        1: {1},
        2: {0.5},
        3: {1},
    }
