"""Days as runs, as a column, and as the SQL that Delta takes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from transforms.days import Days

LEAP = Days.of([date(2024, 2, 29), date(2024, 2, 28), date(2024, 3, 1), date(2024, 3, 5), date(2024, 2, 28)])
MOMENTS = {
    "before": datetime(2024, 2, 27, 23, 59, 59, 999_999),
    "first": datetime(2024, 2, 28),
    "last": datetime(2024, 3, 1, 23, 59, 59, 999_999),
    "between": datetime(2024, 3, 2),
    "single": datetime(2024, 3, 5, 12),
    "after": datetime(2024, 3, 6),
    "null": None,
}


def test_consecutive_days_are_one_run() -> None:
    """Over a leap day; repeated days count once."""
    assert LEAP.runs == ((date(2024, 2, 28), date(2024, 3, 1)), (date(2024, 3, 5), date(2024, 3, 5)))
    assert (LEAP.count, str(LEAP)) == (4, "2024-02-28 to 2024-03-01, 2024-03-05")
    assert (Days.of([]).count, str(Days.of([]))) == (0, "none")


@pytest.mark.parametrize(
    ("days", "back", "expected"),
    [
        (LEAP, timedelta(0), {"first", "last", "single"}),
        (LEAP, timedelta(hours=1), {"before", "first", "last", "single"}),
        (LEAP, timedelta(days=3), {"before", "first", "last", "between", "single"}),
        (Days.of([]), timedelta(days=9), set()),
    ],
)
def test_moments_in_days_or_so_long_before_one(
    spark: SparkSession, days: Days, back: timedelta, expected: set[str]
) -> None:
    """To the microsecond; null is in none. The SQL says the same where nothing before counts."""
    rows = [(name, moment and moment.replace(tzinfo=UTC)) for name, moment in MOMENTS.items()]
    frame = spark.createDataFrame(spark.sparkContext.parallelize(rows, 2), "name string, moment timestamp")
    judged = frame.select(
        "name", days.hold(F.col("moment"), back).alias("held"), F.expr(days.condition("moment")).alias("sql")
    )

    found = {row["name"]: (row["held"], row["sql"]) for row in judged.collect()}

    assert {name for name, (held, _) in found.items() if held} == expected
    assert None not in {held for held, _ in found.values()}
    if not back:
        assert {name for name, (_, sql) in found.items() if sql} == expected
