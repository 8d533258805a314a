"""Multinomial logistic regression: losses, gradients and curvatures of many models over a worker's rows.

For margins m_k of the classes and probabilities p = softmax(m), a row's loss is log(sum_k e^m_k) - m_y, its derivative by m_k is
p_k - [y = k], and its second derivative by m_k and m_l is p_k ([k = l] - p_l). The largest margin is taken off before raising e.
"""

from __future__ import annotations

from models.arrays import namespace
from models.exact.worker.blocks import Array, Blocks
from models.exact.worker.tiles import Precision, members, tiles


def softmax_gradient(
    blocks: Blocks, weights: Array, trains: Array, precision: Precision, stride: int = 1
) -> dict[str, Array]:
    """As `logistic_gradient`, for weights (Q + 1, K, M) of K classes; the gradient has their shape."""
    xp = namespace(weights)
    size, k, count = weights.shape
    dtype = getattr(xp, precision)
    weight = xp.zeros((count,), dtype=xp.float64)
    loss = xp.zeros((count,), dtype=xp.float64)
    gradient = xp.zeros(weights.shape, dtype=xp.float64)
    classes = xp.arange(k, dtype=dtype)
    for cell in blocks.cells:
        models, place = members(trains, cell)
        if models.shape[0] == 0:
            continue
        columns = xp.reshape(xp.astype(xp.take(weights, models, axis=2), dtype), (size, -1))
        cell_loss = xp.zeros((models.shape[0],), dtype=xp.float64)
        cell_gradient = xp.zeros(columns.shape, dtype=xp.float64)
        cell_weight = 0.0
        for tile in tiles(cell, blocks.levels, precision, stride=stride):
            margin = xp.reshape(tile.times(columns), (-1, k, models.shape[0]))
            margin -= xp.max(margin, axis=1, keepdims=True)
            own = xp.astype(tile.label[:, None] == classes[None, :], dtype)[:, :, None]
            cell_loss -= tile.weight @ xp.sum(margin * own, axis=1)
            raised = xp.exp(margin)
            total = xp.sum(raised, axis=1)
            cell_loss += tile.weight @ xp.log(total)
            # w (p - [y = k])
            raised *= (tile.weight[:, None] / total)[:, None, :]
            raised -= own * tile.weight[:, None, None]
            cell_gradient += tile.transposed_times(xp.reshape(raised, (-1, columns.shape[1])))
            cell_weight += float(xp.sum(tile.weight, dtype=xp.float64))
        weight += cell_weight * xp.sum(place, axis=0)
        loss += cell_loss @ place
        gradient += xp.reshape(cell_gradient, (size, k, -1)) @ place
    return {"weight": weight, "loss": loss, "gradient": gradient}


def softmax_curvature(blocks: Blocks, weights: Array, precision: Precision, stride: int = 1) -> dict[str, Array]:
    """As `logistic_curvature`, for weights (Q + 1, K, R); curvature is (c, R, K, K, Q + 1, Q + 1)."""
    xp = namespace(weights)
    dtype = getattr(xp, precision)
    size, k, references = weights.shape
    columns = xp.reshape(xp.astype(weights, dtype), (size, -1))
    weight = xp.zeros((len(blocks.cells),), dtype=xp.float64)
    curvature = xp.zeros((len(blocks.cells), references, k, k, size, size), dtype=dtype)
    for position, cell in enumerate(blocks.cells):
        sums = xp.zeros((references, k, k, size, size), dtype=xp.float64)
        for tile in tiles(cell, blocks.levels, precision, stride=stride):
            weight[position] += xp.sum(tile.weight, dtype=xp.float64)
            margin = xp.reshape(tile.times(columns), (-1, k, references))
            raised = xp.exp(margin - xp.max(margin, axis=1, keepdims=True))
            p = raised / xp.sum(raised, axis=1, keepdims=True)
            design = tile.written_out()
            for r in range(references):
                for i in range(k):
                    design.add_second_moments(sums[r, i, i, ...], tile.weight * p[:, i, r] * (1 - p[:, i, r]))
                    for j in range(i):
                        # Weights of second moments are positive: the sign comes last.
                        design.add_second_moments(sums[r, i, j, ...], tile.weight * p[:, i, r] * p[:, j, r])
        for i in range(k):
            for j in range(i):
                sums[:, i, j, ...] = -sums[:, i, j, ...]
                sums[:, j, i, ...] = sums[:, i, j, ...]
        curvature[position, ...] = xp.astype(sums, dtype)
    cells = xp.asarray([cell.number for cell in blocks.cells], dtype=xp.int64)
    return {"cells": cells, "weight": weight, "curvature": curvature}
