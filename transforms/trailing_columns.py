"""The window columns of the feature table: which events of a source each entry aggregates, and from when they count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.schema import Pipeline, Window
from conf.values import Duration
from transforms import aggregates, labels, outcomes, spine
from transforms.days import Days
from transforms.errors import ConfigError
from transforms.spine import AS_OF
from transforms.windows import Aggregate, trailing


def with_windows(
    rows: DataFrame, sources: Mapping[str, DataFrame], pipeline: Pipeline, only: Days | None = None
) -> DataFrame:
    """Add the columns of each window entry.

    One entry has one gate: the latest `known_at` among the outcome columns (or the label) that it uses, else the source's own.
    Events whose gate is null never count. Entries over the same source and keys go together, because it is the rows of the spine
    whose way through a shuffle takes the time: there is an event for each of their gates, known at its own moment.

    Args:
        only: the days that rows lie in, where that is known: events that none of them can see are left out.
    """
    alike: dict[Any, list[int]] = {}
    for index, window in enumerate(pipeline.features.windows):
        alike.setdefault((window.of, tuple(sorted(window.by.items()))), []).append(index)
    for entries in alike.values():
        rows = _with_entries(rows, sources, pipeline, entries, only)
    return rows


def known_at(rows: DataFrame, pipeline: Pipeline, window: Window) -> tuple[DataFrame, Column | None]:
    """Rows of a window's source as it sees them, and the moment from which each counts, None without time."""
    events, known_later = _source_events({window.of: rows}, pipeline, window)
    calls = [aggregates.parse(rows.sparkSession, text) for text in window.take.values()]
    gates = _gates(events, known_later, window, calls)
    return events, outcomes.known_at(events, pipeline.sources[window.of], gates, pipeline.timezone)


def _gates(
    events: DataFrame, known_later: outcomes.Gates, window: Window, calls: Iterable[aggregates.Call]
) -> frozenset[str]:
    """The gates of all columns that an entry uses."""
    used = set(window.by.values())
    for call in calls:
        used |= outcomes.columns_used(events, call.argument) if call.argument else set()
    return outcomes.gates_of(known_later, used)


def _with_entries(
    rows: DataFrame,
    sources: Mapping[str, DataFrame],
    pipeline: Pipeline,
    entries: Sequence[int],
    only: Days | None,
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
    for entry, window in windows.items():
        own = [call for name, call in calls.items() if owner[name] == entry]
        of_gates.setdefault(_gates(events, known_later, window, own), []).append(entry)
    # Among events of several gates rows are counted by a column that only some of them have.
    texts = {name: call.argument or ("TRUE" if len(of_gates) > 1 else None) for name, call in calls.items()}
    columns = {name: f"_argument_{i}" for i, name in enumerate(calls)}
    widths = [width for window in windows.values() for width in window.over]
    branches = []
    for gates, members in of_gates.items():
        known = outcomes.known_at(events, pipeline.sources[first.of], gates, pipeline.timezone)
        if known is None:
            raise ConfigError(
                f"features.windows.{members[0]}: {first.of} has no time, so nothing of it trails a moment. Give sources.{first.of} an"
                " `at`."
            )
        seen = events if only is None else events.where(only.hold(known, max(width.length for width in widths)))
        branches.append(
            seen.select(
                *(seen[column].alias(f"_by_{i}") for i, column in enumerate(first.by.values())),
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
        widths=widths,
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
