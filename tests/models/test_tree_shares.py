"""Which task trains which boosted trees, and in which parts their answers come."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.sql import DataFrame, SparkSession
from xgboost.spark import SparkXGBRegressor

from models import any_estimator, tree_search, tree_shares
from models.boosters import Request
from models.folds import Folds
from models.margins import Measure
from tests.models import tree_rows
from tests.models.tree_rows import COMMON, FOLDS, found, grid


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    return tree_rows.make(spark)


@pytest.mark.quick
def test_work_is_dealt_out_evenly() -> None:
    """Fold after fold, so that few tasks bin the rows of the same fold; the longest models of a fold first."""
    depths = [2, 8, 4, 6, 4]
    requests = [
        Request(2 * n + fold, fold, {"max_depth": depth}, {"num_boost_round": 10}, {})
        for n, depth in enumerate(depths)
        for fold in range(2)
    ]

    def shares(tasks: int) -> list[list[int]]:
        return [[request.number for request in share] for share in tree_shares.dealt(requests, tasks)]

    assert shares(1) == [[2, 6, 4, 8, 0, 3, 7, 5, 9, 1]]
    assert shares(2) == [[2, 6, 4, 8, 0], [3, 7, 5, 9, 1]]
    assert shares(3) == [[2, 6], [4, 8, 0, 3], [7, 5, 9, 1]]
    assert sorted(number for share in shares(16) for number in share) == list(range(10))
    assert all(shares(16))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("most", "expected"),
    [(0, [[0], [1], [2], [3]]), (40, [[0], [1, 2, 3]]), (70, [[0, 1, 2], [3]]), (math.inf, [[0, 1, 2, 3]])],
)
def test_a_long_share_is_answered_part_by_part(most: float, expected: list[list[int]]) -> None:
    """In its order, and never cut within a model."""
    requests = [Request(n, 0, {"max_depth": d}, {"num_boost_round": 10}, {}) for n, d in enumerate((5, 1, 1, 2))]
    assert [[request.number for request in part] for part in tree_shares.parts(requests, most)] == expected


@pytest.mark.slow
def test_models_are_there_before_the_last_one_is(rows: DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a search that is killed has them: whoever stops after the first has not trained the rest."""
    monkeypatch.setattr(tree_shares, "PART_SECONDS", 0.0)
    context, group = rows.sparkSession.sparkContext, "parts of a share"
    last = SparkXGBRegressor(label_col="number", **COMMON)
    ways = [any_estimator.route(last, point, extra) for point, extra in enumerate(grid(last))]
    judge = RegressionEvaluator(labelCol="number")
    context.setJobGroup(group, group)
    try:
        fits = tree_search.fits(rows, Folds(FOLDS, "fold"), ways, judge, parallelism=1)
        first = next(fits)
        fits.close()
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)
    assert (first.point, first.fold, first.error) == (1, 0, None)
    started = context.statusTracker().getJobIdsForGroup(group)
    assert len(started) < 2 + len(ways) * FOLDS


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_models_alone(rows: DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """With parts of one model each; others come through."""
    counts = {row["fold"]: row["count"] for row in rows.groupBy("fold").count().collect()}
    assert len(set(counts.values())) == len(counts)
    dies_at = counts[1]

    class Dies(Measure):
        def value(self, said: Any, label: Any, weight: Any) -> float:
            if len(label) == dies_at:
                os._exit(1)
            return super().value(said, label, weight)

    monkeypatch.setattr(tree_shares, "PART_SECONDS", 0.0)
    monkeypatch.setattr(
        tree_search, "measure_of", lambda judge: Dies("regression", "rmse", False, {"throughOrigin": False})
    )
    last = SparkXGBRegressor(label_col="number", **COMMON)
    fits = found(rows, Folds(FOLDS, "fold"), last, grid(last), RegressionEvaluator(labelCol="number"), parallelism=1)
    assert {pair for pair, fit in fits.items() if fit.error} == {(0, 1), (1, 1)}
    assert all(fit.value > 0 for pair, fit in fits.items() if pair[1] != 1)
    assert all("Python worker exited unexpectedly" in str(fit.error) for fit in fits.values() if fit.error)


@pytest.mark.slow
def test_the_answer_does_not_depend_on_how_models_are_shared_out(
    rows: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One task, a task for each model, or one task that answers model by model."""
    last = SparkXGBRegressor(label_col="number", **COMMON)
    folds, judge = Folds(FOLDS, "fold"), RegressionEvaluator(labelCol="number")
    values = []
    for tasks, seconds in ((1, 1e9), (6, 1e9), (1, 0.0)):
        monkeypatch.setattr(tree_shares, "PART_SECONDS", seconds)
        fits = found(rows, folds, last, grid(last), judge, parallelism=tasks)
        values.append({pair: fit.value for pair, fit in fits.items()})
    assert values[0] == values[1] == values[2]
