"""Kernels: the first two moments of the raw design and the label, by cell; and the raw design centred and scaled in place.

Two passes over the rows of a cell, as in Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983): the mean,
then products of what is left after it, corrected for the rounding of the mean. Dense columns go through matrix products of tiles;
one-hot columns are never made: their sums are counts by level.
"""

from __future__ import annotations

from dataclasses import replace

from models.arrays import namespace
from models.exact.worker.blocks import Array, Blocks, Cell
from models.exact.worker.tiles import tile_rows

# Rows of a tile: 100 float64 columns of it fit a core's second-level cache a few times over, and the product runs at full speed.
TILE = 8192


def moments(blocks: Blocks, *, weighted: bool = True) -> dict[str, Array]:
    """Moments of z = [dense, one-hot of codes, label], D = Q + 1 columns, for each of the R cells that this worker has rows of.

    Rows of weight 0 do not count, as in MLlib's `Summarizer`; a cell of nothing else is left out.

    Args:
        weighted: False takes every row with weight 1, as scalers and evaluators without `weightCol` do.

    Returns:
        Empty without rows; else, for each cell:

        - `cell` (R): its number;
        - `count` (R): rows;
        - `weight`, `weight_squared` (R): sums of w and of w^2;
        - `mean` (R, D): weighted means;
        - `comoment` (R, D, D): sums of w (z - mean) (z - mean)';
        - `minimum`, `maximum` (R, D);
        - `nonzero` (R, D): rows where the column is not 0.
    """
    replies = [
        _cell_moments(cell, weight, blocks.levels)
        for cell in blocks.cells
        for weight in [cell.weight if weighted else namespace(cell.weight).ones_like(cell.weight)]
        if bool(namespace(weight).any(weight > 0))
    ]
    if not replies:
        return {}
    xp = namespace(replies[0]["mean"])
    return {name: xp.stack([reply[name] for reply in replies]) for name in replies[0]}


def set_centred(blocks: Blocks, *, shift: Array, scale: Array) -> Blocks:
    """Blocks with dense columns (x - shift) / scale. The arrays of the old blocks are overwritten.

    Args:
        shift, scale: (q).
    """
    cells = []
    for cell in blocks.cells:
        dense = cell.dense
        dense -= shift
        dense /= scale
        cells.append(replace(cell, dense=dense))
    return replace(blocks, cells=cells)


def _cell_moments(cell: Cell, weight: Array, levels: tuple[int, ...]) -> dict[str, Array]:
    xp = namespace(cell.dense)
    kept = weight > 0
    total = xp.sum(weight)
    codes, kept_weight = cell.codes[kept], weight[kept]
    count = codes.shape[0]
    mean = xp.concat([weight @ cell.dense, xp.sum(weight * cell.label)[None]]) / total
    dense = _dense_sums(cell, weight, mean, levels)
    # What the rounded mean has left over: the mean of the residuals.
    residual = dense["sum"] / total
    central = dense["products"] - total * residual[:, None] * residual[None, :]
    counts = [_sums_by_level(codes[:, g], xp.ones_like(kept_weight), n)[:, 0] for g, n in enumerate(levels)]
    shares = [_sums_by_level(codes[:, g], kept_weight, n)[:, 0] / total for g, n in enumerate(levels)]
    q = cell.dense.shape[1]
    onehot = xp.concat([*counts, xp.zeros(0)])
    share = xp.concat([*shares, xp.zeros(0)])
    cross = xp.concat([*dense["by_level"], xp.zeros((0, q + 1))])
    cross = cross - total * share[:, None] * residual[None, :]
    joint = _joint_weights(codes, kept_weight, levels) - total * share[:, None] * share[None, :]

    def columns(of_dense: Array, of_onehot: Array) -> Array:
        """In the order of z: the label goes last."""
        return xp.concat([of_dense[:q], of_onehot, of_dense[q:]])

    rows = columns(
        xp.concat([central[:, :q], cross.T, central[:, q:]], axis=1),
        xp.concat([cross[:, :q], joint, cross[:, q:]], axis=1),
    )
    return {
        "cell": xp.asarray(cell.number),
        "count": xp.asarray(count),
        "weight": total,
        "weight_squared": xp.sum(weight * weight),
        "mean": columns(mean + residual, share),
        "comoment": rows,
        "minimum": columns(dense["minimum"], xp.astype(onehot == count, xp.float64)),
        "maximum": columns(dense["maximum"], xp.astype(onehot > 0, xp.float64)),
        "nonzero": columns(dense["nonzero"], onehot),
    }


