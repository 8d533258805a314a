"""Tiles: a few thousand rows at a time, small enough for the processor's cache, and products of their design with matrices.

The design of a row is [dense columns, one-hot columns of each code, 1]: Q columns and the intercept's. One-hot columns are not
written out: a product from the right takes rows of the matrix, one from the left adds rows up by level. Only second moments, which take
a product a model, are faster with them written out where they are few: then for one tile at a time (`written_out`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Literal

from models.arrays import namespace, on_gpu
from models.exact.worker.blocks import Array, Cell

Precision = Literal["float32", "float64"]

# Measured on one core of a server with AVX-512, 100 columns and 48 models: products run at the same 55-65 GF/s (float32) from
# 1,024 to 16,384 rows, element-wise work is fastest while a few arrays of (rows, models) fit into the second-level cache.
ROWS = 4096
# On a GPU each step of a tile is a call that starts a kernel: tiles are large, but workers that share it have a few arrays of a tile each, of
# rows by models as of rows by columns.
GPU_ROWS, GPU_TILE_BYTES = 2**17, 2**27
# Summing up by the levels of one code takes as long as a product of some 224 columns with themselves, zeros or not. (Measured as
# above, 20 to 78 dense columns, 1 to 6 codes: 0.8 us a row and code, 1.5e-5 us a row and pair of columns.)
PAIRS_A_CODE = 50_000


@dataclass(frozen=True)
class Tile:
    """Consecutive rows of a cell.

    Attributes:
        dense: (n, q + 1), the dense columns and a column of ones, in the precision of the products.
        codes: (n, g) int32, as in `Cell`.
        label, weight: (n), in the same precision.
        levels: levels of each code.
    """

    dense: Array
    codes: Array
    label: Array
    weight: Array
    levels: tuple[int, ...]

    def times(self, matrix: Array) -> Array:
        """design @ matrix: (n, m), for a matrix (Q + 1, m) in the tile's precision."""
        xp = namespace(matrix)
        q = self.dense.shape[1] - 1
        if not self.levels:
            return self.dense @ matrix
        product = self.dense @ xp.concat([matrix[:q, :], matrix[-1:, :]])
        nothing = xp.zeros((1, matrix.shape[1]), dtype=matrix.dtype)
        for column, (start, end) in enumerate(_spans(q, self.levels)):
            code = self.codes[:, column]
            rows = xp.concat([matrix[start:end, :], nothing])
            product += xp.take(rows, xp.where(code < 0, end - start, code), axis=0)
        return product

    def transposed_times(self, matrix: Array) -> Array:
        """design' @ matrix: (Q + 1, m) in float64, for a matrix (n, m) in the tile's precision."""
        xp = namespace(matrix)
        product = xp.astype(self.dense.T @ matrix, xp.float64)
        if not self.levels:
            return product
        sums = [_level_sums(self.codes[:, column], matrix, n) for column, n in enumerate(self.levels)]
        return xp.concat([product[:-1, :], *sums, product[-1:, :]])

    def written_out(self) -> Tile:
        """The same design of dense columns alone, where `add_second_moments` is faster for it; else this one."""
        xp = namespace(self.dense)
        q = self.dense.shape[1] - 1
        if (q + sum(self.levels)) ** 2 > PAIRS_A_CODE * len(self.levels):
            return self
        onehot = [
            xp.astype(self.codes[:, column][:, None] == xp.arange(n, dtype=self.codes.dtype)[None, :], self.dense.dtype)
            for column, n in enumerate(self.levels)
        ]
        dense = xp.concat([self.dense[:, :q], *onehot, self.dense[:, q:]], axis=1)
        return replace(self, dense=dense, codes=self.codes[:, :0], levels=())

    def add_second_moments(self, into: Array, weight: Array) -> None:
        """into += design' diag(weight) design, for `into` (Q + 1, Q + 1) float64 and weights (n) >= 0."""
        xp = namespace(weight)
        q = self.dense.shape[1] - 1
        # A matrix times its own transpose: half the work of a general product, where the library sees it, as NumPy does.
        rooted = self.dense * xp.sqrt(weight)[:, None]
        dense = rooted.T @ rooted
        if not self.levels:
            into += dense
            return
        into[:q, :q] += dense[:q, :q]
        into[:q, -1] += dense[:q, -1]
        into[-1, :q] += dense[-1, :q]
        into[-1, -1] += dense[-1, -1]
        weighted = self.dense * weight[:, None]
        spans = list(_spans(q, self.levels))
        for first, (start, end) in enumerate(spans):
            code = self.codes[:, first]
            sums = _level_sums(code, weighted, end - start)
            into[start:end, :q] += sums[:, :q]
            into[:q, start:end] += sums[:, :q].T
            into[start:end, -1] += sums[:, -1]
            into[-1, start:end] += sums[:, -1]
            into[start:end, start:end] += sums[:, -1] * xp.eye(end - start, dtype=xp.float64)
            for second in range(first):
                other_start, other_end = spans[second]
                width = other_end - other_start
                other = self.codes[:, second]
                both = xp.where((code < 0) | (other < 0), -1, code * width + other)
                table = xp.reshape(_level_sums(both, weight[:, None], (end - start) * width), (end - start, width))
                into[start:end, other_start:other_end] += table
                into[other_start:other_end, start:end] += table.T


