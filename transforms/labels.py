"""The label of each row of the spine, and when it is known."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType

from conf.schema import Pipeline
from transforms import outcomes, related, spine
from transforms.errors import ContractError
from transforms.instants import literal, start_of_day

LABEL, KNOWN_AT, VALUE = "label", "label_known_at", "_value"
_SHOWN = 5


def labelled(rows: DataFrame, sources: Mapping[str, DataFrame], pipeline: Pipeline, *, run_date: date) -> DataFrame:
    """One row per spine row: its key, `as_of`, `label` (double, null: unlabelled) and `label_known_at`.

    Raises:
        ContractError: label values that the task does not allow.
    """
    found = values(rows, sources, pipeline, run_date=run_date)
    check(found, pipeline)
    return encoded(found, pipeline)


def values(rows: DataFrame, sources: Mapping[str, DataFrame], pipeline: Pipeline, *, run_date: date) -> DataFrame:
    """Key, `as_of`, the label as its expression gives it (`_value`) and `label_known_at`, both null where not known by the run date.

    A label of the spine's own columns is known at the latest `known_at` of the outcomes that it uses, else when its row is; one
    from another table's future at `as_of + within`. It counts as known by the run date when that moment is before the start
    of the run date in the pipeline's time zone. Without a moment of decision and an `at` there is nothing to compare: the
    label counts, and `label_known_at` is null.

    Args:
        rows: as `spine.rows` gives them.
        sources: silver rows by source.
    """
    label = pipeline.features.label
    key = _key(pipeline)
    if label.of is not None:
        found = _future(rows.select(*key, *(name for name in label.by if name not in key)), sources[label.of], pipeline)
    else:
        source = pipeline.sources[pipeline.features.spine_source]
        found = rows.withColumns({VALUE: F.expr(label.value), KNOWN_AT: _own_known_at(rows, pipeline)})
        if not spine.has_time(pipeline) and source.at is None:
            return found.select(*key, VALUE, KNOWN_AT)
    known = F.col(KNOWN_AT) < literal(start_of_day(run_date, pipeline.timezone))
    there = known & F.col(VALUE).isNotNull()
    return found.select(*key, *(F.when(there, F.col(name)).alias(name) for name in (VALUE, KNOWN_AT)))


def check(found: DataFrame, pipeline: Pipeline) -> None:
    """Refuse label values that are not 0 or 1, not among `classes`, or not finite numbers.

    Raises:
        ContractError: says how many rows have which values, and the cure.
    """
    wrong = encoded(found.withColumn("_text", F.col(VALUE).cast("string")), pipeline, "_text")
    wrong = wrong.where(F.col("_text").isNotNull() & F.col(LABEL).isNull())
    counts = wrong.groupBy("_text").agg(F.count("*").alias("rows"))
    top = counts.orderBy(F.desc("rows"), "_text").limit(_SHOWN).collect()
    if not top:
        return
    totals = counts.agg(F.sum("rows").alias("rows"), F.count("*").alias("kinds")).head()
    assert totals is not None
    shown = ", ".join(f"{row['_text']!r} ({row['rows']} rows)" for row in top)
    more = f" and {totals['kinds'] - _SHOWN} more" if totals["kinds"] > _SHOWN else ""
    expected, cure = _allowed(pipeline)
    raise ContractError(
        f"features.label.{pipeline.features.label.name}: expected {expected}, found in {totals['rows']} rows other values:"
        f" {shown}{more}. {cure}"
    )


def encoded(found: DataFrame, pipeline: Pipeline, *also: str) -> DataFrame:
    """`_value` as the double that models are fitted to: 0 or 1, the index in `classes`, or the value; null where it is none of these."""
    return found.select(*_key(pipeline), _encoded(found, pipeline).alias(LABEL), KNOWN_AT, *also)


def expression(rows: DataFrame, pipeline: Pipeline) -> tuple[Column, frozenset[str]]:
    """A label of the spine's own columns as a column of the source itself, for windows over it, and its gates.

    Args:
        rows: silver rows of the spine source.
    """
    source = pipeline.sources[pipeline.features.spine_source]
    value = pipeline.features.label.value
    return F.expr(value), outcomes.gates_of(outcomes.gates(rows, source), outcomes.columns_used(rows, value))


def _key(pipeline: Pipeline) -> list[str]:
    return [*(name for name in spine.row_key(pipeline) if name != spine.AS_OF), spine.AS_OF]


def _own_known_at(rows: DataFrame, pipeline: Pipeline) -> Column:
    source = pipeline.sources[pipeline.features.spine_source]
    if not spine.has_time(pipeline) and source.at is None:
        return F.lit(None).cast("timestamp")
    moment = outcomes.known_at(rows, source, expression(rows, pipeline)[1], pipeline.timezone)
    # A spine without any time of its own (entities that always were): the row's moment is all there is.
    return F.col(spine.AS_OF) if moment is None else moment


def _future(queries: DataFrame, other: DataFrame, pipeline: Pipeline) -> DataFrame:
    label = pipeline.features.label
    assert label.of is not None and label.within is not None
    source = pipeline.sources[label.of]
    other = spine.source_rows(other)
    later = outcomes.gates(other, source)
    used = outcomes.columns_used(other, label.value) | set(label.by.values())
    known = outcomes.known_at(other, source, outcomes.gates_of(later, used), pipeline.timezone)
    if known is None:
        raise ContractError(
            f"features.label: {label.of} has no time, so it has no future to take a label from. Give sources.{label.of} an `at`."
        )
    counted = related.totals(
        queries,
        other.withColumn("_known_at", known),
        by=label.by,
        row_key=_key(pipeline),
        take={VALUE: label.value},
        ahead=(spine.AS_OF, "_known_at", label.within.length),
    )
    ends = F.timestamp_micros(F.unix_micros(spine.AS_OF) + label.within.seconds * 1_000_000)
    return counted.withColumn(KNOWN_AT, ends)


def _encoded(found: DataFrame, pipeline: Pipeline) -> Column:
    value = F.col(VALUE)
    if pipeline.task == "multiclass":
        text = value.cast("string")
        index = F.array_position(F.array(*(F.lit(name) for name in pipeline.classes)), text) - 1
        return F.when(index >= 0, index.cast("double"))
    if isinstance(found.schema[VALUE].dataType, BooleanType):
        return value.cast("double")
    number = value.try_cast("double")
    if pipeline.task == "binary":
        return F.when(number.isin(0.0, 1.0), number)
    return F.when(F.abs(number) < float("inf"), number)


def _allowed(pipeline: Pipeline) -> tuple[str, str]:
    if pipeline.task == "multiclass":
        classes = ", ".join(pipeline.classes)
        return f"one of the classes {classes}", "Add them to `classes`, or map them in the label's `value`."
    if pipeline.task == "binary":
        return (
            "0 or 1",
            "Make the label's `value` 0 or 1, such as CAST(delay > 15 AS DOUBLE), or refuse such rows by a rule.",
        )
    return "finite numbers", "Refuse such rows by a rule, or make the label's `value` null for them."
