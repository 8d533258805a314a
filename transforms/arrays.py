"""Aggregates of many ranges of one array at once, without a loop over rows.

A range is `[start, end)`. Sums are differences of two running sums. Plain running sums would carry the rounding of everything
that came before into each range, so they are kept in two doubles, the running sum and the sum of its rounding errors (Ogita,
Rump and Oishi, "Accurate sum and dot product", 2005): results are at least as exact as if each range were summed on its own.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Pair = tuple[Doubles, Doubles]  # the unevaluated sum of two doubles, the second small

_SPLITTER = 134217729.0  # 2**27 + 1, Veltkamp
_SQUARABLE = 1e140
_BAND = 2.0**-32


def two_sum(a: Doubles, b: Doubles) -> Pair:
    """`a + b` and its exact rounding error (Knuth)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def two_product(a: Doubles, b: Doubles) -> Pair:
    """`a * b` and its exact rounding error (Dekker); exact below about 1e150."""
    product = a * b
    big = a * _SPLITTER
    a_high = big - (big - a)
    big = b * _SPLITTER
    b_high = big - (big - b)
    a_low, b_low = a - a_high, b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


class RunningSum:
    """Sums of ranges of finite doubles.

    Two doubles hold 32 digits, which one sentinel of 1e300 would use up for all that comes after it. So values are split into
    bands of magnitude, each within a factor of 2**32 of its largest; ordinary data have one.
    """

    def __init__(self, values: Doubles) -> None:
        self._bands: list[_Band] = []
        size = np.abs(values)
        while (peak := float(np.max(size, initial=0.0))) > 0.0:
            here = size >= peak * _BAND
            self._bands.append(_Band(np.where(here, values, 0.0), peak))
            size = np.where(here, 0.0, size)
            values = np.where(here, 0.0, values)

    def pair(self, start: Integers, end: Integers) -> Pair:
        high, low = np.zeros(len(start)), np.zeros(len(start))
        for band in self._bands:
            more, more_low = band.pair(start, end)
            high, error = two_sum(high, more)
            high, low = two_sum(high, np.where(np.isfinite(high), low + (more_low + error), 0.0))
        return high, low

    def of(self, start: Integers, end: Integers) -> Doubles:
        return self.pair(start, end)[0]


class _Band:
    """Running sums of values of like magnitude, none larger than `peak`, scaled down where their sum could overflow."""

    def __init__(self, values: Doubles, peak: float) -> None:
        self._scale = 1.0 if peak < 1e280 else 2.0**-100
        values = values * self._scale
        self._sums = np.concatenate([[0.0], np.cumsum(values)])
        errors = two_sum(self._sums[:-1], values)[1]
        self._errors = np.concatenate([[0.0], np.cumsum(errors)])

    def pair(self, start: Integers, end: Integers) -> Pair:
        high, low = two_sum(self._sums[end], -self._sums[start])
        low = low + (self._errors[end] - self._errors[start])
        if self._scale == 1.0:
            return high, low
        return high / self._scale, low / self._scale


def _running_count(flags: npt.NDArray[np.bool_]) -> Integers:
    return np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])


def runs(codes: Integers) -> Integers:
    """Number of the run of equal values that each position of a sorted array lies in."""
    if len(codes) == 0:
        return codes
    return np.concatenate([[0], np.cumsum(codes[1:] != codes[:-1])])


def canonical_within_ties(run: Integers, columns: list[Doubles]) -> Integers:
    """A permutation that keeps the runs in place and sorts inside each by the columns' values.

    Floating sums depend on the order of their terms: with it they are the same however the rows arrived.
    """
    order = np.arange(len(run))
    same = run[1:] == run[:-1]
    tied = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same])) if len(run) else order
    if len(tied) and columns:
        order[tied] = tied[np.lexsort((*(column[tied] for column in reversed(columns)), run[tied]))]
    return order


