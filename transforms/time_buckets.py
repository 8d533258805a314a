"""Queries brought together with the events that they may see, in pieces that fit in memory.

Both sides are cut by (key, time bucket), a bucket being at least as wide as the furthest look back. A query belongs to the
bucket of its moment; an event is sent to its own bucket and, if a query there can still see it, to the next. So a query
finds all it needs in one bucket, a hot key spreads over its buckets, and nothing depends on how the input was partitioned.
The rows of a bucket stand together in the stream that an Arrow function reads; `whole_buckets` cuts that stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from operator import and_

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

QUERY = "query"
_ROWS_AT_ONCE = 1 << 19
_WIDEST = timedelta(days=100 * 366)


def microseconds(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


def bucket_width(reach: timedelta) -> int:
    """Microseconds of a bucket for queries that look back by `reach`.

    Wide buckets copy fewer events to the next bucket, narrow ones spread a hot key over more tasks: eight times the reach,
    but no more than a week unless the reach itself is longer.
    """
    return microseconds(max(reach, min(8 * reach, timedelta(days=7))))


def key_names(by: Mapping[str, str]) -> list[str]:
    return [f"key_{i}" for i in range(len(by))]


def problems_of_sides(
    queries: DataFrame, events: DataFrame, *, by: Mapping[str, str], as_of: str, known_at: str, reach: timedelta
) -> list[str]:
    """What keeps the two frames from being compared: absent columns, keys of different types, instants that are not timestamps."""
    problems = [f"no column {name!r} among the queries" for name in (*by, as_of) if name not in queries.columns]
    problems += [f"no column {name!r} among the events" for name in (*by.values(), known_at) if name not in events.columns]
    if not by:
        problems.append("`by` names no column: expected at least one key")
    if not timedelta(0) < reach <= _WIDEST:
        problems.append(f"a look back of {reach} is not usable: expected more than 0 and at most 100 years")
    if problems:
        return problems
    for frame, name in ((queries, as_of), (events, known_at)):
        if not isinstance(frame.schema[name].dataType, T.TimestampType):
            found = frame.schema[name].dataType.simpleString()
            problems.append(f"{name!r} is {found}, expected timestamp: cast it, in the time zone that is meant")
    for mine, theirs in by.items():
        left, right = queries.schema[mine].dataType, events.schema[theirs].dataType
        if not _comparable(left, right):
            problems.append(f"key {mine!r} is {left.simpleString()}, {theirs!r} is {right.simpleString()}: cast one to the other's type")
        elif isinstance(left, (T.ArrayType, T.MapType, T.StructType)):
            problems.append(f"key {mine!r} is {left.simpleString()}: a key is a plain value")
    return problems


def _comparable(left: T.DataType, right: T.DataType) -> bool:
    families = (T.IntegralType, T.FractionalType)
    return left == right or any(isinstance(left, f) and isinstance(right, f) for f in families)


def bring_together(
    queries: DataFrame,
    events: DataFrame,
    *,
    by: Mapping[str, str],
    as_of: str,
    known_at: str,
    reach: timedelta,
    carried: Mapping[str, Column],
) -> DataFrame:
    """All queries and the events within reach, partitioned by bucket and sorted so that a bucket's rows stand together.

    Columns: `query`, the query's own row as a struct (null for an event); `key_0`...; `time` in microseconds; `bucket`;
    `place`, the hash that keeps a bucket together; then the columns of `carried`, computed from `events` (null for a query).
    Events without an instant or with a null in their key are left out. Queries like that stay, spread over all partitions.
    """
    width = bucket_width(reach)
    keys = key_names(by)
    asking = queries.select(
        F.struct(*(queries[name] for name in queries.columns)).alias(QUERY),
        *(queries[name].alias(key) for key, name in zip(keys, by, strict=True)),
        F.unix_micros(queries[as_of]).alias("time"),
    ).withColumn("bucket", _bucket(width))
    known = reduce(and_, (events[name].isNotNull() for name in (*by.values(), known_at)))
    own, offset = _bucket(width), F.pmod("time", F.lit(width))
    seen_from = F.when(offset >= width - microseconds(reach), F.array(own, own + 1)).otherwise(F.array(own))
    answering = (
        events.where(known)
        .select(
            *(events[name].alias(key) for key, name in zip(keys, by.values(), strict=True)),
            F.unix_micros(events[known_at]).alias("time"),
            *(column.alias(name) for name, column in carried.items()),
        )
        .select("*", F.explode(seen_from).alias("bucket"))
    )
    both = asking.unionByName(answering, allowMissingColumns=True)
    matchable = reduce(and_, (F.col(name).isNotNull() for name in (*keys, "time")))
    # A row that matches nothing may lie anywhere; by its bucket alone, all rows with a null key would pile up.
    spread = F.xxhash64("time", *(f"{QUERY}.{f.name}" for f in queries.schema if isinstance(f.dataType, T.AtomicType)))
    place = F.when(matchable, F.xxhash64(*keys, "bucket")).otherwise(spread)
    return both.withColumn("place", place).repartition("place").sortWithinPartitions("place")


def _bucket(width: int) -> Column:
    return F.expr(f"(time - pmod(time, {width}L)) div {width}L")


def whole_buckets(batches: Iterable[pa.RecordBatch], width: int) -> Iterator[pa.Table]:
    """Cut the sorted stream into tables of some half a million rows, never inside a bucket.

    `width` bounds the number of buckets in a table, so that (bucket, time in it) fits in 64 bits: see `Sides`.
    """
    enough = min(_ROWS_AT_ONCE, (1 << 61) // (2 * width))
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        if rows >= enough:
            last = held[-1].column("place")[-1].as_py()
            cut = int(np.searchsorted(batch.column("place").to_numpy(), last, side="right"))
            if cut < batch.num_rows:
                yield pa.Table.from_batches([*held, batch.slice(0, cut)])
                held, rows = [], 0
                batch = batch.slice(cut)
        held.append(batch)
        rows += batch.num_rows
    if held:
        yield pa.Table.from_batches(held)


@dataclass(frozen=True)
class Sides:
    """The two sides of one table. A code orders rows by bucket, then time: `bucket * 2 * width + time since the bucket before`.

    `events` is ordered by `event_codes`, events of equal code in the order in which they came. `query_codes` belongs to `queries`.
    """

    queries: pa.Table
    query_codes: Integers
    matchable: Flags
    events: pa.Table
    event_codes: Integers

    def ends(self) -> Integers:
        """For each query the position after the last event before its moment."""
        return np.searchsorted(self.event_codes, self.query_codes, side="left")

    def starts(self, look_back: timedelta, ends: Integers) -> Integers:
        """For each query the position of the first event at or after `as_of - look_back`; the end, where the query matches nothing."""
        found = np.searchsorted(self.event_codes, self.query_codes - microseconds(look_back), side="left")
        return np.where(self.matchable, found, ends)


def sides(table: pa.Table, keys: Sequence[str], carried: Sequence[str], width: int) -> Sides:
    """Separate the queries of a table of whole buckets from its events and order the events by bucket and time."""
    table = table.combine_chunks()
    is_query = table.column(QUERY).is_valid().to_numpy()
    matchable = reduce(and_, (table.column(name).is_valid().to_numpy() for name in (*keys, "time")))
    bucket = _whole(table, "bucket")
    offset = _whole(table, "time") - (bucket - 1) * width
    code = _numbered(table, keys, bucket) * (2 * width) + offset
    query_rows, event_rows = np.flatnonzero(is_query), np.flatnonzero(~is_query)
    order = np.argsort(code[event_rows], kind="stable")
    event_rows = event_rows[order]
    return Sides(
        queries=pa.Table.from_struct_array(table.column(QUERY).filter(is_query)),
        query_codes=code[query_rows],
        matchable=matchable[query_rows],
        events=table.select(list(carried)).take(event_rows),
        event_codes=code[event_rows],
    )


def _whole(table: pa.Table, name: str) -> Integers:
    values: Integers = pc.fill_null(table.column(name), 0).to_numpy()
    return values


def _numbered(table: pa.Table, keys: Sequence[str], bucket: Integers) -> Integers:
    """A number for each (key, bucket), from 0 without gaps.

    Rows come sorted by a hash of both, so each is one run of rows, save that two whose hashes collide may interleave: the
    runs, few beside the rows, are numbered by what they hold.
    """
    columns = [_key_numbers(table.column(name)) for name in keys]
    changes = reduce(np.logical_or, (column[1:] != column[:-1] for column in (*columns, bucket)))
    firsts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    runs = np.stack([column[firsts] for column in (*columns, bucket)], axis=1)
    number_of_run = np.unique(runs, axis=0, return_inverse=True)[1].reshape(-1)
    return np.repeat(number_of_run, np.diff(np.append(firsts, len(bucket))))


def _key_numbers(column: pa.ChunkedArray) -> Integers:
    values = column.combine_chunks()
    if pa.types.is_floating(values.type):
        values = pc.add(values, 0.0)  # SQL holds -0.0 and 0.0 equal
    numbers: Integers = pc.fill_null(values.dictionary_encode().indices, -1).to_numpy().astype(np.int64)
    return numbers
