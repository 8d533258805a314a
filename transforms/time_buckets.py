"""Queries brought together with the events that they may see, in pieces that fit in memory.

Both sides are cut by (key, time bucket), a bucket being at least as wide as the furthest look back. A query belongs to the
bucket of its moment; an event is sent to its own bucket and, if a query there can still see it, to the next. So a query
finds all it needs in one bucket, a hot key spreads over its buckets, and nothing depends on how the input was partitioned.

Buckets are hashed into a bounded number of bins, and what travels through the shuffle is not rows but blocks of Arrow
columns, one per bin and some hundred thousand rows: rows would be sorted, sent and converted one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from itertools import pairwise
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
Answer = Callable[["Sides"], Iterable[pa.Array]]

_BLOCKS = "bin INT, is_query BOOLEAN, block BINARY"
_ROWS_PACKED = 1 << 18
_ROWS_AT_ONCE = 1 << 19
_MOST_BINS = 1 << 15
_LARGEST_CODE = 1 << 62
_WIDEST = timedelta(days=100 * 366)


def microseconds(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


def bucket_width(reach: timedelta) -> int:
    """Microseconds of a bucket for queries that look back by `reach`.

    Wide buckets copy fewer events to the next bucket, narrow ones spread a hot key over more tasks: eight times the reach,
    but no more than a week unless the reach itself is longer.
    """
    return microseconds(max(reach, min(8 * reach, timedelta(days=7))))


def problems_of_sides(
    queries: DataFrame, events: DataFrame, *, by: Mapping[str, str], as_of: str, known_at: str, reach: timedelta
) -> list[str]:
    """What keeps two frames from being compared: absent columns, keys of different types, instants that are no timestamps."""
    problems = [f"no column {name!r} among the queries" for name in (*by, as_of) if name not in queries.columns]
    absent = [name for name in (*by.values(), known_at) if name not in events.columns]
    problems += [f"no column {name!r} among the events" for name in absent]
    if not by:
        problems.append("`by` names no column: expected at least one key")
    if not timedelta(0) < reach <= _WIDEST:
        problems.append(f"a look back of {reach} is not usable: expected more than 0 and at most 100 years")
    if problems:
        return problems
    for frame, name in ((queries, as_of), (events, known_at)):
        found = frame.schema[name].dataType
        if not isinstance(found, T.TimestampType):
            problems.append(f"{name!r} is {found.simpleString()}, expected timestamp: cast it, in the time zone meant")
    for mine, theirs in by.items():
        left, right = queries.schema[mine].dataType, events.schema[theirs].dataType
        if not isinstance(left, T.AtomicType):
            problems.append(f"key {mine!r} is {left.simpleString()}: a key is a plain value")
        elif _common_type(left, right) is None:
            found_types = f"{left.simpleString()}, {theirs!r} is {right.simpleString()}"
            problems.append(f"key {mine!r} is {found_types}: cast one to the other's type")
    return problems


def _common_type(left: T.DataType, right: T.DataType) -> T.DataType | None:
    if left == right:
        return left
    if isinstance(left, T.IntegralType) and isinstance(right, T.IntegralType):
        return T.LongType()
    floating = (T.FloatType, T.DoubleType)
    return T.DoubleType() if isinstance(left, floating) and isinstance(right, floating) else None


def answer_each(
    queries: DataFrame,
    events: DataFrame,
    *,
    by: Mapping[str, str],
    as_of: str,
    known_at: str,
    reach: timedelta,
    carried: Mapping[str, Column],
    added: Sequence[T.StructField],
    answer: Answer,
) -> DataFrame:
    """Every row of `queries` once, unchanged, with the `added` columns that `answer` gives for it.

    `answer` runs in the workers: it takes the queries and the events of some buckets (see `Sides`) and gives one array per
    added column, in the order of the queries. `carried` are the columns that it needs of the events, computed from `events`.
    Events without an instant or with a null in their key are left out; queries like that are asked, with `matchable` false.
    """
    types = [
        _common_type(queries.schema[mine].dataType, events.schema[theirs].dataType) or T.NullType()
        for mine, theirs in by.items()
    ]
    asking = _with_place(queries, by, types, as_of, {f"query_{i}": queries[n] for i, n in enumerate(queries.columns)})
    known = reduce(and_, (events[name].isNotNull() for name in (*by.values(), known_at)))
    answering = _with_place(events.where(known), by.values(), types, known_at, carried)
    bins = min(max(256, 8 * int(str(queries.sparkSession.conf.get("spark.sql.shuffle.partitions")))), _MOST_BINS)
    packing = _Packing(bucket_width(reach), microseconds(reach), bins)
    blocks = asking.mapInArrow(packing.queries, _BLOCKS).unionAll(answering.mapInArrow(packing.events, _BLOCKS))
    unpacking = _Unpacking(
        _packed_schema(asking), _packed_schema(answering), len(types), bucket_width(reach), tuple(queries.columns)
    )
    names = [field.name for field in added]

    def answers(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for both in unpacking.sides(batches):
            arrays = [*both.queries.columns, *answer(both)]
            yield from pa.table(arrays, [*both.queries.column_names, *names]).to_batches(max_chunksize=1 << 16)

    schema = T.StructType([*queries.schema.fields, *added])
    return blocks.repartition("bin").sortWithinPartitions("bin").mapInArrow(answers, schema)


def _with_place(
    frame: DataFrame, keys: Iterable[str], types: Sequence[T.DataType], instant: str, columns: Mapping[str, Column]
) -> DataFrame:
    """Columns: those given; `time` in microseconds; `key_0`...; `place`, a hash of the key, or of the row if it matches nothing.

    By its key alone, all rows with a null in it would pile up in one place.
    """
    key_columns = [frame[name].cast(type_) for name, type_ in zip(keys, types, strict=True)]
    matchable = reduce(and_, (column.isNotNull() for column in (*key_columns, frame[instant])))
    spread = [frame[field.name] for field in frame.schema if isinstance(field.dataType, T.AtomicType)]
    return frame.select(
        *(column.alias(name) for name, column in columns.items()),
        F.unix_micros(frame[instant]).alias("time"),
        *(column.alias(f"key_{i}") for i, column in enumerate(key_columns)),
        F.when(matchable, F.xxhash64(*key_columns)).otherwise(F.xxhash64(*spread)).alias("place"),
    )


def _packed_schema(frame: DataFrame) -> pa.Schema:
    """What a block of the frame's rows holds: the columns of `_with_place` without `place`, then the bucket."""
    empty = frame.sparkSession.createDataFrame([], frame.drop("place").schema)
    return empty.toArrow().schema.append(pa.field("bucket", pa.int64()))


