"""Aggregates of ranges against exact arithmetic; no Spark."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from transforms.arrays import Integers, Ranges, canonical_within_ties, runs

pytestmark = pytest.mark.quick


def ranges(values: pa.Array, group: Integers | None = None, instant: Integers | None = None) -> Ranges:
    one = np.zeros(len(values), dtype=np.int64)
    return Ranges(values, one if group is None else group, np.arange(len(values)) if instant is None else instant)


def some_ranges(rng: np.random.Generator, size: int) -> tuple[Integers, Integers]:
    """Short and long ranges, empty ones among them."""
    start = rng.integers(0, size + 1, 400)
    return start, np.minimum(start + rng.integers(0, [3, size + 1], (200, 2)).reshape(-1), size)


VALUES = {
    "plain": lambda rng: rng.normal(10.0, 3.0, 500),
    "a sentinel among small values": lambda rng: np.where(rng.random(500) < 0.02, 1e300, rng.normal(0.0, 1e-3, 500)),
    "all magnitudes": lambda rng: rng.normal(0.0, 1.0, 500) * 10.0 ** rng.integers(-300, 140, 500),
    "far from zero": lambda rng: 1e15 + np.round(rng.normal(0.0, 50.0, 500)),
}


@pytest.mark.parametrize("kind", VALUES)
def test_sums_are_exact_to_the_last_digit_but_one(kind: str) -> None:
    """What came before a range, however large, leaves no trace in it."""
    rng = np.random.default_rng(0)
    values = VALUES[kind](rng)
    start, end = some_ranges(rng, len(values))
    exact = [math.fsum(values[a:b]) for a, b in zip(start, end, strict=True)]
    scale = np.array([math.fsum(np.abs(values[a:b])) for a, b in zip(start, end, strict=True)])
    found = ranges(pa.array(values)).sum(start, end).to_numpy(zero_copy_only=False)
    empty = start == end
    assert np.array_equal(np.isnan(found), empty)
    assert np.all(np.abs(found - exact)[~empty] <= 2e-16 * np.maximum(np.abs(exact), 1e-10 * scale)[~empty])


@pytest.mark.parametrize("kind", ["plain", "far from zero"])
def test_variances_are_exact_to_twelve_digits(kind: str) -> None:
    """The difference of two sums does not cancel the variance away, however far the mean is from zero or from its group's."""
    rng = np.random.default_rng(1)
    values = VALUES[kind](rng) + np.where(np.arange(500) < 250, 0.0, 1e9)
    start, end = some_ranges(rng, len(values))
    found = ranges(pa.array(values)).variance(start, end).to_pylist()
    for a, b, variance in zip(start, end, found, strict=True):
        if b - a < 2:
            assert variance is None
            continue
        terms = [Fraction(x) for x in values[a:b]]
        mean = sum(terms) / len(terms)
        assert variance == pytest.approx(float(sum((x - mean) ** 2 for x in terms) / (len(terms) - 1)), rel=1e-12)


def test_equal_values_have_no_variance() -> None:
    values = pa.array([0.1] * 1000)
    assert ranges(values).stddev(np.array([0, 3, 5]), np.array([1000, 900, 6])).to_pylist() == [0.0, 0.0, None]


def test_infinities_and_nan_stay_in_their_ranges() -> None:
    """A range without them is not touched; with them, sums follow IEEE and SQL orders NaN last."""
    column = ranges(pa.array([1.0, np.inf, 2.0, -np.inf, 3.0, np.nan, 4.0, None]))
    start, end = column.among_valid(np.array([0, 0, 2, 0, 4, 4, 6, 7]), np.array([1, 3, 4, 4, 5, 7, 8, 8]))
    expected = {
        "count": [1, 3, 2, 4, 1, 3, 1, 0],
        "sum": [1.0, np.inf, -np.inf, np.nan, 3.0, np.nan, 4.0, None],
        "avg": [1.0, np.inf, -np.inf, np.nan, 3.0, np.nan, 4.0, None],
        "variance": [None, np.nan, np.nan, np.nan, None, np.nan, None, None],
        "min": [1.0, 1.0, -np.inf, -np.inf, 3.0, 3.0, 4.0, None],
        "max": [1.0, np.inf, 2.0, np.inf, 3.0, np.nan, 4.0, None],
        "last": [1.0, 2.0, -np.inf, -np.inf, 3.0, 4.0, 4.0, None],
    }
    found = {name: getattr(column, name)(start, end).to_pylist() for name in expected}
    assert str(found) == str(expected)


def test_whole_numbers_are_summed_exactly_or_not_at_all() -> None:
    """Beyond 2**53 no digit is lost; a running total may wrap around where the range's does not."""
    large = 2**62
    column = ranges(pa.array([large, large - 1, 7, -large, 2**53 + 1], pa.int64()))
    assert column.sum(np.array([1, 2, 3, 0]), np.array([3, 5, 4, 1])).to_pylist() == [
        large + 6,
        7 - large + 2**53 + 1,
        -large,
        large,
    ]
    with pytest.raises(OverflowError, match="does not fit in 64 bits: cast the column to double"):
        column.sum(np.array([0]), np.array([3]))


@pytest.mark.parametrize(
    "values",
    [
        ["b", None, "a", "é", "", "b", None, "zz"],
        [True, None, False, False, True, None, True, False],
        [None] * 8,
    ],
)
def test_extremes_and_last_of_any_ordered_values(values: list[object]) -> None:
    """Every range of a short array, by Python's own min and max; of one instant the largest value is the last."""
    type_ = pa.bool_() if True in values else pa.string()
    instant = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    column = ranges(pa.array(values, type_), instant=instant)
    whole_instants = [0, 2, 5, 6, 8]
    cuts = [(a, b) for a in whole_instants for b in whole_instants if a <= b]
    start, end = column.among_valid(*(np.array(ends) for ends in zip(*cuts, strict=True)))
    known = [[(instant[i], values[i]) for i in range(a, b) if values[i] is not None] for a, b in cuts]
    expected = {
        "min": [min((value for _, value in pairs), default=None) for pairs in known],
        "max": [max((value for _, value in pairs), default=None) for pairs in known],
        "last": [max(pairs)[1] if pairs else None for pairs in known],
    }
    assert {name: getattr(column, name)(start, end).to_pylist() for name in expected} == expected


def test_ties_are_put_in_one_order() -> None:
    """Only rows of the same run move, and only by their values."""
    run = runs(np.array([3, 3, 3, 8, 9, 9]))
    assert run.tolist() == [0, 0, 0, 1, 2, 2]
    columns = [np.array([2.0, 1.0, 2.0, 5.0, 0.0, 0.0]), np.array([4.0, 9.0, 3.0, 5.0, 1.0, 0.0])]
    assert canonical_within_ties(run, columns).tolist() == [1, 2, 0, 3, 5, 4]
    assert canonical_within_ties(run, []).tolist() == [0, 1, 2, 3, 4, 5]
    assert canonical_within_ties(runs(np.array([], dtype=np.int64)), columns).tolist() == []
