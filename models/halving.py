"""Successive halving: grid points are judged after a part of their rounds, and those that promise most go on (Jamieson and Talwalkar,
"Non-stochastic best arm identification and hyperparameter optimization", 2016). No Spark.

What counts is what a point may have at the end, not what it has: trees that are added in small steps (`learning_rate`) begin far behind and are often the
best in the end, which the value after a part of the rounds says the opposite of (`scripts/bench halving`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


def promise(value: float, half: float, share: float) -> float:
    """What a point would have after all of its rounds, if each time that they double brought as much as the last time did.

    Over the logarithm of the rounds the metric of boosted trees mostly rises less and less, and falls once they overfit: this is seldom too little.

    Args:
        value, half: after a share of the rounds, and after half as many; may be metrics of which smaller is better.
    """
    return value + (value - half) * math.log2(1 / share)


@dataclass(frozen=True)
class Halving:
    """Who goes on.

    Attributes:
        factor: one in so many goes on, with so many times its rounds; and whoever is as good as these for all that can be told.
        points: the grid points that compete.
        ended: known points of an interrupted search, and the share of their rounds at which they were judged for good. They are known in the
            order in which they came, up to some moment.
    """

    factor: int
    points: frozenset[int]
    ended: Mapping[int, float] = field(default_factory=dict)

    def among(self, points: Iterable[int]) -> Halving:
        """The same of some of the points, which compete with each other alone."""
        some = self.points & frozenset(points)
        return Halving(self.factor, some, {point: end for point, end in self.ended.items() if point in some})

    @property
    def shares(self) -> tuple[float, ...]:
        """The parts of their rounds after which points are judged, 1 at last."""
        steps = 0
        while self.factor ** (steps + 1) <= len(self.points):
            steps += 1
        return tuple(1 / self.factor**step for step in range(steps, -1, -1))

    def going_on(self, share: float, promises: Mapping[int, Mapping[int, float]]) -> set[int]:
        """The points that go on after a share of their rounds: one in `factor`, and whoever cannot be told from the last of these.

        Args:
            promises: point -> fold -> what it promises, larger is better, of the points that have come so far in this run; NaN where it failed.
        """
        means = {point: statistics.fmean(each.values()) for point, each in promises.items() if point not in self.ended}
        ranked = sorted((point for point in means if not math.isnan(means[point])), key=lambda p: (-means[p], p))
        sure = {point for point, end in self.ended.items() if end > share}
        if sure:
            # Whoever was stopped here came before those, and is known.
            return (sure & promises.keys()) | set(ranked)
        places = len(self.points) // self.factor ** (self.shares.index(share) + 1)
        chosen, others = ranked[:places], ranked[places:]
        return {*chosen, *(p for p in others if _is_near(promises[p], promises[chosen[-1]], share))}


def _is_near(one: Mapping[int, float], other: Mapping[int, float], share: float) -> bool:
    """Whether a point promises less than another by no more than the standard error of the difference over the folds, as often as their rounds are
    still to double: each time is a guess."""
    behind = [other[fold] - one[fold] for fold in one.keys() & other.keys()]
    if len(behind) < 2:
        return False
    error = statistics.stdev(behind) / math.sqrt(len(behind))
    return statistics.fmean(behind) <= math.log2(1 / share) * error
