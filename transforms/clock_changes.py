"""Hours that a clock change skips: local times that do not exist."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from pyspark.sql import Column
from pyspark.sql import functions as F


def in_skipped_hour(column: Column, timezone: str) -> Column:
    """True for instants shortly after a clock change, which a skipped local time may have been shifted to; never null.

    The change's time of day in UTC is tested first: that is one division, and true for few rows.
    """
    gaps = skipped(timezone)
    if not gaps:
        return F.lit(False)
    second_of_day = F.pmod(F.unix_seconds(column), F.lit(86400))
    widest = max(length for _, length in gaps)
    near = F.lit(False)
    for start in sorted({start for start, _ in gaps}):
        near = near | (F.pmod(second_of_day - start, F.lit(86400)) < widest)
    before = column - F.make_dt_interval(F.lit(0), F.lit(0), F.lit(0), F.lit(widest))
    shift = F.unix_seconds(F.from_utc_timestamp(column, timezone)) - F.unix_seconds(
        F.from_utc_timestamp(before, timezone)
    )
    return F.coalesce(near & (shift != widest), F.lit(False))


@cache
def skipped(timezone: str) -> tuple[tuple[int, int], ...]:
    """(second of the day in UTC at which clocks jump forward, by how many seconds) of all such changes from 1970 to 2100."""
    zone, found = ZoneInfo(timezone), set()
    day = datetime(1970, 1, 1, tzinfo=UTC)
    step = timedelta(days=1)
    while day.year < 2100:
        gap = _offset(zone, day + step) - _offset(zone, day)
        if gap > 0:
            low, high = 0, 86400
            while high - low > 1:
                middle = (low + high) // 2
                moved = _offset(zone, day + timedelta(seconds=middle)) != _offset(zone, day)
                low, high = (low, middle) if moved else (middle, high)
            found.add((high % 86400, gap))
        day += step
    return tuple(sorted(found))


def _offset(zone: ZoneInfo, moment: datetime) -> int:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())
