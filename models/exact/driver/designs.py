"""Feature stages of one fold as an affine map of the raw design, so that all folds and settings share one pass over the rows.

The raw design of a row, the same for every fold, is

- for each numeric column its value, or a fill value where it is missing (the mean of all rows, say: near the values that imputers
  put there, so that nothing cancels);
- for each numeric column with missing values a flag, 1 where it is missing;
- the one-hot columns of each code: the levels of a string column.

What stages learn in a fold follows from sums over its training rows, every row counted once whatever its weight, because feature
stages know no `weightCol`:

- `Imputer`: mean from the moments of value and flag; median and mode are stock's, fitted in each fold;
- `StringIndexer`: counts by level, which are the `nonzero` of the one-hot columns;
- `StandardScaler`: the moments, mapped by the stages before it;
- `MinMaxScaler`, `MaxAbsScaler`: the ranges of the moments, where the column is one raw column. Not after an `Imputer`: the fill value
  may lie outside of the range of the training rows.

A `Columns` is one column of the frame within a pipeline, as a map of the raw design; `VectorAssembler` puts them side by side. A stage
that drops rows (`handleInvalid="skip"`) or fails for some (`"error"`, with a level that only validation rows have) has no such map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.exact.driver.affine import Affine
from models.exact.driver.moments import Moments

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Columns:
    """k columns, raw design (Q) @ matrix + offset.

    Attributes:
        matrix: (Q, k).
        offset: (k).
    """

    matrix: Doubles
    offset: Doubles

    def times(self, scale: Doubles) -> Columns:
        """Each column times its number, (k)."""
        return Columns(self.matrix * scale, self.offset * scale)

    def plus(self, shift: Doubles) -> Columns:
        """Each column plus its number, (k)."""
        return Columns(self.matrix, self.offset + shift)

    @property
    def affine(self) -> Affine:
        return Affine(self.matrix, self.offset)


def raw(size: int, at: Sequence[int]) -> Columns:
    """Some columns of a raw design of `size` columns, as they are."""
    return Columns(np.eye(size)[:, list(at)], np.zeros(len(at)))


def assembled(parts: Sequence[Columns]) -> Columns:
    """`VectorAssembler`."""
    return Columns(np.hstack([part.matrix for part in parts]), np.concatenate([part.offset for part in parts]))


def mean_of_known(rows: Moments, value: int, flag: int, fill: float) -> float:
    """What `Imputer(strategy="mean")` learns: the mean of the rows whose flag is 0.

    Args:
        rows: of the raw design in the training rows, not weighted.
        value, flag: places of the value and the flag in the raw design.
        fill: the value where the flag is 1.
    """
    # About the fill value, where missing rows add nothing.
    return float(fill + (rows.mean[value] - fill) / (1 - rows.mean[flag]))


def imputed(size: int, value: int, flag: int, fill: float, replacement: float) -> Columns:
    """`Imputer`: what is missing becomes `replacement`."""
    matrix = np.zeros((size, 1))
    matrix[value], matrix[flag] = 1.0, replacement - fill
    return Columns(matrix, np.zeros(1))


def in_order(counts: Doubles, order: str) -> npt.NDArray[np.intp]:
    """Levels in the order of `StringIndexer(stringOrderType=order)`, without those that do not occur.

    Args:
        counts: (n) training rows by level (`Moments.nonzero` of its one-hot column), in the order of their names: ties stay in it.
    """
    names = np.arange(len(counts))
    ordered = {
        "frequencyDesc": np.argsort(-counts, kind="stable"),
        "frequencyAsc": np.argsort(counts, kind="stable"),
        "alphabetAsc": names,
        "alphabetDesc": names[::-1],
    }[order]
    return np.asarray(ordered[counts[ordered] > 0])


def indexed(size: int, first: int, order: npt.NDArray[np.intp]) -> Columns:
    """`StringIndexer`: a level's place in `order`, and one more for any other value.

    Args:
        first: where the one-hot columns of the levels begin in the raw design.
    """
    matrix = np.zeros((size, 1))
    matrix[first + order, 0] = np.arange(len(order)) - len(order)
    return Columns(matrix, np.array([float(len(order))]))


def one_hot(size: int, first: int, order: npt.NDArray[np.intp], *, drop_last: bool) -> Columns:
    """`OneHotEncoder` of an index that keeps unknown values: a column for each level, and for unknown ones unless it is dropped."""
    known = raw(size, (first + order).tolist())
    if drop_last:
        return known
    return assembled([known, Columns(-known.matrix.sum(axis=1, keepdims=True), np.ones(1))])


def standardised(columns: Columns, rows: Moments, *, with_mean: bool, with_std: bool) -> Columns:
    """`StandardScaler`. A constant column becomes 0 with `with_std`.

    Args:
        rows: of the raw design in the training rows, not weighted.
    """
    mapped = rows.mapped(columns.affine)
    if with_mean:
        columns = columns.plus(-mapped.mean[:-1])
    if with_std:
        std = mapped.std(unbiased=True)[:-1]
        columns = columns.times(np.divide(1.0, std, out=np.zeros_like(std), where=std > 0))
    return columns


def between(columns: Columns, rows: Moments, *, low: float, high: float) -> Columns:
    """`MinMaxScaler(min=low, max=high)` of columns that are one raw column each. A constant column becomes their middle.

    Args:
        rows: of the raw design in the training rows, not weighted.
    """
    mapped = rows.mapped(columns.affine)
    least, range_ = mapped.minimum[:-1], mapped.maximum[:-1] - mapped.minimum[:-1]
    scale = np.divide(high - low, range_, out=np.zeros_like(range_), where=range_ > 0)
    return columns.plus(-least).times(scale).plus(np.where(range_ > 0, low, (low + high) / 2))


def by_largest(columns: Columns, rows: Moments) -> Columns:
    """`MaxAbsScaler` of columns that are one raw column each. A column of zeros stays.

    Args:
        rows: as in `between`.
    """
    mapped = rows.mapped(columns.affine)
    largest = np.maximum(np.abs(mapped.minimum[:-1]), np.abs(mapped.maximum[:-1]))
    return columns.times(1 / np.where(largest > 0, largest, 1.0))
