"""Successive halving: grid points are judged after a part of their rounds, and those that promise most go on (Jamieson and Talwalkar,
"Non-stochastic best arm identification and hyperparameter optimization", 2016). No Spark.

What counts is what a point may have at the end, not what it has: trees that are added in small steps (`learning_rate`) begin far behind and are often the
best in the end, which the value after a part of the rounds says the opposite of (`scripts/bench halving`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
        factor: one in so many goes on, with so many times its rounds.
        points: how many grid points compete.
        ended: known points of an interrupted search, and the share of their rounds at which they were judged for good.
    """

    factor: int
    points: int
    ended: Mapping[int, float] = field(default_factory=dict)

    @property
    def shares(self) -> tuple[float, ...]:
        """The parts of their rounds after which points are judged, 1 at last."""
        steps = 0
        while self.factor ** (steps + 1) <= self.points:
            steps += 1
        return tuple(1 / self.factor**step for step in range(steps, -1, -1))

    def going_on(self, share: float, scores: Mapping[int, float]) -> set[int]:
        """The points that go on after a share of their rounds.

        Args:
            scores: what the points promise that have come so far in this run, larger is better; NaN for one that failed.
        """
        open_places = math.ceil(self.points * self._left(share))
        sure = {point for point, end in self.ended.items() if end > share}
        sound = [point for point, score in scores.items() if point not in self.ended and not math.isnan(score)]
        ranked = sorted(sound, key=lambda point: (-scores[point], point))
        return (sure & scores.keys()) | set(ranked[: max(open_places - len(sure), 0)])

    def _left(self, share: float) -> float:
        """The part of all points that goes on after a share."""
        step = self.shares.index(share) + 1
        return float(1 / self.factor**step)
