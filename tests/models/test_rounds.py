"""Rounds of a search over a space, with made-up scores: what is tried, what is not tried again, and when it ends. No Spark."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conf.schema import Train
from models import rounds, search
from models.rounds import Budget
from models.search import Plan
from models.trials import Trial, TuningResult

pytestmark = pytest.mark.quick
FOLDS = 2


def train(**settings: Any) -> Train:
    candidate = {
        "estimator": "boosted_trees",
        "space": {"max_depth": {"from": 2, "to": 9}, "learning_rate": [0.1, 0.3]},
    }
    return Train.model_validate({"metric": "area_under_roc", "candidates": {"trees": candidate}, "search": settings})


class Tries:
    """Scores that grow with the depth, and the (point, fold) pairs that were not known."""

    def __init__(self, stop_at: int = 10**9, fails: int = -1) -> None:
        self.fitted: list[list[tuple[int, int]]] = []
        self.trials: dict[tuple[int, int], Trial] = {}
        self.stop_at, self.fails = stop_at, fails

    def __call__(self, plan: Plan, known: list[Trial]) -> TuningResult:
        done = {(trial.point, trial.fold): trial for trial in known}
        new = [(point.index, fold) for point in plan.points for fold in range(FOLDS) if (point.index, fold) not in done]
        self.fitted.append(new)
        for point, fold in new:
            if len(self.trials) == self.stop_at:
                raise KeyboardInterrupt
            parameters = plan.points[point].parameters
            value, error = (None, "no") if point == self.fails else (parameters["max_depth"] + fold / 10, None)
            done[point, fold] = Trial("trees", point, parameters, fold, "area_under_roc", value, 0.0, "made up", error)
            self.trials[point, fold] = done[point, fold]
        scores = np.array(
            [[done[point.index, fold].value for fold in range(FOLDS)] for point in plan.points], dtype=float
        )
        return TuningResult(tuple(done[key] for key in sorted(done)), scores, True)


def run(
    spec: Train, tries: Tries, known: list[Trial] | None = None, minutes: float | None = None
) -> tuple[Plan, TuningResult]:
    (plan,) = search.plans(spec, "binary")
    for each in rounds.of(spec, plan, known or [], tries, Budget(minutes)):
        last = each
    return last


def test_rounds_go_on_until_the_trials_are_done() -> None:
    """The last one may be smaller; each tries its own points in every fold."""
    tries = Tries()
    plan, result = run(train(trials=10, at_once=4), tries)
    assert [len(pairs) for pairs in tries.fitted] == [4 * FOLDS, 4 * FOLDS, 2 * FOLDS]
    assert [point.index for point in plan.points] == list(range(10))
    assert result.scores.shape == (10, FOLDS)
    assert [{param.name: value for param, value in point.items()} for point in plan.grid] == [
        point.parameters for point in plan.points
    ]


@pytest.mark.parametrize("stop_at", [0, 1, 7, 8, 9, 17])
def test_a_search_that_was_killed_goes_on_where_it_was(stop_at: int) -> None:
    """No trial twice, and the end is the same."""
    spec = train(trials=10, at_once=4)
    whole, expected = run(spec, Tries())
    broken = Tries(stop_at)
    with pytest.raises(KeyboardInterrupt):
        run(spec, broken)
    again = Tries()

    plan, result = run(spec, again, list(broken.trials.values()))

    assert broken.trials.keys() & again.trials.keys() == set()
    assert len(broken.trials) + len(again.trials) == 10 * FOLDS
    assert (plan.points, result.trials) == (whole.points, expected.trials)


def test_a_point_that_failed_is_tried_once_a_run() -> None:
    """In the rounds after it, it stands; a run that goes on later tries it again."""
    spec = train(trials=10, at_once=4)
    tries = Tries(fails=1)
    _, result = run(spec, tries)
    assert [pair for pairs in tries.fitted for pair in pairs].count((1, 0)) == 1
    assert np.isnan(result.scores[1]).all()
    again = Tries()
    run(spec, again, list(result.trials))
    assert [pair for pairs in again.fitted for pair in pairs][:FOLDS] == [(1, 0), (1, 1)]


def test_trials_of_other_points_are_not_taken_for_these() -> None:
    """Whatever made them: the parameters are what counts."""
    spec = train(trials=4, at_once=4)
    _, first = run(spec, Tries())
    strange = [replace(trial, parameters={"max_depth": 3, "learning_rate": 0.7}) for trial in first.trials]
    tries = Tries()
    run(spec, tries, strange)
    assert len(tries.trials) == 4 * FOLDS


def test_when_the_time_is_up_nothing_more_is_drawn() -> None:
    """But something was tried."""
    tries = Tries()
    plan, _ = run(train(trials=10, at_once=4), tries, minutes=1e-9)
    assert len(plan.points) == 4


def test_a_space_that_holds_no_more_ends_the_search() -> None:
    """However many trials there may be; no point is tried twice."""
    tries = Tries()
    spec = Train.model_validate(
        {
            "metric": "area_under_roc",
            "candidates": {"trees": {"estimator": "boosted_trees", "space": {"max_depth": [2, 5, 7]}}},
            "search": {"trials": 20, "at_once": 2},
        }
    )
    plan, result = run(spec, tries)
    assert sorted(point.parameters["max_depth"] for point in plan.points) == [2, 5, 7]
    assert len(tries.trials) == 3 * FOLDS == len(result.trials)


def test_proposals_are_told_what_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """And after which part of its rounds."""
    told = []
    monkeypatch.setattr(rounds.Proposals, "tell", lambda _, scores, shares: told.append((scores, shares)))

    class Stopping(Tries):
        def __call__(self, plan: Plan, known: list[Trial]) -> TuningResult:
            result = super().__call__(plan, known)
            trials = tuple(replace(trial, share=0.5) if trial.point % 2 else trial for trial in result.trials)
            return replace(result, trials=trials)

    _, result = run(train(trials=5, at_once=3), Stopping())
    means = result.mean.tolist()
    assert told == [(means[:3], [1.0, 0.5, 1.0]), (means[3:], [0.5, 1.0])]
