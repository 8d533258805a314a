"""Successive halving: grid points are judged after a part of their rounds, and the best of them go on (Jamieson and Talwalkar, "Non-stochastic
best arm identification and hyperparameter optimization", 2016). No Spark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


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
            scores: of the points that have come so far in this run, larger is better; NaN for one that failed.
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
