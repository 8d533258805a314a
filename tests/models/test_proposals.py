"""Points of a search space: where they lie, that they can be had again, and that scores guide them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from conf.candidates import Range
from models.proposals import Proposals

pytestmark = pytest.mark.quick

SPACE: dict[str, Any] = {
    "rate": Range.model_validate({"from": 0.001, "to": 1.0, "scale": "log"}),
    "depth": Range.model_validate({"from": 2, "to": 9}),
    "share": Range.model_validate({"from": 0.5, "to": 1}),
    "layers": ([8], [8, 4], None),
}
METHODS = ["random", "bayesian", "evolutionary"]


def drawn(method: str, seed: int, rounds: int = 6, at_once: int = 8) -> list[dict[str, Any]]:
    """Points of all rounds, where the score falls with the distance from depth 7 and rate 0.1; every fifth fails."""
    proposals = Proposals(SPACE, method, seed, larger_is_better=True)
    points = []
    for _ in range(rounds):
        asked = proposals.ask(at_once)
        proposals.tell([math.nan if i % 5 == 4 else score(point) for i, point in enumerate(asked)])
        points += asked
    return points


def score(point: dict[str, Any]) -> float:
    return -abs(point["depth"] - 7) - abs(math.log10(point["rate"]) + 1)


@pytest.mark.parametrize("method", METHODS)
def test_points_lie_in_the_space(method: str) -> None:
    """Whole numbers where both ends are, ends included; choices as they are written."""
    points = drawn(method, 0, rounds=40)
    assert all(set(point) == set(SPACE) for point in points)
    assert {type(point["depth"]) for point in points} == {int}
    assert {point["depth"] for point in points} <= set(range(2, 10))
    assert all(0.001 <= point["rate"] <= 1.0 and 0.5 <= point["share"] <= 1.0 for point in points)
    assert all(point["layers"] in SPACE["layers"] for point in points)


def test_a_log_scale_draws_small_numbers_as_often_as_large_ones() -> None:
    """A third of the points in each decade."""
    rates = [point["rate"] for point in drawn("random", 0, rounds=50)]
    assert [sum(low <= rate < 10 * low for rate in rates) for low in (0.001, 0.01, 0.1)] == pytest.approx(
        [133] * 3, abs=25
    )


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_and_scores_give_equal_points(method: str) -> None:
    """So that a search that was killed finds its trials again; another seed gives others."""
    assert drawn(method, 1) == drawn(method, 1)
    assert drawn(method, 1) != drawn(method, 2)


@pytest.mark.parametrize("method", ["bayesian", "evolutionary"])
def test_scores_guide_what_comes_next(method: str) -> None:
    """The last rounds do better than the first; random points do not."""
    gains = []
    for kind in (method, "random"):
        points = [score(point) for seed in range(5) for point in drawn(kind, seed, rounds=12)]
        rounds = [points[seed * 96 + first : seed * 96 + first + 24] for seed in range(5) for first in (0, 72)]
        early, late = (sum(map(sum, rounds[start::2])) / 120 for start in (0, 1))
        gains.append(late - early)
    assert gains[0] > 1.0
    assert abs(gains[1]) < 0.5


def test_the_second_round_knows_of_the_first() -> None:
    """No later: a search often has but four. Other scores lead to other points."""

    def second(sign: float) -> list[dict[str, Any]]:
        proposals = Proposals(SPACE, "bayesian", 0, larger_is_better=True)
        proposals.tell([sign * score(point) for point in proposals.ask(8)])
        return proposals.ask(8)

    assert second(1.0) == second(1.0)
    assert second(1.0) != second(-1.0)


def test_smaller_may_be_better() -> None:
    """The direction is that of the metric."""
    found = []
    for larger in (True, False):
        proposals = Proposals(
            {"x": Range.model_validate({"from": 0.0, "to": 1.0})}, "bayesian", 0, larger_is_better=larger
        )
        for _ in range(8):
            asked = proposals.ask(8)
            proposals.tell([point["x"] for point in asked])
        found.append(sum(point["x"] for point in asked) / 8)
    assert found[0] > 0.8
    assert found[1] < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_no_point_is_drawn_twice(method: str) -> None:
    """A small space comes to its end, and then there is nothing more to ask."""
    proposals = Proposals({"depth": (4, 6), "leaves": (1, 2, 3)}, method, 0, larger_is_better=True)
    rounds = []
    for _ in range(4):
        rounds.append([tuple(point.values()) for point in proposals.ask(4)])
        proposals.tell([float(sum(point)) for point in rounds[-1]])
    assert [len(points) for points in rounds] == [4, 2, 0, 0]
    assert sorted(rounds[0] + rounds[1]) == [(depth, leaves) for depth in (4, 6) for leaves in (1, 2, 3)]


@pytest.mark.parametrize("method", METHODS)
def test_all_of_a_space_is_found(method: str) -> None:
    """However sure a sampler is of what is best."""
    proposals = Proposals({"depth": tuple(range(10)), "leaves": tuple(range(10))}, method, 0, larger_is_better=True)
    points = set()
    for _ in range(13):
        asked = [tuple(point.values()) for point in proposals.ask(8)]
        proposals.tell([-float(sum(point)) for point in asked])
        points |= {*asked}
    assert len(points) == 100
    assert proposals.ask(8) == []


@pytest.mark.parametrize("method", ["bayesian", "evolutionary"])
@pytest.mark.parametrize("sign", [1, -1], ids=["larger is better", "smaller is better"])
def test_what_was_stopped_counts_as_no_better(method: str, sign: int) -> None:
    """Though it looks better: fewer of what comes next lie there."""
    space = {"rate": SPACE["rate"], "depth": SPACE["depth"]}

    def later(seed: int, share: float) -> int:
        """How many of the last points lie where the score is high, of models of a share of their rounds."""
        proposals = Proposals(space, method, seed, larger_is_better=sign == 1)
        for _ in range(8):
            rates = [point["rate"] for point in proposals.ask(8)]
            scores = [sign * (1.0 + rate if rate > 0.1 else 0.5 - rate) for rate in rates]
            proposals.tell(scores, [share if rate > 0.1 else 1.0 for rate in rates])
        return sum(point["rate"] > 0.1 for point in proposals.ask(16))

    whole, stopped = (sum(later(seed, share) for seed in range(5)) for share in (1.0, 0.25))
    # A third of the space, and so of points by chance.
    assert whole > 5 * 16 / 3 > stopped
