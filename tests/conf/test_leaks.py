"""Outcome columns where a feature could see them."""

from __future__ import annotations

import pytest

from tests.conf.conftest import Complaints

CURE = "Use it in the label or in a window, which wait until it is known, or remove it."
RETURNED = "an outcome of orders that is known only at placed_at + INTERVAL 30 DAYS"
SENT = "an outcome of orders that is known only at sent_at"
DAMAGED = "an outcome of items that is known only at timestamp'2030-01-01'"


def test_outcomes_in_label_and_windows_are_no_leak(complaints: Complaints) -> None:
    """Both wait until the outcome is known."""
    assert complaints(("avg(is_returned)", "avg(days)")) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "day: CAST(placed_at AS DATE)",
            "day: CAST(Sent_At AS DATE)",
            f"shop.yaml:36: features.columns.day uses sent_at, {SENT}. {CURE}",
        ),
        (
            "day: CAST(placed_at AS DATE)",
            "day: CAST(placed_at + make_dt_interval(days) AS DATE)",
            f"shop.yaml:36: features.columns.day uses days, {SENT}. {CURE}",
        ),
        ("as_of: placed_at", "as_of: sent_at", f"shop.yaml:33: features.as_of uses sent_at, {SENT}. {CURE}"),
        (
            "numeric: [price,",
            "numeric: [days, price,",
            f"shop.yaml:44: features.numeric.0 uses days, {SENT}. {CURE}",
        ),
        (
            "categorical: [land]",
            "categorical: [land, returned]",
            f"shop.yaml:45: features.categorical.1 uses returned, {RETURNED}. {CURE}",
        ),
        (
            "numeric: [price,",
            "numeric: [is_returned, price,",
            "shop.yaml:44: features.numeric.0 is is_returned, the label itself. Remove it.",
        ),
        (
            "by: [day], within",
            "by: {returned: day}, within",
            f"shop.yaml:38: features.joins.0.by uses returned, {RETURNED}. {CURE}",
        ),
        (
            "take: {weight: sum(weight)}",
            "take: {weight: sum(weight), n: count_if(damaged)}",
            f"shop.yaml:43: features.children.0.take.n uses damaged, {DAMAGED}. {CURE}",
        ),
        (
            "of: orders, by: [buyer]",
            "of: orders, by: {returned: buyer}",
            f"shop.yaml:41: features.windows.0.by uses returned, {RETURNED}. {CURE}",
        ),
    ],
)
def test_a_leak_is_named_with_its_line(complaints: Complaints, old: str, new: str, message: str) -> None:
    """Directly, through a derived column, in another case of letters, as a feature of that name."""
    assert complaints((old, new)) == [message]


def test_a_join_takes_no_outcome_of_its_source(complaints: Complaints) -> None:
    """The join does not wait for the column, only for the row."""
    found = complaints(
        (
            "columns: {day: date!, level: double}",
            "columns: {day: date!, level: double}\n    outcomes: [{columns: [level], known_at: day}]",
        )
    )
    assert found == [
        "shop.yaml:39: features.joins.0.take.level uses level, an outcome of prices that is known only at day. " + CURE
    ]


def test_the_column_that_decides_the_label_is_no_feature(complaints: Complaints) -> None:
    """Even where the file declares no outcome: it gives the answer away."""
    found = complaints(("value: CAST(returned AS DOUBLE)", "value: price > 100"))
    assert found == [f"shop.yaml:44: features.numeric.0 uses price, the column that decides the label. {CURE}"]


def test_a_declared_derived_column_has_its_own_known_at(complaints: Complaints) -> None:
    """What its entry says wins over what it is computed from."""
    found = complaints(("columns: [returned]", "columns: [returned, days]"), ("numeric: [price,", "numeric: [days,"))
    assert found == [f"shop.yaml:44: features.numeric.0 uses days, {RETURNED}. {CURE}"]