@dataclass(frozen=True)
class _Packing:
    """Rows to blocks, one for each bin that occurs. Which bin a row goes to depends on the row alone."""

    width: int
    reach: int
    bins: int

    def queries(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in _tables(batches):
            bucket = _whole(table.column("time")) // self.width
            yield self._blocks(table, np.arange(table.num_rows), bucket, is_query=True)

    def events(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in _tables(batches):
            time = _whole(table.column("time"))
            bucket = time // self.width
            late = np.flatnonzero(time - bucket * self.width >= self.width - self.reach)
            rows = np.concatenate([np.arange(len(time)), late])
            yield self._blocks(table, rows, np.concatenate([bucket, bucket[late] + 1]), is_query=False)

    def _blocks(self, table: pa.Table, rows: Integers, bucket: Integers, *, is_query: bool) -> pa.RecordBatch:
        place = _whole(table.column("place"))[rows].view(np.uint64)
        mixed = place + bucket.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        bin_of_row = ((mixed >> np.uint64(32)) % np.uint64(self.bins)).astype(np.uint16)
        order = np.argsort(bin_of_row, kind="stable")
        packed = table.drop_columns(["place"]).take(rows[order]).append_column("bucket", pa.array(bucket[order]))
        batch = packed.combine_chunks().to_batches()[0]
        bins = bin_of_row[order]
        edges = [0, *(np.flatnonzero(bins[1:] != bins[:-1]) + 1).tolist(), len(bins)]
        blocks = [batch.slice(a, b - a).serialize().to_pybytes() for a, b in pairwise(edges)]
        return pa.record_batch(
            [
                pa.array(bins[edges[:-1]].astype(np.int32)),
                pa.array(np.full(len(blocks), is_query)),
                pa.array(blocks, pa.binary()),
            ],
            ["bin", "is_query", "block"],
        )


def _tables(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if batch.num_rows:
            held.append(batch)
            rows += batch.num_rows
        if rows >= _ROWS_PACKED:
            yield pa.Table.from_batches(held).combine_chunks()
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


def _whole(column: pa.ChunkedArray) -> Integers:
    values: Integers = pc.fill_null(column, 0).to_numpy()
    return values


@dataclass(frozen=True)
class Sides:
    """The queries and the events of some buckets. A code orders rows by bucket, then time.

    `events` is ordered by `event_codes`, which are `group * span + time since the start of the bucket before`, a group being
    one (key, bucket). Events of equal code come in no particular order. `query_codes` and `matchable` belong to `queries`.
    """

    queries: pa.Table
    query_codes: Integers
    matchable: Flags
    events: pa.Table
    event_codes: Integers
    span: int

    def ends(self) -> Integers:
        """For each query the position after the last event before its moment."""
        return np.searchsorted(self.event_codes, self.query_codes, side="left")

    def starts(self, look_back: timedelta, ends: Integers) -> Integers:
        """For each query the position of the first event at or after `as_of - look_back`; its end where it matches nothing."""
        found = np.searchsorted(self.event_codes, self.query_codes - microseconds(look_back), side="left")
        return np.where(self.matchable, found, ends)


@dataclass(frozen=True)
class _Unpacking:
    """Blocks, sorted by bin, to `Sides` of whole bins."""

    query_schema: pa.Schema
    event_schema: pa.Schema
    key_count: int
    width: int
    names: tuple[str, ...]

    def sides(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Sides]:
        for queries, events in self._whole_bins(batches):
            yield from self._sides(queries, events)

    def _whole_bins(self, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Bins together until they hold some half a million rows. Bins without queries have nothing to answer."""
        held: dict[bool, list[pa.RecordBatch]] = {True: [], False: []}
        rows, current = 0, -1
        for batch in batches:
            for number, is_query, block in zip(*(batch.column(i) for i in range(3)), strict=True):
                if number.as_py() != current and rows >= _ROWS_AT_ONCE:
                    yield self._tables(held)
                    held, rows = {True: [], False: []}, 0
                current = number.as_py()
                schema = self.query_schema if is_query.as_py() else self.event_schema
                unpacked = pa.ipc.read_record_batch(block.as_buffer(), schema)
                held[is_query.as_py()].append(unpacked)
                rows += unpacked.num_rows
        if held[True]:
            yield self._tables(held)

    def _tables(self, held: Mapping[bool, list[pa.RecordBatch]]) -> tuple[pa.Table, pa.Table]:
        queries = pa.Table.from_batches(held[True], self.query_schema).combine_chunks()
        return queries, pa.Table.from_batches(held[False], self.event_schema).combine_chunks()

    def _sides(self, queries: pa.Table, events: pa.Table) -> Iterator[Sides]:
        keys = [f"key_{i}" for i in range(self.key_count)]
        matchable = reduce(and_, (queries.column(n).is_valid().to_numpy() for n in (*keys, "time")))
        buckets = [np.where(matchable, _whole(queries.column("bucket")), 0), _whole(events.column("bucket"))]
        times = [np.where(matchable, _whole(queries.column("time")), 0), _whole(events.column("time"))]
        span = 2 * self.width
        most = min(_LARGEST_CODE // span, 1 << 40)
        groups, count = _numbered(queries, events, keys, buckets, most)
        asked = queries.select(range(len(self.names))).rename_columns(list(self.names))
        told = events.select([n for n in events.column_names if n not in (*keys, "time", "bucket")])
        offsets = [time - (bucket - 1) * self.width for time, bucket in zip(times, buckets, strict=True)]
        for first in range(0, count, most):
            mine, theirs = (np.flatnonzero((group >= first) & (group < first + most)) for group in groups)
            codes = [
                (group[rows] - first) * span + offset[rows]
                for group, offset, rows in zip(groups, offsets, (mine, theirs), strict=True)
            ]
            order = np.argsort(codes[1], kind="stable")
            whole = len(mine) == queries.num_rows
            yield Sides(
                asked if whole else asked.take(mine),
                codes[0],
                matchable[mine],
                told.take(theirs[order]),
                codes[1][order],
                span,
            )


def _numbered(
    queries: pa.Table, events: pa.Table, keys: Sequence[str], buckets: Sequence[Integers], most: int
) -> tuple[list[Integers], int]:
    """For each row of both sides a number of its (key, bucket), and how many numbers there may be.

    Numbers are made of digits, one for the bucket and one for each key column; the gaps are closed once they exceed `most`.
    """
    both = np.concatenate(buckets)
    digits = [both - both.min()]
    for name in keys:
        column = pa.concat_arrays([*queries.column(name).chunks, *events.column(name).chunks])
        if pa.types.is_floating(column.type):
            column = pc.add(column, 0.0)  # SQL holds -0.0 and 0.0 equal
        digits.append(pc.fill_null(column.dictionary_encode().indices, 0).to_numpy().astype(np.int64))
    number, count = np.zeros(len(both), dtype=np.int64), 1
    for digit in digits:
        base = int(digit.max()) + 1
        number = number * base + digit
        count *= base
        if count > most:
            number = np.unique(number, return_inverse=True)[1].reshape(-1)
            count = int(number.max()) + 1
    return [number[: len(buckets[0])], number[len(buckets[0]) :]], count
