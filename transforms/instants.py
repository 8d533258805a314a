"""Moments: the start of a day in the pipeline's time zone, and SQL expressions as UTC instants."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DateType

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def start_of_day(day: date, timezone: str) -> datetime:
    """The first instant of a calendar day (UTC); a day whose midnight a clock change skips starts after the gap."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone)).astimezone(UTC)


def micros(moment: datetime) -> int:
    """Microseconds since 1970, exactly: what `unix_micros` gives for the same instant."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """The instant that `micros` numbers."""
    return _EPOCH + timedelta(microseconds=value)


def instant(frame: DataFrame, expression: str, timezone: str) -> Column:
    """An expression over `frame` as a timestamp; a date stands for the start of its day in `timezone`."""
    column = F.expr(expression)
    if isinstance(frame.select(column.alias("instant")).schema["instant"].dataType, DateType):
        return F.to_utc_timestamp(column.cast("timestamp"), timezone)
    return column.cast("timestamp")


def literal(moment: datetime) -> Column:
    """A timestamp column that does not depend on the driver's own time zone."""
    return F.timestamp_micros(F.lit(micros(moment)))
