"""The window columns of the feature table: which events of a source each entry aggregates, and from when they count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.schema import Pipeline, Window
from conf.values import Duration
from transforms import aggregates, labels, outcomes, spine
from transforms.errors import ConfigError
from transforms.spine import AS_OF
from transforms.windows import Aggregate, trailing


def with_windows(rows: DataFrame, sources: Mapping[str, DataFrame], pipeline: Pipeline) -> DataFrame:
    """Add the columns of each window entry.

    One entry has one gate: the latest `known_at` among the outcome columns (or the label) that it uses, else the source's own.
    Events whose gate is null never count. Entries over the same source and keys go together, because it is the rows of the spine
    whose way through a shuffle takes the time: there is an event for each of their gates, known at its own moment.
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
    calls = {
        f"{entry}.{name}": aggregates.parse(rows.sparkSession, text)
        for entry, window in windows.items()
        for name, text in window.take.items()
    }
    owner = {f"{entry}.{name}": entry for entry, window in windows.items() for name in window.take}
    events, known_later = _source_events(sources, pipeline, first)
    of_gates: dict[frozenset[str], list[str]] = {}
    for entry in windows:
        used = set(first.by.values())
        for argument in (call.argument for name, call in calls.items() if owner[name] == entry):
            used |= outcomes.columns_used(events, argument) if argument else set()
        of_gates.setdefault(outcomes.gates_of(known_later, used), []).append(entry)
    # Among events of several gates rows are counted by a column that only some of them have.
    texts = {name: call.argument or ("TRUE" if len(of_gates) > 1 else None) for name, call in calls.items()}
    columns = {name: f"_argument_{i}" for i, name in enumerate(calls)}
    branches = []
    for gates, members in of_gates.items():
        known = outcomes.known_at(events, pipeline.sources[first.of], gates, pipeline.timezone)
        if known is None:
            raise ConfigError(
                f"features.windows.{members[0]}: {first.of} has no time, so nothing of it trails a moment. Give sources.{first.of} an"
                " `at`."
            )
        branches.append(
            events.select(
                *(events[column].alias(f"_by_{i}") for i, column in enumerate(first.by.values())),
                known.alias("_known_at"),
                *(F.expr(text).alias(columns[name]) for name, text in texts.items() if text and owner[name] in members),
            )
        )

    def named(aggregate: str, width: Duration) -> str:
        return windows[owner[aggregate]].column(aggregate.removeprefix(f"{owner[aggregate]}."), width)

    return trailing(
        rows,
        reduce(partial(DataFrame.unionByName, allowMissingColumns=True), branches),
        by={name: f"_by_{i}" for i, name in enumerate(first.by)},
        as_of=AS_OF,
        known_at="_known_at",
        widths=[width for window in windows.values() for width in window.over],
        aggregates=[
            Aggregate(call.function, columns[name] if texts[name] else None, name, windows[owner[name]].over)
            for name, call in calls.items()
        ],
        name=named,
    )


def _source_events(
    sources: Mapping[str, DataFrame], pipeline: Pipeline, window: Window
) -> tuple[DataFrame, outcomes.Gates]:
    """The rows of a window's source, with the label where it is the spine's own, and the gates of what is known later."""
    source = pipeline.sources[window.of]
    events = spine.source_rows(sources[window.of])
    known_later = outcomes.gates(events, source)
    label = pipeline.features.label
    own_label = window.of == pipeline.features.spine_source and label.of is None
    if own_label and label.name.lower() not in {name.lower() for name in events.columns}:
        value, label_gates = labels.expression(events, pipeline)
        events, known_later = events.withColumn(label.name, value), {**known_later, label.name.lower(): label_gates}
    return events, known_later
