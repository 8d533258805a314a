"""Against zoneinfo, minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from transforms.clock_changes import in_skipped_hour, skipped


@pytest.mark.quick
def test_zones_without_clock_changes_skip_nothing() -> None:
    assert skipped("UTC") == ()
    assert skipped("Asia/Kolkata") == ()


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Paris", "Australia/Lord_Howe"])
def test_every_skipped_hour_of_eighty_years_is_listed(zone: str) -> None:
    """zoneinfo says of a local time that does not exist that it comes back from UTC as another one."""
    listed = {start for start, _ in skipped(zone)}
    for year in range(1975, 2055, 8):
        start = datetime(year, 1, 1, tzinfo=UTC)
        for hour in range(0, 366 * 24):
            before, after = (start + timedelta(hours=h) for h in (hour, hour + 1))
            gap = after.astimezone(ZoneInfo(zone)).utcoffset() - before.astimezone(ZoneInfo(zone)).utcoffset()  # type: ignore[operator]
            if gap > timedelta(0):
                assert any(0 <= (s - before.hour * 3600) % 86400 <= 3600 for s in listed), before


def test_only_instants_that_a_skipped_time_is_moved_to_are_doubtful(spark: SparkSession) -> None:
    """The day of a change in New York: the hour after 07:00 UTC, on no other day and at no other time."""
    start = datetime(2013, 3, 9, tzinfo=UTC)
    moments = [start + timedelta(minutes=10 * i) for i in range(3 * 144)]
    frame = spark.createDataFrame([(m,) for m in moments], "at timestamp").repartition(2)
    doubtful = frame.filter(in_skipped_hour(F.col("at"), "America/New_York")).select(F.col("at").cast("string"))
    assert sorted(row[0] for row in doubtful.collect()) == [f"2013-03-10 07:{m}0:00" for m in range(6)]


def test_a_null_is_not_doubtful(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(None,)], "at timestamp")
    assert frame.select(in_skipped_hour(F.col("at"), "Europe/Paris").alias("d")).collect()[0]["d"] is False
