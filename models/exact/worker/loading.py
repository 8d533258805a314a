"""Rows of one partition, as Spark hands them over in Arrow batches, put in order of their cells.

Columns: `cell` int, `dense` list of double, `codes` list of int, `label` double, `weight` double. A list's elements lie row after
row in one buffer, which is the row-major matrix: nothing is converted, and each element is copied once, to its place.
Rows beyond the budget go to files, which are mapped into memory.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.exact.worker.blocks import Blocks, Cell
from transforms.errors import ModelError

Array = npt.NDArray[Any]
TYPES = {"dense": np.float64, "codes": np.int32, "label": np.float64, "weight": np.float64}


class InputFailed(Exception):
    """Spark failed to compute the rows; its own error says why."""


class Batch(NamedTuple):
    """Rows of one Arrow batch: views of its buffers. `cell` (n), `columns` as in `Cell`."""

    cell: Array
    columns: dict[str, Array]


def load(
    batches: Iterable[pa.RecordBatch],
    levels: tuple[int, ...],
    memory: int | None,
    folder: str,
    *,
    missing: bool = False,
) -> Blocks:
    """All rows of a partition.

    Args:
        levels: number of levels of each column of `codes`.
        memory: bytes of rows that may be held; None for any number.
        folder: where rows beyond them go. Their files have no name once they are mapped: they vanish with the last array.
        missing: whether values of `dense` may be missing: NaN stands for them.

    Raises:
        ModelError: a value is missing, rows differ in length, the folder is full, or its files are more than may be mapped.
        InputFailed: Spark failed to compute the rows.
    """
    reader = _Reader(len(levels), missing)
    held: list[Batch] = []
    size = 0
    with ExitStack() as stack:
        spool = None
        for batch in _watched(batches):
            if batch.num_rows:
                held.append(reader.read(batch))
                size += batch.nbytes
            if memory is not None and size > memory:
                spool = spool or stack.enter_context(_Spool(folder))
                spool.append(held, reader.missing)
                size = 0
        reader.check()
        if spool is None:
            cells = _in_memory(held)
        else:
            spool.append(held, reader.missing)
            cells = spool.mapped()
    return Blocks(cells, levels)


def _watched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except Exception as error:
        raise InputFailed(str(error)) from error


class _Reader:
    """Arrow batches to arrays; counts what is missing in all of them, so that one error tells it all."""

    def __init__(self, groups: int, may_miss: bool) -> None:
        self._may_miss = may_miss
        self.lengths: dict[str, int | None] = {"dense": None, "codes": groups}
        self.missing: dict[str, Array] = {}

    def read(self, batch: pa.RecordBatch) -> Batch:
        columns = {name: self._matrix(name, batch.column(name)) for name in self.lengths}
        for name in ("label", "weight"):
            columns[name] = self._checked(name, batch.column(name), (batch.num_rows, 1))[:, 0]
        cell = self._checked("cell", batch.column("cell"), (batch.num_rows, 1))[:, 0]
        return Batch(np.nan_to_num(cell).astype(np.intp), columns)

    def check(self) -> None:
        problems = []
        for name, counts in self.missing.items():
            for position in np.flatnonzero(counts):
                what = f"Feature {position} (counted from 0)" if name == "dense" else f"Column '{name}'"
                problems.append(
                    f"{what} is null or NaN in {counts[position]} rows of one partition; expected a number in each: impute or"
                    " drop them before the fit."
                )
        if problems:
            raise ModelError(problems)

    def _matrix(self, name: str, column: pa.ListArray) -> Array:
        """(n, q) view of a list column."""
        if column.null_count:
            raise ModelError(
                f"Column '{name}' is null in {column.null_count} rows of one batch; expected a list of numbers in each: drop them"
                " before the fit."
            )
        lengths = np.diff(_values(column.offsets))
        known = self.lengths[name]
        self.lengths[name] = expected = int(lengths[0]) if known is None else known
        if not (lengths == expected).all():
            found = int(lengths[lengths != expected][0])
            raise ModelError(
                f"Column '{name}' has {found} elements in one row and {expected} in another; expected as many in all rows."
            )
        return self._checked(name, column.flatten(), (lengths.size, expected))

    def _checked(self, name: str, column: pa.Array, shape: tuple[int, int]) -> Array:
        """The elements as a matrix, without copying; what is missing is counted by column."""
        matrix = _values(column).reshape(shape)
        if self._may_miss and name == "dense":
            return matrix
        # One sum tells whether any is missing: NaN passes through it (and infinities may make one: look closer).
        with np.errstate(invalid="ignore", over="ignore"):
            suspicious = column.null_count or (matrix.dtype.kind == "f" and np.isnan(matrix.sum()))
        if suspicious:
            counts = np.isnan(matrix.astype(np.float64)).sum(axis=0)
            self.missing[name] = self.missing.get(name, 0) + counts
        return matrix


def _values(column: pa.Array) -> Array:
    """The elements, not copied unless some are null. (`to_numpy` alone would import pandas: a new worker takes a second for it.)"""
    values: Array = column.to_numpy(zero_copy_only=False) if column.null_count else np.from_dlpack(column)
    return values


def _by_cell(batch: Batch) -> Iterator[tuple[int, Array]]:
    """Cell numbers of a batch and the places of their rows, in the order of rows."""
    order = np.argsort(batch.cell, kind="stable")
    numbers, starts = np.unique(batch.cell[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)


def _in_memory(held: list[Batch]) -> list[Cell]:
    """Empties `held` on the way: a batch is let go once its rows are copied, so that rows are held little more than once."""
    totals: dict[int, int] = {}
    for batch in held:
        for number, count in zip(*np.unique(batch.cell, return_counts=True), strict=True):
            totals[int(number)] = totals.get(int(number), 0) + int(count)
    shapes = {name: array.shape[1:] for name, array in held[0].columns.items()} if held else {}
    cells = {
        number: {name: np.empty((totals[number], *shape), TYPES[name]) for name, shape in shapes.items()}
        for number in sorted(totals)
    }
    filled = dict.fromkeys(cells, 0)
    held.reverse()
    while held:
        batch = held.pop()
        for number, rows in _by_cell(batch):
            at = slice(filled[number], filled[number] + rows.size)
            filled[number] = at.stop
            for name, array in batch.columns.items():
                target = cells[number][name][at]
                if array.dtype == target.dtype and array.size:
                    np.take(array, rows, axis=0, out=target, mode="clip")  # the other modes copy twice
                elif array.size:
                    target[...] = array[rows]
    return [Cell(number, **columns) for number, columns in cells.items()]


class _Spool:
    """One file a cell and column in a folder of its own, which is removed with its files on leaving."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._rows: dict[int, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> _Spool:
        self._folder = tempfile.TemporaryDirectory(prefix="millrace-rows-", dir=self._parent)
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def append(self, held: list[Batch], missing: dict[str, Array]) -> None:
        """Write the rows of batches, and empty `held`. Where values are missing there will be an error: nothing is written."""
        try:
            for batch in held if not missing else ():
                self._shapes = {name: array.shape[1:] for name, array in batch.columns.items()}
                for number, rows in _by_cell(batch):
                    self._rows[number] = self._rows.get(number, 0) + rows.size
                    for name, array in batch.columns.items():
                        if array.size:
                            with self._path(number, name).open("ab") as file:
                                file.write(array[rows].astype(TYPES[name], copy=False).data)
        except OSError as error:
            raise ModelError(
                f"Rows beyond the worker's memory could not be written to {self._parent}: {error.strerror}. Free space in"
                " spark.local.dir, give Python more memory (spark.executor.pyspark.memory, spark.executor.memoryOverhead), or"
                " use more executors."
            ) from error
        held.clear()

    def mapped(self) -> list[Cell]:
        return [
            Cell(number, **{name: self._map(number, name, shape) for name, shape in self._shapes.items()})
            for number in sorted(self._rows)
        ]

    def _map(self, number: int, name: str, shape: tuple[int, ...]) -> Array:
        shape = (self._rows[number], *shape)
        if 0 in shape:
            return np.empty(shape, TYPES[name])
        try:
            return np.asarray(np.memmap(self._path(number, name), TYPES[name], mode="r+", shape=shape))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            rows, size = (
                sum(self._rows.values()),
                sum(path.stat().st_size for path in Path(self._folder.name).iterdir()),
            )
            raise ModelError(
                f"{rows} rows of one partition lie in files of {size >> 20} MiB, which cannot be mapped into memory: {error.strerror}."
                " spark.executor.pyspark.memory limits addresses, files included: raise it or leave it unset, or use more executors."
            ) from error

    def _path(self, number: int, name: str) -> Path:
        return Path(self._folder.name) / f"{number}.{name}"
