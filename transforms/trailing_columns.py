"""The window columns of the feature table: which events of a source each entry aggregates, and from when they count."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.schema import Pipeline, Window
from transforms import aggregates, labels, outcomes, spine
from transforms.aggregates import Call
from transforms.errors import ConfigError
from transforms.spine import AS_OF
from transforms.windows import Aggregate, trailing


def with_windows(rows: DataFrame, sources: Mapping[str, DataFrame], pipeline: Pipeline) -> DataFrame:
    """Add the columns of each window entry.

    One entry has one gate: the latest `known_at` among the outcome columns (or the label) that it uses, else the source's own.
    Events whose gate is null never count.
    """
    for index, window in enumerate(pipeline.features.windows):
        calls = {name: aggregates.parse(rows.sparkSession, text) for name, text in window.take.items()}
        events = _events(sources, pipeline, window, calls, f"features.windows.{index}")
        rows = trailing(
            rows,
            events,
            by={name: f"_by_{i}" for i, name in enumerate(window.by)},
            as_of=AS_OF,
            known_at="_known_at",
            widths=window.over,
            aggregates=[
                Aggregate(call.function, None if call.argument is None else f"_argument_{i}", name)
                for i, (name, call) in enumerate(calls.items())
            ],
            name=window.column,
        )
    return rows


def _events(
    sources: Mapping[str, DataFrame], pipeline: Pipeline, window: Window, calls: Mapping[str, Call], where: str
) -> DataFrame:
    """Keys (`_by_0`...), gate (`_known_at`) and arguments (`_argument_0`...) of the events."""
    source = pipeline.sources[window.of]
    events = spine.source_rows(sources[window.of])
    known_later = outcomes.gates(events, source)
    label = pipeline.features.label
    own_label = window.of == pipeline.features.spine_source and label.of is None
    if own_label and label.name.lower() not in {name.lower() for name in events.columns}:
        value, label_gates = labels.expression(events, pipeline)
        events, known_later = events.withColumn(label.name, value), {**known_later, label.name.lower(): label_gates}
    arguments = {f"_argument_{i}": call.argument for i, call in enumerate(calls.values()) if call.argument is not None}
    used = set(window.by.values()).union(*(outcomes.columns_used(events, text) for text in arguments.values()))
    known = outcomes.known_at(events, source, outcomes.gates_of(known_later, used), pipeline.timezone)
    if known is None:
        raise ConfigError(
            f"{where}: {window.of} has no time, so nothing of it trails a moment. Give sources.{window.of} an `at`."
        )
    return events.select(
        *(events[name].alias(f"_by_{i}") for i, name in enumerate(window.by.values())),
        known.alias("_known_at"),
        *(F.expr(text).alias(name) for name, text in arguments.items()),
    )
