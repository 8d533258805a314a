"""Column names found in SQL text without Spark."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.sql_text import mentioned


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("dep_delay", {"dep_delay"}),
        ("Dep_Delay + 1", {"dep_delay"}),
        ("a.b", {"a", "b"}),
        ("`odd name` > 0", {"odd name"}),
        ("`a``b`", {"a`b"}),
        ("avg(x)", {"x"}),
        ("avg (x)", {"x"}),
        ("count(*)", {"*"}),
        ("2 * x", {"x"}),
        ("origin IN ('EWR', 'dep_delay')", {"origin"}),
        ("x = 'it''s' AND y", {"x", "y"}),
        (r"x = 'a\' y' OR z", {"x", "z"}),
        ('x = "dep_delay"', {"x"}),
        ("r'a' = x", {"x"}),
        ("CAST(arr_delay > 15 AS DOUBLE)", {"arr_delay"}),
        ("CAST(a AS DECIMAL(10, 2))", {"a"}),
        ("landed_at + INTERVAL 4 HOURS", {"landed_at"}),
        ("landed_at + INTERVAL '4' HOUR", {"landed_at"}),
        ("at > TIMESTAMP '2020-01-01'", {"at"}),
        ("at > date'2020-01-01'", {"at"}),
        ("extract(HOUR FROM at)", {"at"}),
        ("CASE WHEN a IS NOT NULL THEN b ELSE NULL END", {"a", "b"}),
        ("a -- b\n + c", {"a", "c"}),
        ("a /* b */ + c", {"a", "c"}),
        ("1e5 + 2L + 3.5BD + .5", set()),
        ("1 + e5", {"e5"}),
        ("first", {"first"}),
        ("max(last)", {"last"}),
        ("transform(xs, x -> x + y)", {"xs", "x", "y"}),
        ("'never closed AND a", set()),
        ("", set()),
    ],
)
def test_names_that_may_be_columns(sql: str, names: set[str]) -> None:
    """Functions, keywords, type names, units and texts are none; doubt counts as a column."""
    assert mentioned(sql) == names


@settings(deadline=None)
@given(
    st.text(),
    st.sampled_from(["{} {}", "{}\n({}", "{}+{}", "{},{}"]),
    st.from_regex(r"c[a-z]{3}_[a-z]{3}", fullmatch=True),
)
def test_a_column_after_closed_text_is_found(text: str, pattern: str, column: str) -> None:
    """Whatever a quoted text holds, the name behind it is not swallowed."""
    quoted = "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    assert column in mentioned(pattern.format(quoted, column))
