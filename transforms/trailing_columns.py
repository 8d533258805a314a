"""The window columns of the feature table: which events of a source each entry aggregates, and from when they count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.schema import Pipeline, Window
from conf.values import Duration
from transforms import aggregates, labels, outcomes, spine
from transforms.aggregates import Call
from transforms.errors import ConfigError
from transforms.spine import AS_OF
from transforms.windows import Aggregate, trailing


def with_windows(rows: DataFrame, sources: Mapping[str, DataFrame], pipeline: Pipeline) -> DataFrame:
    """Add the columns of each window entry.

    One entry has one gate: the latest `known_at` among the outcome columns (or the label) that it uses, else the source's own.
    Events whose gate is null never count. Entries over the same source and keys go together, because it is the rows of the spine
    whose way through a shuffle takes the time: their events are different ones, each known at its own moment.
    """
    alike: dict[Any, list[int]] = {}
    for index, window in enumerate(pipeline.features.windows):
        alike.setdefault((window.of, tuple(sorted(window.by.items()))), []).append(index)
    for entries in alike.values():
        rows = _with_entries(rows, sources, pipeline, entries)
    return rows


def _with_entries(
    rows: DataFrame, sources: Mapping[str, DataFrame], pipeline: Pipeline, entries: Sequence[int]
) -> DataFrame:
    """Add the columns of entries that have the source and keys of the first of them."""
    windows = {str(index): pipeline.features.windows[index] for index in entries}
    first = windows[str(entries[0])]
    events, taken = [], []
    for entry, window in windows.items():
        calls = {name: aggregates.parse(rows.sparkSession, text) for name, text in window.take.items()}
        arguments = {f"_argument_{entry}_{i}": call for i, call in enumerate(calls.values())}
        if len(entries) > 1:
            # Among events of several entries rows are counted by a column that only these rows have.
            arguments = {column: replace(call, argument=call.argument or "TRUE") for column, call in arguments.items()}
        events.append(_events(sources, pipeline, first.by, window, arguments, f"features.windows.{entry}"))
        taken += [
            Aggregate(call.function, column if call.argument else None, f"{entry}.{name}", window.over)
            for name, (column, call) in zip(calls, arguments.items(), strict=True)
        ]

    def named(aggregate: str, width: Duration) -> str:
        entry, _, name = aggregate.partition(".")
        return windows[entry].column(name, width)

    return trailing(
        rows,
        reduce(partial(DataFrame.unionByName, allowMissingColumns=True), events),
        by={name: f"_by_{i}" for i, name in enumerate(first.by)},
        as_of=AS_OF,
        known_at="_known_at",
        widths=[width for window in windows.values() for width in window.over],
        aggregates=taken,
        name=named,
    )


def _events(
    sources: Mapping[str, DataFrame],
    pipeline: Pipeline,
    by: Mapping[str, str],
    window: Window,
    calls: Mapping[str, Call],
    where: str,
) -> DataFrame:
    """Keys (`_by_0`..., in the order of `by`), gate (`_known_at`) and the arguments of `calls` under their names."""
    source = pipeline.sources[window.of]
    events = spine.source_rows(sources[window.of])
    known_later = outcomes.gates(events, source)
    label = pipeline.features.label
    own_label = window.of == pipeline.features.spine_source and label.of is None
    if own_label and label.name.lower() not in {name.lower() for name in events.columns}:
        value, label_gates = labels.expression(events, pipeline)
        events, known_later = events.withColumn(label.name, value), {**known_later, label.name.lower(): label_gates}
    arguments = {column: call.argument for column, call in calls.items() if call.argument is not None}
    used = set(by.values()).union(*(outcomes.columns_used(events, text) for text in arguments.values()))
    known = outcomes.known_at(events, source, outcomes.gates_of(known_later, used), pipeline.timezone)
    if known is None:
        raise ConfigError(
            f"{where}: {window.of} has no time, so nothing of it trails a moment. Give sources.{window.of} an `at`."
        )
    return events.select(
        *(events[name].alias(f"_by_{i}") for i, name in enumerate(by.values())),
        known.alias("_known_at"),
        *(F.expr(text).alias(name) for name, text in arguments.items()),
    )
