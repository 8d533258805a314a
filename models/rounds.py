"""The rounds of a search: one for a grid; for a space, proposals, their trials, and proposals that know of them, while the budget lasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from conf.schema import Train
from models import search
from models.proposals import Proposals
from models.search import Plan
from models.trials import Trial, TuningResult

Try = Callable[[Plan, list[Trial]], TuningResult]


class Budget:
    """Minutes for all candidates together, from now on; None for as many as it takes."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def is_spent(self) -> bool:
        """Whether no further points are to be drawn."""
        return self._end is not None and time.monotonic() >= self._end


def points_of(train: Train, plan: Plan) -> int:
    """How many points of a candidate will be tried, unless the time is up before."""
    return train.search.trials if plan.spec.space else len(plan.points)


def of(
    train: Train, plan: Plan, known: Sequence[Trial], tried: Try, budget: Budget
) -> Iterator[tuple[Plan, TuningResult]]:
    """The plan, and what came of it, after each round; at least one round, however little time is left, and none once a space holds no more.

    Args:
        known: trials of the candidate that were done before. Those of points that are proposed again are not repeated, but for those
            that failed: whatever kept them may have gone.
        tried: tries the points of a plan, but for the trials that it is given.
    """
    known = [trial for trial in known if trial.error is None]
    space = plan.spec.space
    if not space:
        yield plan, tried(plan, list(known))
        return
    proposals = Proposals(
        space, train.search.method, train.seed, larger_is_better=search.larger_is_better(train.metric)
    )
    while not plan.points or (len(plan.points) < train.search.trials and not budget.is_spent()):
        drawn = proposals.ask(min(train.search.at_once, train.search.trials - len(plan.points)))
        if not drawn:
            return
        plan = plan.with_points(drawn)
        result = tried(plan, [trial for trial in known if _is_of(plan, trial)])
        yield plan, result
        shares = [result.share(point) for point in range(plan.since, len(plan.points))]
        proposals.tell(result.mean[plan.since :].tolist(), shares)
        known = [*result.trials, *(trial for trial in known if trial.point >= len(plan.points))]


def _is_of(plan: Plan, trial: Trial) -> bool:
    return trial.point < len(plan.points) and dict(trial.parameters) == plan.points[trial.point].parameters
