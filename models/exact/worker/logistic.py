"""Binomial logistic regression: losses, gradients and curvatures of many models over a worker's rows.

For margin m = design' v and label y in {0, 1}, a row's loss is log(1 + e^m) - y m, its derivative by m is p - y with
p = 1 / (1 + e^-m), and its second derivative p (1 - p). With h = m / 2 and t = tanh(h), none of which overflows:
p = (1 + t) / 2, p (1 - p) = (1 - t^2) / 4, and the loss is (1 - 2 y) h + |h| - log((1 + |t|) / 2).
"""

from __future__ import annotations

from models.arrays import namespace
from models.exact.worker.blocks import Array, Blocks
from models.exact.worker.tiles import Precision, members, tiles


def logistic_gradient(
    blocks: Blocks, weights: Array, trains: Array, precision: Precision, stride: int = 1
) -> dict[str, Array]:
    """Sums over each model's training rows, or over every `stride`-th of them.

    Args:
        weights: (Q + 1, M) float64, each model's weights on [raw design, 1].
        trains: (M, C) bool, whether a model trains on the rows of a cell.
        precision: of products and element-wise work; sums over tiles are always float64.

    Returns:
        weight: (M) weight of those rows; loss: (M) their weighted loss; gradient: (Q + 1, M) its derivative by `weights`.
    """
    xp = namespace(weights)
    weight = xp.zeros((weights.shape[1],), dtype=xp.float64)
    loss = xp.zeros((weights.shape[1],), dtype=xp.float64)
    gradient = xp.zeros(weights.shape, dtype=xp.float64)
    for cell in blocks.cells:
        models, place = members(trains, cell)
        if models.shape[0] == 0:
            continue
        half = xp.astype(xp.take(weights, models, axis=1) / 2, getattr(xp, precision))
        cell_loss = xp.zeros((models.shape[0],), dtype=xp.float64)
        cell_gradient = xp.zeros((weights.shape[0], models.shape[0]), dtype=xp.float64)
        cell_weight = 0.0
        for tile in tiles(cell, blocks.levels, precision, stride=stride):
            h = tile.times(half)
            t = xp.tanh(h)
            cell_loss += ((1 - 2 * tile.label) * tile.weight) @ h
            certain = xp.abs(t)
            certain += 1
            h = xp.abs(h)
            h -= xp.log(certain)
            cell_loss += tile.weight @ h
            # w (p - y)
            t *= (tile.weight / 2)[:, None]
            t += (tile.weight * (0.5 - tile.label))[:, None]
            cell_gradient += tile.transposed_times(t)
            cell_weight += float(xp.sum(tile.weight, dtype=xp.float64))
        log_2 = 0.6931471805599453
        weight += cell_weight * xp.sum(place, axis=0)
        loss += (cell_loss + log_2 * cell_weight) @ place
        gradient += cell_gradient @ place
    return {"weight": weight, "loss": loss, "gradient": gradient}


def logistic_curvature(blocks: Blocks, weights: Array, precision: Precision, stride: int = 1) -> dict[str, Array]:
    """Second derivatives of each cell's weighted loss at R reference points.

    Args:
        weights: (Q + 1, R) float64.

    Returns:
        cells: (c) numbers of the cells that the worker has rows of; weight: (c) of those rows; curvature: (c, R, Q + 1, Q + 1) in
        `precision`, second moments of [raw design, 1] with weights w p (1 - p).
    """
    xp = namespace(weights)
    dtype = getattr(xp, precision)
    size, references = weights.shape
    half = xp.astype(weights / 2, dtype)
    weight = xp.zeros((len(blocks.cells),), dtype=xp.float64)
    curvature = xp.zeros((len(blocks.cells), references, size, size), dtype=dtype)
    for position, cell in enumerate(blocks.cells):
        sums = xp.zeros((references, size, size), dtype=xp.float64)
        for tile in tiles(cell, blocks.levels, precision, stride=stride):
            weight[position] += xp.sum(tile.weight, dtype=xp.float64)
            t = xp.tanh(tile.times(half))
            variance = (1 - t * t) * (tile.weight / 4)[:, None]
            design = tile.written_out()
            for reference in range(references):
                design.add_second_moments(sums[reference, ...], variance[:, reference])
        curvature[position, ...] = xp.astype(sums, dtype)
    cells = xp.asarray([cell.number for cell in blocks.cells], dtype=xp.int64)
    return {"cells": cells, "weight": weight, "curvature": curvature}
