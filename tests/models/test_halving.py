"""Who goes on in successive halving."""

from __future__ import annotations

import math

import pytest

from models.halving import Halving, promise

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("factor", "points", "expected"),
    [(3, 12, (1 / 9, 1 / 3, 1)), (2, 5, (1 / 4, 1 / 2, 1)), (4, 64, (1 / 64, 1 / 16, 1 / 4, 1)), (3, 2, (1,)), (2, 1, (1,))],
)  # fmt: skip
def test_points_are_judged_as_often_as_they_can_be_cut(factor: int, points: int, expected: tuple[float, ...]) -> None:
    """Down to one that goes on, at the shares that give each round of judging about the same work."""
    assert Halving(factor, frozenset(range(points))).shares == pytest.approx(expected)


def flat(scores: dict[int, float]) -> dict[int, dict[int, float]]:
    """The same in all of three folds: any difference is certain."""
    return {point: dict.fromkeys(range(3), score) for point, score in scores.items()}


def test_the_best_go_on() -> None:
    """Rounded down; the first of equals; none that failed."""
    halving = Halving(3, frozenset(range(7)))
    first, last = halving.shares
    scores = {0: 0.5, 1: 0.9, 2: math.nan, 3: 0.7, 4: 0.69, 5: 0.8, 6: 0.1}
    assert halving.going_on(first, flat(scores)) == {1, 5}
    assert last == 1


@pytest.mark.parametrize(("share", "expected"), [(1 / 4, {0, 1, 2, 3}), (1 / 2, {1, 2})])
def test_whoever_cannot_be_told_from_the_last_goes_on_too(share: float, expected: set[int]) -> None:
    """Point 1 is the last; others promise 0.03, 0.06 and 0.2 less, with a standard error of 0.035: for two doublings it counts twice."""
    best = {0: 0.9, 1: 0.7} if share == 1 / 4 else {1: 0.7}
    promises = {point: dict.fromkeys(range(4), score) for point, score in best.items()}
    for point, less in ((2, 0.03), (3, 0.06), (4, 0.2)):
        promises[point] = {fold: 0.7 - less + (0.06 if fold % 2 else -0.06) for fold in range(4)}
    assert Halving(2, frozenset(range(8))).going_on(share, promises) == expected
    one_fold = {point: {0: each[0]} for point, each in promises.items()}
    assert Halving(2, frozenset(range(8))).going_on(share, one_fold) == best.keys()


@pytest.mark.parametrize(
    ("value", "half", "share", "expected"),
    [(0.7, 0.6, 1 / 4, 0.9), (0.7, 0.6, 1.0, 0.7), (0.5, 0.75, 1 / 2, 0.25), (0.6, 0.7, 1 / 8, 0.3)],
    ids=["two doublings", "at the end", "a loss", "overfitting"],
)
def test_what_a_point_promises(value: float, half: float, share: float, expected: float) -> None:
    """The last doubling's gain, as often as its rounds will double."""
    assert promise(value, half, share) == pytest.approx(expected)


def test_fewer_go_on_where_most_failed() -> None:
    """A failed point does not take the place of a sound one, and is given none."""
    scores = {0: math.nan, 1: 0.2, 2: math.nan, 3: math.nan}
    assert Halving(2, frozenset(range(4))).going_on(1 / 4, flat(scores)) == {1}


def test_a_search_goes_on_with_those_that_went_on_before() -> None:
    """Whoever was stopped comes back for the folds that it lacks, to the same share; once one is known that went further, all that are not known did."""
    scores = flat({0: 0.99, 2: 0.1, 4: 0.5, 5: 0.6, 6: 0.4, 7: math.nan})
    begun = Halving(3, frozenset(range(8)), {0: 1 / 3, 1: 1 / 3})
    assert begun.going_on(1 / 3, scores) == {4, 5}
    further = Halving(3, frozenset(range(12)), {0: 1 / 9, 1: 1.0, 2: 1 / 3, 3: 1 / 3})
    assert further.going_on(1 / 9, scores) == {2, 4, 5, 6}
    assert further.going_on(1 / 3, flat({2: 0.1, 5: 0.6, 6: 0.4})) == {5, 6}


def test_those_that_share_no_rows_do_not_compete() -> None:
    """Each group has places by its own size, and what ended in the other takes none."""
    whole = Halving(2, frozenset(range(2, 10)), {2: 1.0, 3: 0.25, 9: 1.0})
    assert whole.among([1, 2, 3, 4, 5]) == Halving(2, frozenset({2, 3, 4, 5}), {2: 1.0, 3: 0.25})
    assert whole.among(range(3, 9)).going_on(1 / 4, flat({3: 0.1, 6: 0.1, 7: 0.3, 8: 0.2})) == {6, 7, 8}
