"""First two moments of a design and its label, by cell: what a linear model needs to know of the rows.

Moments of two sets of rows make those of their union, without the loss that raw sums of squares suffer: Chan, Golub and LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances" (1979), weighted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import numpy.typing as npt
from scipy.linalg import block_diag

from models.exact.driver.affine import Affine
from models.exact.driver.passes import Passes, Reply
from transforms.errors import ModelError

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# A variance that is this share of the terms that it is the sum of is their rounding.
ROUNDING = 64 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Moments:
    """Moments of z = [x_1, ..., x_p, y], D = p + 1 columns, over rows of positive weight w.

    Attributes:
        count: rows.
        weight: sum of w.
        weight_squared: sum of w^2.
        mean: (D), weighted.
        comoment: (D, D), sum of w (z - mean) (z - mean)'.
        minimum, maximum: (D); equal exactly where the column is constant, bounds where columns were `mapped`.
        nonzero: (D), rows where the column is not 0; all rows where columns were `mapped`.
    """

    count: int
    weight: float
    weight_squared: float
    mean: Doubles
    comoment: Doubles
    minimum: Doubles
    maximum: Doubles
    nonzero: Doubles

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ModelError(
                f"Moments need rows of positive total weight, but got {self.weight}: check the weight column."
            )

    @property
    def constant(self) -> Flags:
        """(D), whether the column has one value. By its range: a constant's computed variance is seldom exactly 0."""
        return np.asarray(self.minimum == self.maximum)

    def std(self, *, unbiased: bool) -> Doubles:
        """(D), standard deviations, 0 for constants.

        Args:
            unbiased: divide by W - W2 / W, as MLlib's `Summarizer`; else by W, as its `WeightedLeastSquares`.
        """
        divisor = self.weight - self.weight_squared / self.weight if unbiased else self.weight
        if self.count == 1 or divisor <= 0:
            return np.zeros(len(self.mean))
        variance = np.maximum(np.diagonal(self.comoment), 0.0) / divisor
        return np.where(self.constant, 0.0, np.sqrt(variance))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of rows."""
        weight = self.weight + other.weight
        apart = other.mean - self.mean
        share = other.weight / weight
        return Moments(
            count=self.count + other.count,
            weight=weight,
            weight_squared=self.weight_squared + other.weight_squared,
            mean=self.mean + share * apart,
            comoment=self.comoment + other.comoment + np.outer(self.weight * share * apart, apart),
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            nonzero=self.nonzero + other.nonzero,
        )

    def mapped(self, design: Affine) -> Moments:
        """Moments of [features, y], features an affine map of x.

        A feature of one raw column has an exact range; of several, bounds, or one value if its variance is nothing but rounding.
        """
        if design.matrix is None and design.offset is None:
            return self
        p = len(self.mean) - 1
        matrix = np.ones(p) if design.matrix is None else design.matrix
        matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
        offset = np.zeros(matrix.shape[1]) if design.offset is None else design.offset
        # The label passes through.
        whole = block_diag(matrix, 1.0)
        comoment = whole.T @ (self.comoment @ whole)
        rising, falling = np.maximum(whole, 0.0), np.minimum(whole, 0.0)
        shift = np.append(offset, 0.0)
        mean = self.mean @ whole + shift
        low = self.minimum @ rising + self.maximum @ falling + shift
        high = self.maximum @ rising + self.minimum @ falling + shift
        size = np.abs(whole)
        terms = np.einsum("ij,ij->j", size, np.abs(self.comoment) @ size)
        mixed = np.count_nonzero(whole, axis=0) > 1
        constant = mixed & (np.diagonal(comoment) <= ROUNDING * terms)
        return replace(
            self,
            mean=mean,
            comoment=comoment,
            minimum=np.where(constant, mean, low),
            maximum=np.where(constant, mean, high),
            nonzero=np.append(np.full(len(offset), float(self.count)), self.nonzero[p]),
        )


def size(width: int, cells: int) -> int:
    """Bytes of the comoments of so many columns and a label: nearly all that moments of so many cells take."""
    return cells * (width + 1) ** 2 * 8


def of_passes(passes: Passes, cells: int, *, weighted: bool = True) -> list[Moments | None]:
    """Moments by cell number, by one pass over the rows; `weighted` as the kernel `moments` takes it."""
    return of_replies(passes.run("moments", {"weighted": weighted}), cells)


def of_replies(replies: Iterable[Reply], cells: int) -> list[Moments | None]:
    """Moments by cell number, None for a cell without rows, from the workers' replies to the kernel `moments`.

    Args:
        cells: number of cells, as `Cells.count`.
    """
    by_cell: list[Moments | None] = [None] * cells
    for reply in replies:
        for at in range(len(reply.get("cell", ()))):
            numbers = {name: np.asarray(reply[name][at]) for name in reply}
            found = Moments(
                count=int(numbers["count"]),
                weight=float(numbers["weight"]),
                weight_squared=float(numbers["weight_squared"]),
                mean=numbers["mean"],
                comoment=numbers["comoment"],
                minimum=numbers["minimum"],
                maximum=numbers["maximum"],
                nonzero=numbers["nonzero"],
            )
            cell = int(numbers["cell"])
            by_cell[cell] = union(by_cell[cell], found)
    return by_cell


def union(one: Moments | None, other: Moments | None) -> Moments | None:
    """Moments of both sets of rows, None for a set without rows."""
    return one.merge(other) if one and other else one or other


def total(moments: Sequence[Moments | None], cells: Flags) -> Moments:
    """Moments of the rows of several cells.

    Args:
        moments: by cell number, as `of_replies`.
        cells: (C), which of them: a row of `Cells.trains` or `Cells.validates`.

    Raises:
        ModelError: none of them has rows of positive weight.
    """
    chosen = [each for each, taken in zip(moments, cells, strict=True) if taken and each is not None]
    if not chosen:
        raise ModelError(
            "Moments: no row of this part of the fold has a positive weight; use fewer folds, or check the weights."
        )
    return reduce(Moments.merge, chosen)
