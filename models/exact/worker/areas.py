"""Scores of many binary models on their validation rows, which the driver makes exact areas of."""

from __future__ import annotations

from models.arrays import namespace
from models.exact.worker.blocks import Array, Blocks
from models.exact.worker.tiles import margins, members

# As MLlib's BinaryLabelCounter.
POSITIVE = 0.5


def scores(blocks: Blocks, weights: Array, validates: Array, weighted: bool) -> dict[str, Array]:
    """Margins of each model's validation rows, positives first.

    Args:
        weights: (Q + 1, M) float64, each model's weights on [raw design, 1].
        validates: (M, C) bool, whether a model is judged on the rows of a cell.
        weighted: whether rows count by their weight, or as 1.

    Returns:
        cells: (c) numbers of the cells that this worker has rows of and models are judged on; positives, negatives: (c) rows of each
        kind; score: cell after cell, (m, n) for the m models that are judged on its n rows; weight: the n of each cell, empty
        where rows count as 1.
    """
    xp = namespace(weights)
    numbers, positives, negatives = [], [], []
    score, weight = [xp.zeros((0,), dtype=xp.float64)], [xp.zeros((0,), dtype=xp.float64)]
    for cell in blocks.cells:
        models, _ = members(validates, cell)
        if models.shape[0] == 0:
            continue
        margin = margins(cell, blocks.levels, xp.take(weights, models, axis=1))
        is_positive = cell.label > POSITIVE
        found = xp.nonzero(is_positive)[0]
        order = xp.concat([found, xp.nonzero(~is_positive)[0]])
        numbers.append(cell.number)
        positives.append(found.shape[0])
        negatives.append(cell.label.shape[0] - found.shape[0])
        score.append(xp.reshape(xp.take(margin, order, axis=0).T, (-1,)))
        if weighted:
            weight.append(xp.take(cell.weight, order))
    counts = {"cells": numbers, "positives": positives, "negatives": negatives}
    return {name: xp.asarray(values, dtype=xp.int64) for name, values in counts.items()} | {
        "score": xp.concat(score),
        "weight": xp.concat(weight),
    }
