"""Candidates that the size of the data decides."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import SparkSession

from conf.schema import Train
from models import automatic, search
from models.preprocessing import Profile


def profile(numeric: int = 3, levels: int = 4) -> Profile:
    names = tuple(f"x{i}" for i in range(numeric))
    return Profile(names, ("kind",), frozenset(names[:1]), {"kind": levels})


@pytest.mark.parametrize(
    ("task", "linear", "scale", "strengths"),
    [
        ("binary", "logistic_regression", 1.0, [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]),
        ("multiclass", "logistic_regression", 1.0, [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]),
        ("regression", "linear_regression", 37.0, [0.0037, 0.0111, 0.037, 0.111, 0.37, 1.11, 3.7, 11.1, 37.0]),
    ],
)
def test_a_linear_family_and_boosted_trees(
    spark: SparkSession, task: str, linear: str, scale: float, strengths: list[float]
) -> None:
    """Penalties of a regression are in the unit of its label; all estimators take what is drawn for them."""
    chosen = automatic.candidates(task, profile(), 100_000, scale)

    assert list(chosen) == [linear, "boosted_trees"]
    assert chosen[linear].grid == {"reg_param": tuple(strengths), "elastic_net_param": (0.0, 0.5)}
    trees = chosen["boosted_trees"]
    assert (trees.params, trees.halving) == ({"n_estimators": 300, "early_stopping_rounds": 15}, 2)
    settings: dict[str, Any] = {
        "metric": "rmse",
        "candidates": {name: each.model_dump() for name, each in chosen.items()},
    }
    assert [plan.candidate for plan in search.plans(Train.model_validate(settings), task)] == list(chosen)


@pytest.mark.parametrize(("rows", "stops"), [(499, False), (500, True)])
def test_few_rows_tell_nothing_about_when_to_stop(rows: int, *, stops: bool) -> None:
    """In a fold of them there may be none aside."""
    params = automatic.candidates("binary", profile(), rows, 1.0)["boosted_trees"].params
    assert ("early_stopping_rounds" in params) is stops


@pytest.mark.parametrize(
    ("rows", "largest"), [(60, 2.0), (5_000, 100.0), (10_000_000, 200.0)], ids=["few", "some", "many"]
)
def test_a_leaf_holds_a_part_of_the_rows(rows: int, largest: float) -> None:
    """Of sixty rows no leaf must hold fifty."""
    space = automatic.candidates("binary", profile(), rows, 1.0)["boosted_trees"].space
    weight: Any = space["min_child_weight"]
    assert (weight.low, weight.high, weight.is_whole) == (1.0, largest, False)


@pytest.mark.parametrize(
    ("levels", "rows", "strengths", "mixtures"),
    [(4, 5, 9, (0.5, 1.0)), (5_000, 100_000, 3, (0.0, 0.5)), (5_000, 1_000, 3, (0.5, 1.0))],
    ids=["wider than long", "very wide", "both"],
)
def test_wide_data_have_other_penalties(levels: int, rows: int, strengths: int, mixtures: tuple[float, ...]) -> None:
    """One-hot columns count."""
    grid = automatic.candidates("binary", profile(levels=levels), rows, 1.0)["logistic_regression"].grid
    assert (len(grid["reg_param"]), grid["elastic_net_param"]) == (strengths, mixtures)
