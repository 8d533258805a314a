"""The logistic likelihood of many models at once: what one pass over the workers' rows answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.exact.driver.passes import Passes
from models.exact.worker.tiles import Precision

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# What one worker's reply may hold: one pass then asks for a part of the references.
REPLY_BYTES = 64 * 2**20


@dataclass(frozen=True)
class CellCurvature:
    """Second derivatives of the weighted loss at one point, by cell.

    Attributes:
        weight: (C) weight of the rows of each cell.
        total: (C, K, K, Q + 1, Q + 1).
    """

    weight: Floats
    total: Floats

    def mean(self, trains: Flags) -> Floats:
        """Second derivatives (K, K, Q + 1, Q + 1) of the mean loss over the cells that train."""
        mean: Floats = self.total[trains].sum(axis=0) / self.weight[trains].sum()
        return mean


@dataclass(frozen=True)
class Likelihood:
    """Losses, gradients and curvatures of logistic models.

    Attributes:
        rows: K, rows of coefficients: 1 asks for binomial models, more for multinomial ones.
        cells: C, how many cells there are.
        stride: every how many rows the workers look at; 1 for all.
    """

    passes: Passes
    rows: int
    cells: int
    stride: int = 1

    def evaluate(
        self, weights: Sequence[Floats], trains: Sequence[Flags], precision: Precision
    ) -> tuple[Floats, list[Floats]]:
        """Mean loss (M) and its gradients (M times (Q + 1, K)) at `weights` (M times (Q + 1, K)), in one pass."""
        replies = self.passes.run(
            "logistic_gradient" if self.rows == 1 else "softmax_gradient",
            {
                "weights": self._stacked(weights),
                "trains": np.array(trains),
                "precision": precision,
                "stride": self.stride,
            },
        )
        weight, loss, gradient = (sum(reply[name] for reply in replies) for name in ("weight", "loss", "gradient"))
        gradient = gradient.reshape(-1, self.rows, len(weights)) / weight
        return loss / weight, [gradient[:, :, m] for m in range(len(weights))]

    def curvatures(self, weights: Sequence[Floats], precision: Precision) -> Iterator[CellCurvature]:
        """Second derivatives at each of `weights` (Q + 1, K), in their order; as many passes as replies of `REPLY_BYTES` take."""
        size = self.rows * len(weights[0])
        at_once = max(1, REPLY_BYTES // (self.cells * size**2 * np.dtype(precision).itemsize))
        for start in range(0, len(weights), at_once):
            part = weights[start : start + at_once]
            replies = self.passes.run(
                "logistic_curvature" if self.rows == 1 else "softmax_curvature",
                {"weights": self._stacked(part), "precision": precision, "stride": self.stride},
            )
            shape = (len(part), self.rows, self.rows, len(weights[0]), len(weights[0]))
            for reference in range(len(part)):
                weight = np.zeros(self.cells)
                total = np.zeros((self.cells, *shape[1:]))
                for reply in replies:
                    weight[reply["cells"]] += reply["weight"]
                    total[reply["cells"]] += reply["curvature"].reshape(-1, *shape)[:, reference]
                yield CellCurvature(weight, total)

    def _stacked(self, weights: Sequence[Floats]) -> Floats:
        """(Q + 1, M), or (Q + 1, K, M) for multinomial models."""
        stacked = np.stack(weights, axis=2)
        return np.ascontiguousarray(stacked[:, 0, :] if self.rows == 1 else stacked)