def tiles(cell: Cell, levels: Sequence[int], precision: Precision, *, stride: int = 1) -> Iterator[Tile]:
    """The rows of a cell, or every `stride`-th of them.

    Casting a tile to float32 is 1/10 of the work of one pass for 48 models, so no copy in float32 is kept.
    """
    xp = namespace(cell.dense)
    dtype = getattr(xp, precision)
    step = tile_rows(cell.dense, ROWS, sum(levels)) * stride
    for start in range(0, cell.dense.shape[0], step):
        rows = slice(start, min(start + step, cell.dense.shape[0]), stride)
        part = cell.dense[rows, :]
        dense = xp.ones((part.shape[0], part.shape[1] + 1), dtype=dtype)
        dense[:, :-1] = xp.astype(part, dtype, copy=False)
        yield Tile(
            dense,
            cell.codes[rows, :],
            xp.astype(cell.label[rows], dtype, copy=False),
            xp.astype(cell.weight[rows], dtype, copy=False),
            tuple(levels),
        )


def tile_rows(dense: Array, on_host: int, levels: int = 0) -> int:
    """Rows of a tile of a cell's dense columns (n, q), whose one-hot columns may be written out."""
    if not on_gpu(dense):
        return on_host
    width = int(dense.shape[1]) + 1 + levels
    return max(on_host, min(GPU_ROWS, GPU_TILE_BYTES // (8 * width)))


def _spans(q: int, levels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where the one-hot columns of each code begin and end in the raw design."""
    ends = list(accumulate(levels, initial=q))
    yield from pairwise(ends)


def _level_sums(code: Array, values: Array, levels: int) -> Array:
    """Sums (levels, m) float64 of the rows of `values` (n, m) by level.

    The standard has no scatter-add: rows are put in the order of their levels and added up, and a level's sum is the difference
    of the running sums at its ends. In float64, and over one tile, so that the difference loses nothing that matters.
    """
    xp = namespace(code, values)
    order = xp.argsort(code)
    ordered = xp.take(code, order)
    level = xp.arange(levels, dtype=code.dtype)
    rows = xp.take(values, order, axis=0)
    running = xp.cumulative_sum(rows, axis=0, dtype=xp.float64, include_initial=True)
    upper = xp.searchsorted(ordered, level, side="right")
    lower = xp.searchsorted(ordered, level, side="left")
    return xp.take(running, upper, axis=0) - xp.take(running, lower, axis=0)


def members(flags: Array, cell: Cell) -> tuple[Array, Array]:
    """Of `flags` (M, C): the models that take part in a cell (m), and a 0/1 matrix (m, M) that puts their columns back in place."""
    xp = namespace(flags)
    models = xp.nonzero(flags[:, cell.number])[0]
    everyone = xp.arange(flags.shape[0], dtype=models.dtype)
    return models, xp.astype(models[:, None] == everyone[None, :], xp.float64)


def margins(cell: Cell, levels: Sequence[int], weights: Array) -> Array:
    """Margins (n, m) of a cell's rows in float64, for weights (Q + 1, m) of [raw design, 1].

    Equal rows get equal margins, to the bit: a matrix product rounds differently at the edges of its blocks, so every product has
    the same number of rows, the last one filled up with copies of a row.
    """
    xp = namespace(cell.dense)
    rows, parts = tile_rows(cell.dense, ROWS, sum(levels)), []
    for tile in tiles(cell, levels, "float64"):
        missing = rows - tile.dense.shape[0]
        dense, codes = (
            xp.concat([part, xp.broadcast_to(part[:1, :], (missing, part.shape[1]))])
            for part in (tile.dense, tile.codes)
        )
        filled = replace(tile, dense=dense, codes=codes)
        parts.append(filled.times(weights)[: rows - missing, :])
    return xp.concat(parts) if parts else xp.zeros((0, weights.shape[1]), dtype=xp.float64)
