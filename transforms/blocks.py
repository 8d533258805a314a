"""Blocks: rows of queries and events as Arrow columns, one block per bin, and back to whole buckets of both. No Spark.

A bucket is one key in one stretch of time; a bin holds the buckets that hash into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa

from transforms.arrays import Integers
from transforms.layout import Flags, Hashes, Layout, whole

# A block is a serialised record batch, eight bytes a number: NVIDIA's plugin takes lists of numbers, and no bytes.
COLUMNS = "bin INT, kind TINYINT, block ARRAY<BIGINT>"
_EVENTS, _LATE_EVENTS, _QUERIES = range(3)  # events first in each bin; late ones are those sent on to the next bucket
_ROWS_PACKED = 1 << 18
_BYTES_PACKED = 1 << 29  # a column of texts holds less than 2 GB
_ROWS_AT_ONCE = 1 << 19
_LARGEST_CODE = 1 << 62


def microseconds(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


@dataclass(frozen=True)
class Packing:
    """Rows to blocks, one for each bin that occurs. Which bin a row goes to depends on the row alone."""

    asking: Layout
    telling: Layout
    width: int
    reach: int
    bins: int

    def queries(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in _tables(batches, self.asking.schema):
            yield self._queries(table)

    def events(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Of rows that can match something."""
        for table in _tables(batches, self.telling.schema):
            yield from self._events(table)

    def both(
        self, batches: Iterable[pa.RecordBatch], *, schema: pa.Schema, mine: Sequence[int], theirs: Sequence[int]
    ) -> Iterator[pa.RecordBatch]:
        """Of rows that are queries and events: columns `mine` are the queries', `theirs` the events'."""
        for table in _tables(batches, schema):
            yield self._queries(_selected(table, mine, self.asking.schema))
            events = _selected(table, theirs, self.telling.schema)
            known = self.telling.matchable(events)
            if known.any():
                yield from self._events(events if known.all() else events.filter(pa.array(known)).combine_chunks())

    def _queries(self, table: pa.Table) -> pa.RecordBatch:
        bucket = self.asking.micros(table) // self.width
        return self._blocks(table, self.asking.places(table), bucket, _QUERIES)

    def _events(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        time, place = self.telling.micros(table), self.telling.places(table)
        bucket = time // self.width
        yield self._blocks(table, place, bucket, _EVENTS)
        late = np.flatnonzero(time - bucket * self.width >= self.width - self.reach)
        if len(late):
            yield self._blocks(table, place[late], bucket[late] + 1, _LATE_EVENTS, late)

    def _blocks(
        self, table: pa.Table, place: Hashes, bucket: Integers, kind: int, rows: Integers | None = None
    ) -> pa.RecordBatch:
        """The table's rows, or those at `rows`, by bin."""
        mixed = place + bucket.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        bin_of_row = ((mixed >> np.uint64(32)) * np.uint64(self.bins) >> np.uint64(32)).astype(np.uint16)
        order = np.argsort(bin_of_row, kind="stable")
        batch = table.take(order if rows is None else rows[order]).combine_chunks().to_batches()[0]
        bins = bin_of_row[order]
        edges = [0, *(np.flatnonzero(bins[1:] != bins[:-1]) + 1).tolist(), len(bins)]
        blocks = _concatenated([batch.slice(a, b - a).serialize() for a, b in pairwise(edges)])
        kinds = np.full(len(blocks), kind, dtype=np.int8)
        return pa.record_batch(
            [pa.array(bins[edges[:-1]].astype(np.int32)), pa.array(kinds), blocks], ["bin", "kind", "block"]
        )


def _concatenated(blocks: Sequence[pa.Buffer]) -> pa.Array:
    """A list array of blocks, each copied once. Arrow pads what it serialises to whole numbers."""
    ends = np.cumsum([0, *(block.size for block in blocks)])
    whole_buffer = pa.allocate_buffer(int(ends[-1]))
    view = memoryview(whole_buffer)
    for block, (start, end) in zip(blocks, pairwise(ends.tolist()), strict=True):
        view[start:end] = memoryview(block)
    numbers = pa.Array.from_buffers(pa.int64(), len(whole_buffer) // 8, [None, whole_buffer])
    return pa.ListArray.from_arrays(pa.array(ends // 8, pa.int32()), numbers)


def _serialised(block: pa.ListScalar) -> pa.Buffer:
    """The record batch in a block, where Arrow has it."""
    numbers = block.values
    return numbers.buffers()[1].slice(8 * numbers.offset, 8 * len(numbers))


def _selected(table: pa.Table, places: Sequence[int], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([table.column(i) for i in places], schema=schema)


def _tables(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if batch.num_rows:
            held.append(batch)
            rows += batch.num_rows
            size += batch.nbytes
        if rows >= _ROWS_PACKED or size >= _BYTES_PACKED:
            yield whole(held, schema)
            held, rows, size = [], 0, 0
    if held:
        yield whole(held, schema)


@dataclass(frozen=True)
class Sides:
    """The queries and the events of some buckets. A code orders rows by bucket, then time.

    `events` is ordered by `event_codes`, which are `group * span + time since the start of the bucket before`, a group being
    one (key, bucket). Events of equal code come in no particular order. `queries` is ordered by `query_codes`: looked up one
    after the other, they find what they need near to what the one before needed; `matchable` belongs to them.
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
    """Blocks, sorted by bin and within it by kind, to `Sides`."""

    asking: Layout
    telling: Layout
    width: int

    def sides(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Sides]:
        """Every query once, with all events that it can see and others.

        Bins are taken together until they hold some half a million rows. The queries of one large bin are taken in parts, so
        that what must fit in memory is its events: about 100 bytes each and the columns carried.
        """
        held = _Held()
        current = -1
        for batch in batches:
            for number, kind, block in zip(*(batch.column(i) for i in range(3)), strict=True):
                if number.as_py() != current and held.asked + held.told >= _ROWS_AT_ONCE:
                    yield from self._sides(held)
                    held = _Held()
                current = number.as_py()
                if kind.as_py() != _QUERIES:
                    held.tell(pa.ipc.read_record_batch(_serialised(block), self.telling.schema), kind.as_py())
                    continue
                held.ask(pa.ipc.read_record_batch(_serialised(block), self.asking.schema))
                # Its events came first; ordering them again is worth as many queries.
                if held.asked >= max(_ROWS_AT_ONCE, held.told):
                    yield from self._sides(held)
                    held.queries, held.asked = [], 0
        yield from self._sides(held)

    def _sides(self, held: _Held) -> Iterator[Sides]:
        if not held.asked:
            return
        queries, events = self.asking.table(held.queries), self.telling.table(held.events)
        matchable = self.asking.matchable(queries)
        times = [np.where(matchable, self.asking.micros(queries), 0), self.telling.micros(events)]
        sent_on = np.repeat(np.array(held.kinds) == _LATE_EVENTS, [batch.num_rows for batch in held.events])
        buckets = [times[0] // self.width, times[1] // self.width + sent_on]
        span = 2 * self.width
        most = min(_LARGEST_CODE // span, 1 << 40)
        keys = [
            pa.concat_arrays(both)
            for both in zip(self.asking.key_columns(queries), self.telling.key_columns(events), strict=True)
        ]
        groups, count = _numbered(keys, buckets, most)
        asked, told = self.asking.taken(queries), self.telling.taken(events)
        offsets = [time - (bucket - 1) * self.width for time, bucket in zip(times, buckets, strict=True)]
        for first in range(0, count, most):
            (mine, my_codes), (theirs, their_codes) = (
                _ordered(group - first, offset, span, most) for group, offset in zip(groups, offsets, strict=True)
            )
            yield Sides(asked.take(mine), my_codes, matchable[mine], told.take(theirs), their_codes, span)


class _Held:
    """Blocks read so far that have not been answered."""

    def __init__(self) -> None:
        self.queries: list[pa.RecordBatch] = []
        self.events: list[pa.RecordBatch] = []
        self.kinds: list[int] = []
        self.asked = self.told = 0

    def ask(self, block: pa.RecordBatch) -> None:
        self.queries.append(block)
        self.asked += block.num_rows

    def tell(self, block: pa.RecordBatch, kind: int) -> None:
        self.events.append(block)
        self.kinds.append(kind)
        self.told += block.num_rows


def _ordered(group: Integers, offset: Integers, span: int, most: int) -> tuple[Integers, Integers]:
    """Positions of the rows in the first `most` groups, ordered by code, and their codes."""
    here = (group >= 0) & (group < most)
    codes = group * span + offset
    if here.all():
        order = np.argsort(codes)
        return order, codes[order]
    rows = np.flatnonzero(here)
    order = rows[np.argsort(codes[rows])]
    return order, codes[order]


def _numbered(keys: Sequence[pa.Array], buckets: Sequence[Integers], most: int) -> tuple[list[Integers], int]:
    """For each row of both sides a number of its (key, bucket), and how many numbers there may be.

    Numbers are made of digits, one for the bucket and one for each key column; the gaps are closed once they exceed `most`.
    """
    both = np.concatenate(buckets)
    digits = [both - both.min()]
    digits += [key.dictionary_encode().indices.fill_null(0).to_numpy().astype(np.int64) for key in keys]
    number, count = np.zeros(len(both), dtype=np.int64), 1
    for digit in digits:
        base = int(digit.max()) + 1
        number = number * base + digit
        count *= base
        if count > most:
            number = np.unique(number, return_inverse=True)[1].reshape(-1)
            count = int(number.max()) + 1
    return [number[: len(buckets[0])], number[len(buckets[0]) :]], count
