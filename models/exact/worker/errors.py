"""Kernel: the errors of many linear predictions on the rows that validate them, in one pass."""

from __future__ import annotations

from models.arrays import namespace
from models.exact.worker.blocks import Array, Blocks
from models.exact.worker.tiles import members, tiles


def prediction_errors(blocks: Blocks, *, weights: Array, validates: Array, weighted: bool = True) -> dict[str, Array]:
    """Sums over the rows that validate each of M models.

    Args:
        weights: (Q + 1, M), of [raw design as the blocks hold it, 1].
        validates: (M, C) bool, whether model m validates on the rows of cell c.
        weighted: False takes every row with weight 1.

    Returns:
        `absolute`, `squared` (M): sums of w |y - prediction| and w (y - prediction)^2.
    """
    xp = namespace(weights)
    absolute, squared = xp.zeros(weights.shape[1]), xp.zeros(weights.shape[1])
    for cell in blocks.cells:
        models, place = members(validates, cell)
        if models.shape[0] == 0:
            continue
        mine = xp.take(weights, models, axis=1)
        for tile in tiles(cell, blocks.levels, "float64"):
            left = tile.label[:, None] - tile.times(mine)
            w = tile.weight if weighted else xp.ones_like(tile.weight)
            absolute += (w @ xp.abs(left)) @ place
            squared += (w @ (left * left)) @ place
    return {"absolute": absolute, "squared": squared}