class Ranges:
    """Aggregates of ranges of one column, nulls left out as SQL does; each running table is made at its first use.

    `values` is ordered by group and time, `group` numbers the groups that no range crosses, `instant` the runs of equal time.
    """

    def __init__(self, values: pa.Array, group: Integers, instant: Integers) -> None:
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        self._valid = None if valid.all() else _running_count(valid)
        self._values = values if self._valid is None else values.drop_null()
        self._group, self._instant = group[valid], instant[valid]

    def among_valid(self, start: Integers, end: Integers) -> tuple[Integers, Integers]:
        """The same ranges, counted in values that are not null: what the other methods take."""
        return (start, end) if self._valid is None else (self._valid[start], self._valid[end])

    def count(self, start: Integers, end: Integers) -> pa.Array:
        return pa.array(end - start, pa.int64())

    def sum(self, start: Integers, end: Integers) -> pa.Array:
        """Whole numbers are summed exactly.

        Raises:
            OverflowError: a sum of whole numbers does not fit in 64 bits.
        """
        total = self._whole_sum(start, end) if self._is_whole else self._sum(start, end)
        return pa.array(total, mask=end == start)

    def avg(self, start: Integers, end: Integers) -> pa.Array:
        count = end - start
        return pa.array(self._sum(start, end) / np.maximum(count, 1), mask=count == 0)

    def variance(self, start: Integers, end: Integers) -> pa.Array:
        """Of the sample, divided by `count - 1`: null for fewer than two values, NaN with an infinity or a NaN among them."""
        return pa.array(self._variance(start, end), mask=end - start < 2)

    def stddev(self, start: Integers, end: Integers) -> pa.Array:
        """Square root of `variance`."""
        return pa.array(np.sqrt(self._variance(start, end)), mask=end - start < 2)

    def min(self, start: Integers, end: Integers) -> pa.Array:
        """In SQL's order: NaN is larger than any number."""
        return self._of_rank(-_largest(-self._ranks, start, end), start, end)

    def max(self, start: Integers, end: Integers) -> pa.Array:
        """In SQL's order: NaN is larger than any number."""
        return self._of_rank(_largest(self._ranks, start, end), start, end)

    def last(self, start: Integers, end: Integers) -> pa.Array:
        """The value at the latest instant, the largest if there are several."""
        if len(self._values) == 0:
            return pa.nulls(len(start), self._values.type)
        first_of_instant = np.flatnonzero(np.diff(self._instant, prepend=-1))
        largest = np.maximum.reduceat(self._ranks, first_of_instant)
        run = np.searchsorted(first_of_instant, np.maximum(end - 1, 0), side="right") - 1
        return self._of_rank(largest[run], start, end)

    @property
    def _is_whole(self) -> bool:
        return bool(pa.types.is_integer(self._values.type))

    @cached_property
    def _numbers(self) -> npt.NDArray[np.int64 | np.float64]:
        numbers: npt.NDArray[np.int64 | np.float64] = self._values.to_numpy(zero_copy_only=False)
        return numbers

    @cached_property
    def _doubles(self) -> Doubles:
        return self._numbers.astype(np.float64)

    @cached_property
    def _finite(self) -> RunningSum:
        return RunningSum(np.where(np.isfinite(self._doubles), self._doubles, 0.0))

    @cached_property
    def _special(self) -> tuple[Integers, ...] | None:
        """Running counts of NaN, of +infinity and of -infinity; None when there are none."""
        if np.isfinite(self._doubles).all():
            return None
        return tuple(
            _running_count(f) for f in (np.isnan(self._doubles), self._doubles == np.inf, self._doubles == -np.inf)
        )

    def _sum(self, start: Integers, end: Integers) -> Doubles:
        if self._is_whole:
            return self._whole_sum(start, end).astype(np.float64)
        total = self._finite.of(start, end)
        if self._special is None:
            return total
        nan, up, down = ((running[end] - running[start]) > 0 for running in self._special)
        total = np.where(up, np.inf, np.where(down, -np.inf, total))
        return np.where(nan | (up & down), np.nan, total)

    @cached_property
    def _running_whole(self) -> Integers:
        return np.concatenate([[0], np.cumsum(self._numbers, dtype=np.int64)])

    def _whole_sum(self, start: Integers, end: Integers) -> Integers:
        # Running sums may wrap around; their difference is right all the same if it fits.
        total = self._running_whole[end] - self._running_whole[start]
        if np.abs(self._doubles).sum() >= 2.0**62 and np.any(np.abs(self._finite.of(start, end) - total) > 2.0**62):
            raise OverflowError("a sum of whole numbers in a window does not fit in 64 bits: cast the column to double")
        return total

    @cached_property
    def _centred(self) -> tuple[RunningSum, RunningSum, RunningSum, Integers]:
        """Running sums of deviations from the group's first value, of their squares, and of the squares' rounding errors.

        The last item is the running count of values that cannot be squared.
        """
        first = np.flatnonzero(np.diff(self._group, prepend=-1))
        finite = np.where(np.abs(self._doubles) < _SQUARABLE, self._doubles, 0.0)
        deviation = finite - np.repeat(finite[first], np.diff(np.append(first, len(finite))))
        square, error = two_product(deviation, deviation)
        unfit = _running_count(~(np.abs(self._doubles) < _SQUARABLE))
        return RunningSum(deviation), RunningSum(square), RunningSum(error), unfit

    def _variance(self, start: Integers, end: Integers) -> Doubles:
        """(sum of squares - square of the sum / n) / (n - 1), the cancelling difference taken between pairs of doubles."""
        deviations, squares, errors, unfit = self._centred
        count = np.maximum(end - start, 2).astype(np.float64)
        total, total_low = deviations.pair(start, end)
        product, product_low = two_product(total, total)
        product_low = product_low + 2.0 * total * total_low
        mean = product / count
        back, back_low = two_product(mean, count)
        mean_low = ((product - back) - back_low + product_low) / count
        square, square_low = squares.pair(start, end)
        spread, spread_low = two_sum(square, -mean)
        spread = spread + (spread_low + ((square_low + errors.of(start, end)) - mean_low))
        variance = np.maximum(spread, 0.0) / (count - 1.0)
        return np.where(unfit[end] > unfit[start], np.nan, variance)

    @cached_property
    def _ranks(self) -> Integers:
        """Dense ranks from 1."""
        ranks: Integers = pc.rank(self._values, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64)
        return ranks

    @cached_property
    def _position_of_rank(self) -> Integers:
        position = np.zeros(int(np.max(self._ranks, initial=0)) + 1, dtype=np.int64)
        position[self._ranks] = np.arange(len(self._ranks))
        return position

    def _of_rank(self, rank: Integers, start: Integers, end: Integers) -> pa.Array:
        empty = start == end
        return self._values.take(pa.array(self._position_of_rank[np.where(empty, 0, rank)], mask=empty))


def _largest(values: Integers, start: Integers, end: Integers) -> Integers:
    """Largest value of each range that is not empty, by a sparse table: a range is covered by two of its levels' powers of two."""
    length = end - start
    level = np.frexp(length.astype(np.float64))[1] - 1
    found = np.zeros(len(start), dtype=np.int64)
    table, step = values, 1
    for current in range(int(np.max(level, initial=-1)) + 1):
        if current:
            table = np.maximum(table[:-step], table[step:])
            step *= 2
        here = np.flatnonzero((level == current) & (length > 0))
        found[here] = np.maximum(table[start[here]], table[end[here] - step])
    return found
