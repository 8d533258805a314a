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
    assert Halving(factor, points).shares == pytest.approx(expected)


def test_the_best_go_on() -> None:
    """Rounded up; the first of equals; none that failed."""
    halving = Halving(3, 7)
    first, last = halving.shares
    scores = {0: 0.5, 1: 0.9, 2: math.nan, 3: 0.7, 4: 0.7, 5: 0.8, 6: 0.1}
    assert halving.going_on(first, scores) == {1, 5, 3}
    assert last == 1


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
    assert Halving(2, 4).going_on(1 / 4, scores) == {1}


def test_a_search_goes_on_with_those_that_went_on_before() -> None:
    """Places that were taken stay taken, and points that were stopped come back for the folds that they lack, to the same share."""
    ended = {0: 1 / 9, 1: 1.0, 2: 1 / 3, 3: 1.0}
    halving = Halving(3, 12, ended)
    # 1 and 3 are known in all folds, 7 to 11 to be imagined as failed.
    scores = {0: 0.99, 2: 0.1, 4: 0.5, 5: 0.6, 6: 0.4}
    assert halving.going_on(1 / 9, scores) == {2, 5}
    assert halving.going_on(1 / 3, {2: 0.1, 5: 0.6}) == set()
