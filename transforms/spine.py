"""The rows of the feature table: one per row of the spine source, or one per entity and calendar step."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.schema import PeriodicSpine, Pipeline
from transforms import outcomes
from transforms.contracts import EVENT_DATE, silver_key
from transforms.errors import ContractError
from transforms.instants import instant, literal, start_of_day

AS_OF = "as_of"


def row_key(pipeline: Pipeline) -> list[str]:
    """What tells rows of the spine apart: the source's key, and `as_of` for a periodic spine."""
    features = pipeline.features
    key = list(silver_key(pipeline.sources[features.spine_source]))
    return key + ([AS_OF] if isinstance(features.spine, PeriodicSpine) else [])


def has_time(pipeline: Pipeline) -> bool:
    """Whether rows have a moment of decision."""
    return pipeline.features.as_of is not None or isinstance(pipeline.features.spine, PeriodicSpine)


def rows(sources: Mapping[str, DataFrame], pipeline: Pipeline, *, run_date: date) -> DataFrame:
    """All columns of the spine source, outcomes too, and `as_of` (null without time).

    A periodic spine steps from the start of `from` to the start of the run date, both in the pipeline's time zone: days, weeks,
    months and years by its calendar, hours as elapsed time. An entity has rows from its `at` (and `known_at`) on.
    """
    features = pipeline.features
    own = pipeline.sources[features.spine_source]
    frame = source_rows(sources[features.spine_source])
    if not isinstance(features.spine, PeriodicSpine):
        if features.as_of is None:
            return frame.withColumn(AS_OF, F.lit(None).cast("timestamp"))
        without_later = frame.drop(*outcomes.gates(frame, own))
        return frame.withColumn(AS_OF, instant(without_later, features.as_of, pipeline.timezone))
    frame = frame.withColumn(AS_OF, F.explode(_steps(features.spine, pipeline.timezone, run_date)))
    for moment in (own.at, own.known_at):
        if moment:
            frame = frame.where(instant(frame, moment, pipeline.timezone) <= F.col(AS_OF))
    return frame


def source_rows(frame: DataFrame) -> DataFrame:
    """A silver table without the columns that say how a row came there."""
    return frame.select(*(name for name in frame.columns if name != EVENT_DATE and not name.startswith("_")))


def check(frame: DataFrame, pipeline: Pipeline) -> int:
    """Number of rows of a spine, each of which has a moment of decision and is known by then.

    Raises:
        ContractError: rows without `as_of`, or rows that were known only after their `as_of`, so that their own columns leak.
    """
    if not has_time(pipeline):
        return frame.count()
    name = pipeline.features.spine_source
    source = pipeline.sources[name]
    known = outcomes.known_at(frame, source, frozenset(), pipeline.timezone)
    late = F.lit(False) if known is None else known > F.col(AS_OF)
    counts = frame.agg(
        F.count("*").alias("rows"), F.count_if(F.col(AS_OF).isNull()).alias("timeless"), F.count_if(late).alias("late")
    ).head()
    assert counts is not None
    problems = []
    if counts["timeless"]:
        problems.append(
            f"features.as_of: expected a moment of decision in each of {counts['rows']} rows of {name}, found null in"
            f" {counts['timeless']}. Give the columns it is computed from `!`, or refuse such rows by a rule."
        )
    if counts["late"]:
        problems.append(
            f"features.as_of: {counts['late']} of {counts['rows']} rows of {name} were known only after their as_of"
            f" (known_at is {source.known_at or source.at}), so their own columns were not there to decide on."
            f" Move as_of, or state in sources.{name}.known_at when a row is really known."
        )
    if problems:
        raise ContractError(problems)
    return int(counts["rows"])


def _steps(spine: PeriodicSpine, timezone: str, run_date: date) -> Column:
    """All moments of decision, as one array."""
    every = F.expr(f"INTERVAL {spine.every.count} {spine.every.unit.upper()}")
    first, last = start_of_day(spine.start, timezone), start_of_day(run_date, timezone)
    if last < first:
        raise ContractError(
            f"features.spine.from: {spine.start} is after the run date {run_date}, so there is no moment of decision."
            " Choose an earlier `from` or a later --run-date."
        )
    if spine.every.unit == "hour":
        return F.sequence(literal(first), literal(last), every)
    # Wall-clock midnights, stepped as if they were UTC and moved to the time zone afterwards.
    midnight, last_midnight = (literal(start_of_day(day, "UTC")) for day in (spine.start, run_date))
    return F.transform(F.sequence(midnight, last_midnight, every), lambda moment: F.to_utc_timestamp(moment, timezone))
