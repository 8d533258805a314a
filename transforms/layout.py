"""What travels of one side, queries or events: which column is for what, and what is read from those columns. No Spark."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.arrays import Integers

Flags = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Layout:
    """Positions of columns by what they are for. A column that is for several things travels once: sending is what costs.

    `instant` is a timestamp in microseconds. `keys` are compared as `key_types`, None where they are of that type already.
    `carried` is what the answer takes or reads, under the names that it uses.
    """

    schema: pa.Schema
    instant: int
    keys: tuple[int, ...]
    key_types: tuple[pa.DataType | None, ...]
    carried: Mapping[str, int]

    def table(self, batches: Sequence[pa.RecordBatch]) -> pa.Table:
        """The rows of all batches."""
        return whole(batches, self.schema)

    def micros(self, table: pa.Table) -> Integers:
        """Microseconds since 1970, 0 where there is no instant."""
        values: Integers = _array(table, self.instant).view(pa.int64()).fill_null(0).to_numpy()
        return values

    def matchable(self, table: pa.Table) -> Flags:
        """Whether a row can match anything: not without an instant or with a null in its key."""
        known = (table.column(i).is_valid().to_numpy() for i in (self.instant, *self.keys))
        found: Flags = reduce(and_, known)
        return found

    def key_columns(self, table: pa.Table) -> list[pa.Array]:
        """The keys in types that both sides share, what SQL holds equal made equal: -0.0 and 0.0, and NaN of any bits."""
        columns = []
        for i, type_ in zip(self.keys, self.key_types, strict=True):
            column = _array(table, i) if type_ is None else _array(table, i).cast(type_)
            if pa.types.is_floating(column.type):
                column = pc.if_else(pc.is_nan(column), np.nan, pc.add(column, 0.0))
            columns.append(column)
        return columns

    def places(self, table: pa.Table) -> Hashes:
        """A hash of the key; of the row where it matches nothing: all rows with a null key would pile up in one place.

        It depends on nothing but values: a task that is run again must send each row where it was sent before.
        """
        places = _hashed(self.key_columns(table))
        lost = np.flatnonzero(~self.matchable(table))
        if len(lost):
            rows = table.take(lost)
            plain = [i for i, field in enumerate(self.schema) if not pa.types.is_nested(field.type)]
            places[lost] = _hashed([_array(rows, i) for i in plain if not pa.types.is_null(self.schema.field(i).type)])
        return places

    def taken(self, table: pa.Table) -> pa.Table:
        """What is carried, under its names."""
        return pa.table([table.column(i) for i in self.carried.values()], list(self.carried))


def whole(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """The rows of all batches, each column in one piece."""
    return pa.Table.from_batches(batches, schema).combine_chunks()


def _array(table: pa.Table, position: int) -> pa.Array:
    column = table.column(position)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _hashed(columns: Sequence[pa.Array]) -> Hashes:
    """One hash per row, the same in every process; only distinct values are hashed."""
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        coded = column.dictionary_encode()
        of_value = np.append(_hashed_values(coded.dictionary), np.uint64(0))
        codes = coded.indices.fill_null(len(of_value) - 1).to_numpy()
        mixed = (mixed ^ of_value[codes]) * _ODD
    return mixed


def _hashed_values(values: pa.Array) -> Hashes:
    """Texts by checksum, others by their bits. Not by pandas: workers would wait for its import."""
    if values.type in (pa.string(), pa.binary(), pa.large_string(), pa.large_binary()):
        return np.array([zlib.crc32(value) for value in values.cast(pa.large_binary()).to_pylist()], dtype=np.uint64)
    hashes = np.zeros(len(values), dtype=np.uint64)
    if not len(values):
        return hashes
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    width = values.type.byte_width
    words = np.frombuffer(values.buffers()[1], f"u{min(width, 8)}", len(values) * max(width // 8, 1))
    for word in words.reshape(len(values), -1).T:
        hashes = (hashes ^ word) * _ODD
    return hashes
