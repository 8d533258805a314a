"""Trailing windows: aggregates of the events that were known in the time before each query, in linear time.

A window of width W at query row r aggregates the events s with equal key and `as_of(r) - W <= known_at(s) < as_of(r)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.values import Duration
from transforms.arrays import Ranges, canonical_within_ties, runs
from transforms.blocks import Sides
from transforms.errors import ContractError
from transforms.time_buckets import answer_each, problems_of_sides

FUNCTIONS = ("count", "sum", "avg", "min", "max", "variance", "stddev", "last")
_OF_NUMBERS = ("sum", "avg", "variance", "stddev")
_OF_ORDERED = ("min", "max", "last")


@dataclass(frozen=True)
class Aggregate:
    """One aggregate: `function` of FUNCTIONS over an events column; `column` None, with count, counts rows.

    `over` are the widths of its windows, those of the call if empty.
    """

    function: str
    column: str | None
    name: str
    over: tuple[Duration, ...] = ()


@dataclass(frozen=True)
class _Reading:
    """One column of the result: which function, of which carried column (None: rows), over which width."""

    name: str
    function: str
    carried: str | None
    width: Duration


def trailing(
    queries: DataFrame,
    events: DataFrame,
    *,
    by: Mapping[str, str],
    as_of: str,
    known_at: str,
    widths: Sequence[Duration],
    aggregates: Sequence[Aggregate],
    name: Callable[[str, Duration], str],
) -> DataFrame:
    """The queries, each row once and unchanged, and one column per aggregate and width, named `name(aggregate.name, width)`.

    `by` maps columns of the queries to the events' key columns; a null in a key, in `as_of` or in `known_at` matches nothing.
    Without events in the window a count is 0, any other aggregate null. Nulls are left out, NaN and infinities count as
    they do in SQL. count is bigint; sum is bigint of whole numbers (exact) and double of others, decimals included; avg,
    variance and stddev (of the sample: null below two values) are double; min, max and last keep the column's type. last is
    the latest value that is not null, the largest of those known at the same instant.

    Results do not depend on the order or partitioning of either frame. A task holds in memory the events of one key over
    three times the widest width, about 100 bytes and the carried columns each, and some half a million rows besides: ten million
    events of one key in the widest window ask for some 4 GB.

    Raises:
        ContractError: a column is absent, or its type does not fit its role; all problems are listed.
    """
    _check(queries, events, by=by, as_of=as_of, known_at=known_at, widths=widths, aggregates=aggregates, name=name)
    carried: dict[str, str | Column] = {}
    slots = [_slot(events, aggregate, carried) for aggregate in aggregates]
    each = [(a, slot, w) for a, slot in zip(aggregates, slots, strict=True) for w in a.over or widths]
    readings = [_Reading(name(a.name, w), a.function, slot, w) for a, slot, w in each]
    added = [T.StructField(name(a.name, w), _type(a, events)) for a, _, w in each]
    reach = max(w.length for _, _, w in each)
    return answer_each(
        queries,
        events,
        by=by,
        as_of=as_of,
        known_at=known_at,
        reach=reach,
        carried=carried,
        added=added,
        answer=partial(_read, carried=tuple(carried), readings=readings),
    )


def _check(
    queries: DataFrame,
    events: DataFrame,
    *,
    by: Mapping[str, str],
    as_of: str,
    known_at: str,
    widths: Sequence[Duration],
    aggregates: Sequence[Aggregate],
    name: Callable[[str, Duration], str],
) -> None:
    every = [*widths, *(width for aggregate in aggregates for width in aggregate.over)]
    reach = max((width.length for width in every), default=Duration.model_validate("1 second").length)
    problems = problems_of_sides(queries, events, by=by, as_of=as_of, known_at=known_at, reach=reach)
    if not widths or not aggregates:
        problems.append("expected at least one width and one aggregate")
    for aggregate in aggregates:
        problems += _problem(aggregate, events)
    taken = [column.lower() for column in queries.columns]
    for added in (name(a.name, width) for a in aggregates for width in a.over or widths):
        if added.lower() in taken:
            problems.append(f"{added!r} is already a column: give the aggregate another name")
        taken.append(added.lower())
    if problems:
        raise ContractError([f"trailing windows: {problem}." for problem in problems])


def _problem(aggregate: Aggregate, events: DataFrame) -> list[str]:
    what = f"{aggregate.function}({aggregate.column or '*'})"
    if aggregate.function not in FUNCTIONS:
        return [f"{what} is not known: expected one of {', '.join(FUNCTIONS)}"]
    if aggregate.column is None:
        return [] if aggregate.function == "count" else [f"{what} needs a column: only count may do without"]
    if aggregate.column not in events.columns:
        return [f"{what}: no column {aggregate.column!r} among the events"]
    found = events.schema[aggregate.column].dataType
    if aggregate.function in _OF_NUMBERS and not isinstance(found, T.NumericType):
        return [f"{what}: {aggregate.column!r} is {found.simpleString()}, expected a number"]
    if aggregate.function in _OF_ORDERED and not isinstance(found, T.AtomicType):
        return [f"{what}: {aggregate.column!r} is {found.simpleString()}, expected a plain value that has an order"]
    return []


def _slot(events: DataFrame, aggregate: Aggregate, carried: dict[str, str | Column]) -> str | None:
    """The carried column that the aggregate reads, added to `carried` if new: only what it needs travels, once."""
    if aggregate.column is None:
        return None
    column, found = events[aggregate.column], events.schema[aggregate.column].dataType
    number = T.LongType() if isinstance(found, T.IntegralType) else T.DoubleType()
    value: str | Column = aggregate.column
    if aggregate.function == "count":
        kind, value = "known", F.when(column.isNotNull(), F.lit(True))
    elif aggregate.function in _OF_ORDERED:
        kind = "value"
    else:
        kind, value = "number", aggregate.column if found == number else column.cast(number)
    slot = f"{kind}_of_{events.columns.index(aggregate.column)}"
    carried[slot] = value
    return slot


def _type(aggregate: Aggregate, events: DataFrame) -> T.DataType:
    if aggregate.function == "count" or aggregate.column is None:
        return T.LongType()
    found = events.schema[aggregate.column].dataType
    if aggregate.function in _OF_ORDERED:
        return found
    return T.LongType() if aggregate.function == "sum" and isinstance(found, T.IntegralType) else T.DoubleType()


def _read(both: Sides, *, carried: Sequence[str], readings: Sequence[_Reading]) -> list[pa.Array]:
    ranges = _ranges(both, carried)
    ends = both.ends()
    starts = {length: both.starts(length, ends) for length in {reading.width.length for reading in readings}}
    answers = []
    for reading in readings:
        start = starts[reading.width.length]
        if reading.carried is None:
            answers.append(pa.array(ends - start, pa.int64()))
        else:
            column = ranges[reading.carried]
            answers.append(getattr(column, reading.function)(*column.among_valid(start, ends)))
    return answers


def _ranges(both: Sides, carried: Sequence[str]) -> dict[str, Ranges]:
    instant = runs(both.event_codes)
    columns = {name: both.events.column(name).combine_chunks() for name in carried}
    floating = [
        values.fill_null(0.0).to_numpy(zero_copy_only=False)
        for values in columns.values()
        if pa.types.is_floating(values.type)
    ]
    order = canonical_within_ties(instant, floating)
    group = both.event_codes // both.span
    shuffled = bool(np.any(order[1:] < order[:-1]))
    return {
        name: Ranges(values.take(order) if shuffled else values, group, instant) for name, values in columns.items()
    }
