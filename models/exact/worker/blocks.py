"""The rows of one partition in memory, ordered by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Array = Any  # of any array namespace: NumPy, CuPy, array-api-strict


@dataclass(frozen=True)
class Cell:
    """Rows of one cell: `n` rows of the raw design, which is `dense` followed by the one-hot columns of `codes`.

    Attributes:
        number: which cell, as the driver counts them.
        dense: (n, q) float64, C order.
        codes: (n, g) int32, for each of g categorical columns the level of the row, or -1 for a row without one.
        label: (n) float64: the value, or the class number.
        weight: (n) float64.
    """

    number: int
    dense: Array
    codes: Array
    label: Array
    weight: Array


@dataclass(frozen=True)
class Blocks:
    """What one worker holds. A partition without rows has no cells.

    Attributes:
        levels: number of levels of each categorical column. The raw design has Q = q + sum(levels) columns.
        worker: number of the worker.
        made: what a kernel made of the rows and will need again.
    """

    cells: Sequence[Cell]
    levels: tuple[int, ...] = ()
    worker: int = 0
    made: dict[str, Any] = field(default_factory=dict)
