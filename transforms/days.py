"""Days of `as_of`: the part of a feature table that is computed anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from operator import or_

from pyspark.sql import Column
from pyspark.sql import functions as F

from transforms.instants import literal

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Days:
    """Days in UTC, as runs of consecutive ones: (first, last) each, in order and apart from each other."""

    runs: tuple[tuple[date, date], ...]

    @classmethod
    def of(cls, days: Iterable[date]) -> Days:
        runs: list[tuple[date, date]] = []
        for day in sorted(set(days)):
            if runs and day - runs[-1][1] == _DAY:
                runs[-1] = (runs[-1][0], day)
            else:
                runs.append((day, day))
        return cls(tuple(runs))

    @property
    def count(self) -> int:
        return sum((last - first).days + 1 for first, last in self.runs)

    def hold(self, moment: Column, back: timedelta = timedelta(0)) -> Column:
        """Whether a moment lies in one of the days, or at most `back` before one; false for null."""
        inside = (
            (moment >= literal(_start(first) - back)) & (moment < literal(_start(last) + _DAY))
            for first, last in self.runs
        )
        return F.coalesce(reduce(or_, inside, F.lit(False)), F.lit(False))

    def condition(self, column: str) -> str:
        """SQL that is true where a timestamp column lies in one of the days."""
        ranges = (
            f"({column} >= TIMESTAMP '{first} 00:00:00 UTC' AND {column} < TIMESTAMP '{last} 00:00:00 UTC' + INTERVAL 1 DAY)"
            for first, last in self.runs
        )
        # Delta takes no plain FALSE.
        return " OR ".join(ranges) or f"{column} < TIMESTAMP '0001-01-01 00:00:00 UTC'"

    def __str__(self) -> str:
        return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in self.runs) or "none"


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
