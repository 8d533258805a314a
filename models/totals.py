"""Weighted sums over all rows, by slice and bootstrap replicate, in one or two passes of vectorised Arrow functions.

The measured rows stand in a frame of one form (`measured_rows`), cut into parts that depend on the data alone and sorted inside
each; sums run in that order, so the results are the same to the last bit however Spark holds the rows. A worker sees one batch at
a time: its memory is a batch times the replicates, whatever the number of rows and ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from models.ranks import descending_range, range_count
from models.replicates import Doubles, row_hash, weights
from models.slices import Slicing

Integers = npt.NDArray[np.int64]

# Replicates handled at once: bounds a worker's memory at a batch of rows times this, whatever the number asked for.
BLOCK = 64
_PARTIAL = "part int, slicing int, first int, sums array<double>"


@dataclass(frozen=True)
class Measured:
    """Rows ready to be summed: `part`, `row` (hash), `score` (0 where not ranked), `codes` (one per slicing) and `values`."""

    frame: DataFrame
    names: tuple[str, ...]
    slicings: tuple[Slicing, ...]
    replicates: int

    @property
    def sizes(self) -> list[int]:
        return [len(slicing.values) for slicing in self.slicings]


@contextmanager
def measured_rows(
    predictions: DataFrame,
    values: Mapping[str, Column],
    *,
    key: Sequence[str],
    slicings: Sequence[Slicing],
    rows: int,
    bootstrap: int = 0,
    score: str | None = None,
) -> Iterator[Measured]:
    """Put the rows in canonical parts and order; released when the block ends.

    Args:
        values: what is summed, name -> expression.
        rows: number of predictions.
        score: a column by which rows are ranked: parts are then its ranges, from the highest down.
    """
    hashed = predictions.withColumn("_row", row_hash(key))
    parts = range_count(rows)
    if score:
        part = descending_range(hashed, score, row=F.col("_row"), rows=rows)
    else:
        part = F.pmod(F.col("_row"), F.lit(parts)).cast("int")
    frame = hashed.select(
        part.alias("part"),
        F.col("_row").alias("row"),
        F.array(*(slicing.code for slicing in slicings)).alias("codes"),
        F.array(*(value.cast("double") for value in values.values())).alias("values"),
        (F.col(score) if score else F.lit(0.0)).alias("score"),
    )
    frame = (
        frame.repartition(parts, "part")
        .sortWithinPartitions("part", F.desc("score"), "row")
        .persist(StorageLevel.MEMORY_AND_DISK)
    )
    try:
        yield Measured(frame, tuple(values), tuple(slicings), 1 + bootstrap)
    finally:
        frame.unpersist()


def totals_by_part(measured: Measured) -> list[Doubles]:
    """Weighted sums of each value, per slicing: shape (parts, slice values, replicates, names)."""
    sizes, names = measured.sizes, len(measured.names)

    def new(part: int, slicing: int, first: int, count: int) -> _Sums:
        return _Sums(np.zeros((sizes[slicing], count, names)))

    return _collect(measured, new, names)


def rank_totals(measured: Measured, by_part: Sequence[Doubles], events: str, others: str) -> list[Doubles]:
    """What area under ROC and average precision are made of, per slicing: shape (slice values, replicates, 2).

    With cells of equal score from the highest down, e and o the weights of events and others in a cell, E and O the sums up to and
    including it: entry 0 is the weight of pairs in which the event stands above the other, ties half, sum(o (E - e / 2)); entry 1
    is sum(e E / (E + O)).

    Args:
        measured: ranked by score.
        by_part: result of `totals_by_part`, for what lies in the parts above.
        events, others: names of the values that are 1 for events and for others, else 0.
    """
    columns = [measured.names.index(events), measured.names.index(others)]
    above = []
    for sums in by_part:
        both = sums[..., columns]
        above.append(np.cumsum(both, axis=0) - both)

    def new(part: int, slicing: int, first: int, count: int) -> _Ranks:
        return _Ranks(above[slicing][part, :, first : first + count], columns)

    return [np.sum(parts, axis=0) for parts in _collect(measured, new, 2)]


@dataclass(frozen=True)
class _Batch:
    """Rows of one part; `values` has shape (rows, names), `weights` (rows, replicates of the block)."""

    codes: Integers
    values: Doubles
    scores: Doubles
    weights: Doubles


class _Sums:
    """Weighted sums by slice value; `sums` has shape (slice values, replicates, names)."""

    def __init__(self, zeros: Doubles) -> None:
        self._sums = zeros

    def add(self, batch: _Batch) -> None:
        order = np.argsort(batch.codes, kind="stable")
        bounds = np.searchsorted(batch.codes[order], np.arange(len(self._sums) + 1))
        for code in np.flatnonzero(np.diff(bounds)):
            rows = order[bounds[code] : bounds[code + 1]]
            self._sums[code] += batch.weights[rows].T @ batch.values[rows]

    def result(self) -> Doubles:
        return self._sums


class _Ranks:
    """The sums of `rank_totals` over rows that come from the highest score down.

    Rows of the lowest score so far are held back, summed to one cell per slice value, until a lower score shows that the tie is whole.
    """

    def __init__(self, above: Doubles, columns: list[int]) -> None:
        self._through = above.copy()
        self._columns = columns
        self._sums = np.zeros_like(above)
        self._held = (np.zeros(0, np.int64), np.zeros(0), np.zeros((0, *above.shape[1:])))

    def add(self, batch: _Batch) -> None:
        cells = batch.weights[:, :, None] * batch.values[:, None, self._columns]
        codes = np.concatenate([self._held[0], batch.codes])
        scores = np.concatenate([self._held[1], batch.scores])
        order = np.lexsort((-scores, codes))
        codes, scores = codes[order], scores[order]
        start = np.flatnonzero(np.append(True, (codes[1:] != codes[:-1]) | (scores[1:] != scores[:-1])))
        cells = np.add.reduceat(np.concatenate([self._held[2], cells])[order], start, axis=0)
        codes, scores = codes[start], scores[start]
        tied = scores == scores.min()
        self._held = (codes[tied], scores[tied], cells[tied])
        self._settle(codes[~tied], cells[~tied])

    def result(self) -> Doubles:
        self._settle(self._held[0], self._held[2])
        return self._sums

    def _settle(self, codes: Integers, cells: Doubles) -> None:
        """Count whole cells, shape (cells, replicates, 2), ordered by code and then from the highest score down."""
        if len(codes) == 0:
            return
        first = np.flatnonzero(np.diff(codes, prepend=-1))
        lengths = np.diff(np.append(first, len(codes)))
        present = codes[first]
        through = np.cumsum(cells, axis=0)
        through += np.repeat(self._through[present] - through[first] + cells[first], lengths, axis=0)
        self._through[present] = through[first + lengths - 1]
        events, others = cells[..., 0], cells[..., 1]
        seen = through.sum(axis=2)
        precision = np.divide(through[..., 0], seen, out=np.zeros_like(seen), where=seen > 0)
        self._sums[present, :, 0] += np.add.reduceat(others * (through[..., 0] - events / 2), first, axis=0)
        self._sums[present, :, 1] += np.add.reduceat(events * precision, first, axis=0)


def _collect(measured: Measured, new: Callable[[int, int, int, int], _Sums | _Ranks], names: int) -> list[Doubles]:
    """Run `new(part, slicing, first replicate, replicates)` over each part; per slicing (parts, slice values, replicates, names)."""
    sizes, replicates = measured.sizes, measured.replicates
    found = measured.frame.mapInArrow(_computation(new, len(sizes), replicates), _PARTIAL).toArrow()
    place = [found.column(name).to_numpy() for name in ("part", "slicing", "first")]
    sums = [np.zeros((place[0].max(initial=0) + 1, size, replicates, names)) for size in sizes]
    for part, slicing, first, partial in zip(*place, found.column("sums"), strict=True):
        count = min(BLOCK, replicates - first)
        sums[slicing][part, :, first : first + count] = partial.values.to_numpy().reshape(sizes[slicing], count, names)
    return sums


def _computation(
    new: Callable[[int, int, int, int], _Sums | _Ranks], slicings: int, replicates: int
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What runs in the workers: rows ordered by part in, the sums of each part out."""
    blocks = [(first, min(BLOCK, replicates - first)) for first in range(0, replicates, BLOCK)]

    def compute(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        current = -1
        running: dict[tuple[int, int], _Sums | _Ranks] = {}
        for batch in batches:
            parts = batch.column("part").to_numpy()
            bounds = np.flatnonzero(np.diff(parts, prepend=-1))
            for start, end in zip(bounds, np.append(bounds[1:], len(parts)), strict=True):
                if parts[start] != current:
                    yield from _finished(current, running)
                    current = int(parts[start])
                    running = {(s, first): new(current, s, first, n) for first, n in blocks for s in range(slicings)}
                _add(running, batch.slice(start, end - start), blocks, slicings)
        yield from _finished(current, running)

    return compute


def _add(
    running: dict[tuple[int, int], _Sums | _Ranks], batch: pa.RecordBatch, blocks: list[tuple[int, int]], slicings: int
) -> None:
    rows = batch.num_rows
    codes = batch.column("codes").flatten().to_numpy().reshape(rows, slicings).astype(np.int64)
    values = batch.column("values").flatten().to_numpy().reshape(rows, -1)
    scores = batch.column("score").to_numpy()
    for first, count in blocks:
        drawn = weights(batch.column("row").to_numpy(), first, count)
        for slicing in range(slicings):
            running[slicing, first].add(_Batch(codes[:, slicing], values, scores, drawn))


def _finished(part: int, running: dict[tuple[int, int], _Sums | _Ranks]) -> Iterator[pa.RecordBatch]:
    for (slicing, first), sums in running.items():
        yield pa.RecordBatch.from_pydict(
            {
                "part": pa.array([part], pa.int32()),
                "slicing": pa.array([slicing], pa.int32()),
                "first": pa.array([first], pa.int32()),
                "sums": pa.array([sums.result().ravel()], pa.list_(pa.float64())),
            }
        )
