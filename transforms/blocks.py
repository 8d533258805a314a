"""Blocks: rows of queries and events as Arrow columns, one block per bin, and back to whole buckets of both. No Spark.

A bucket is one key in one stretch of time; a bin holds the buckets that hash into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from itertools import pairwise
from operator import and_

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.arrays import Integers

Flags = npt.NDArray[np.bool_]

COLUMNS = "bin INT, is_query BOOLEAN, block BINARY"
_ROWS_PACKED = 1 << 18
_ROWS_AT_ONCE = 1 << 19
_LARGEST_CODE = 1 << 62


def microseconds(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


@dataclass(frozen=True)
class Packing:
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
class Unpacking:
    """Blocks, sorted by bin and within it events first, to `Sides`."""

    query_schema: pa.Schema
    event_schema: pa.Schema
    key_count: int
    width: int
    names: tuple[str, ...]

    def sides(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Sides]:
        """Every query once, with all events that it can see and others.

        Bins are taken together until they hold some half a million rows. The queries of one large bin are taken in parts, so
        that what must fit in memory is its events: about 100 bytes each and the columns carried.
        """
        queries: list[pa.RecordBatch] = []
        events: list[pa.RecordBatch] = []
        asked = told = 0
        current = -1
        for batch in batches:
            for number, is_query, block in zip(*(batch.column(i) for i in range(3)), strict=True):
                if number.as_py() != current and asked + told >= _ROWS_AT_ONCE:
                    yield from self._sides(queries, events)
                    queries, events, asked, told = [], [], 0, 0
                current = number.as_py()
                if not is_query.as_py():
                    events.append(pa.ipc.read_record_batch(block.as_buffer(), self.event_schema))
                    told += events[-1].num_rows
                    continue
                queries.append(pa.ipc.read_record_batch(block.as_buffer(), self.query_schema))
                asked += queries[-1].num_rows
                if asked >= max(
                    _ROWS_AT_ONCE, told
                ):  # its events came first; ordering them again is worth as many queries
                    yield from self._sides(queries, events)
                    queries, asked = [], 0
        yield from self._sides(queries, events)

    def _sides(self, asking: list[pa.RecordBatch], telling: list[pa.RecordBatch]) -> Iterator[Sides]:
        if not asking:
            return
        queries = pa.Table.from_batches(asking, self.query_schema).combine_chunks()
        events = pa.Table.from_batches(telling, self.event_schema).combine_chunks()
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
