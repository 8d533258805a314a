"""Which moments of decision a change of silver rows can touch, in whole days: the part of the feature table that is computed anew.

A row that is known at `m` is seen by windows of width W at moments in `(m, m + W]`, by as-of joins likewise, and by nothing else of
the feature table but its own row of the spine. Days are those of `as_of` in UTC. Keys are not looked at: a day is computed as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.schema import PeriodicSpine, Pipeline
from transforms import joins, outcomes, spine, trailing_columns
from transforms.days import Days

_ANY = date(9999, 12, 31)  # only a spine of calendar steps asks for the run date


@dataclass(frozen=True)
class _Touched:
    """Rows, the moment that each is known at, and how long after it a decision may still see the row."""

    rows: DataFrame
    known: Column
    ahead: timedelta


def days(changed: Mapping[str, DataFrame], pipeline: Pipeline) -> Days | None:
    """Days whose rows of the feature table may differ; None when it may be any.

    Any day may differ where what changed has no time or no end: rows of a static lookup or of child aggregates, anything below a
    `function` or a spine of calendar steps, and a spine without `as_of`.

    Args:
        changed: source -> silver rows that are there now and were not before, and those that were and are not, all columns.
    """
    changed = {name: spine.source_rows(rows) for name, rows in changed.items()}
    if not changed:
        return Days(())
    features = pipeline.features
    if not spine.has_time(pipeline) or isinstance(features.spine, PeriodicSpine) or features.function is not None:
        return None
    endless = {children.of for children in features.children}
    endless |= {join.source for join in features.joins if pipeline.sources[join.source].static}
    if endless & changed.keys():
        return None
    frames = [_first_and_last(touched) for name, rows in changed.items() for touched in _touched(name, rows, pipeline)]
    if not frames:
        return Days(())
    both = reduce(DataFrame.unionAll, frames).distinct()
    every = both.select(F.explode(F.sequence("first", "last")).alias("day")).distinct()
    return Days.of(row["day"] for row in every.collect())


def _touched(name: str, rows: DataFrame, pipeline: Pipeline) -> Iterator[_Touched]:
    """One for each use of a source: as the spine, in as-of joins, in windows."""
    features = pipeline.features
    if name == features.spine_source:
        decided = spine.rows({name: rows}, pipeline, run_date=_ANY)
        yield _Touched(decided, F.col(spine.AS_OF), timedelta(0))
    for join in features.joins:
        if join.source == name and join.within is not None:
            seen = joins.observable(rows, pipeline.sources[name])
            known = outcomes.known_at(seen, pipeline.sources[name], frozenset(), pipeline.timezone)
            if known is not None:
                yield _Touched(seen, known, join.within.length)
    for window in features.windows:
        if window.of == name:
            events, known = trailing_columns.known_at(rows, pipeline, window)
            if known is not None:
                yield _Touched(events, known, max(width.length for width in window.over))


def _first_and_last(touched: _Touched) -> DataFrame:
    """The distinct pairs of first and last day that rows touch; rows that are never known touch none."""
    known = F.unix_micros(touched.known)
    ends = F.timestamp_micros(known + int(touched.ahead / timedelta(microseconds=1)))
    found = touched.rows.select(F.to_date(touched.known).alias("first"), F.to_date(ends).alias("last"))
    return found.where(F.col("first").isNotNull()).distinct()