def _dense_sums(cell: Cell, weight: Array, mean: Array, levels: tuple[int, ...]) -> dict[str, Array]:
    """Sums over the rows of r = [dense, label] - mean, with weights: `sum` (q+1), `products` (q+1, q+1), `by_level`: for each
    categorical column (levels, q+1); and `minimum`, `maximum`, `nonzero` (q+1) of [dense, label]."""
    xp = namespace(cell.dense)
    d = mean.shape[0]
    sums = {"sum": xp.zeros(d), "products": xp.zeros((d, d)), "nonzero": xp.zeros(d)}
    sums |= {"minimum": xp.full(d, xp.inf), "maximum": xp.full(d, -xp.inf)}
    by_level = [xp.zeros((n, d)) for n in levels]
    step = tile_rows(cell.dense, TILE, sum(levels))
    for start in range(0, cell.dense.shape[0], step):
        tile = slice(start, start + step)
        w, codes = weight[tile], cell.codes[tile, :]
        values = xp.concat([cell.dense[tile, :], cell.label[tile][:, None]], axis=1)
        if not bool(xp.all(w > 0)):
            kept = w > 0
            w, codes, values = w[kept], codes[kept], values[kept]
        if values.shape[0] == 0:
            continue
        sums["minimum"] = xp.minimum(sums["minimum"], xp.min(values, axis=0))
        sums["maximum"] = xp.maximum(sums["maximum"], xp.max(values, axis=0))
        sums["nonzero"] += xp.count_nonzero(values, axis=0)
        values -= mean
        root = xp.sqrt(w)
        values *= root[:, None]
        sums["sum"] += root @ values
        # One operand and its own transpose: NumPy calls syrk, half the work of a general product.
        sums["products"] += values.T @ values
        if levels:
            values *= root[:, None]
            for g, n in enumerate(levels):
                by_level[g] += _sums_by_level(codes[:, g], values, n)
    return {**sums, "by_level": by_level}


def _joint_weights(codes: Array, weight: Array, levels: tuple[int, ...]) -> Array:
    """(L, L), L = sum(levels): total weight of the rows that have both levels."""
    xp = namespace(weight)
    first = [sum(levels[:g]) for g in range(len(levels))]
    joint = xp.zeros((sum(levels), sum(levels)))
    for g, n in enumerate(levels):
        rows = slice(first[g], first[g] + n)
        # Of one column no row has two levels.
        joint[rows, rows] = xp.eye(n) * _sums_by_level(codes[:, g], weight, n)
        for h, m in list(enumerate(levels))[g + 1 :]:
            both = (codes[:, g] >= 0) & (codes[:, h] >= 0)
            pair = xp.where(both, xp.astype(codes[:, g], xp.int64) * m + codes[:, h], -1)
            block = xp.reshape(_sums_by_level(pair, weight, n * m), (n, m))
            columns = slice(first[h], first[h] + m)
            joint[rows, columns], joint[columns, rows] = block, block.T
    return joint


def _sums_by_level(codes: Array, values: Array, levels: int) -> Array:
    """(levels, d): sums of the rows of `values`, (n, d) or (n), that have the level; rows without a level are in none."""
    xp = namespace(values)
    values = values[:, None] if values.ndim == 1 else values
    d = values.shape[1]
    # Scatter-add is not in the array API standard; NumPy, CuPy and PyTorch agree on bincount. Level -1 is counted in front.
    at = (xp.astype(codes, xp.int64) + 1)[:, None] * d + xp.arange(d)
    sums = xp.bincount(xp.reshape(at, (-1,)), weights=xp.reshape(values, (-1,)), minlength=(levels + 1) * d)
    return xp.reshape(sums, (levels + 1, d))[1:, :]
