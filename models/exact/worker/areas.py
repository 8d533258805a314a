"""Exact areas under the ROC and precision-recall curves of many models, in two passes.

First every worker tells its positives' scores; the driver puts them together and asks what weight of negatives lies at and above
each. Between two positives the curves move in one direction only, so nothing else of the negatives matters.
"""

from __future__ import annotations

from collections.abc import Iterator

from models.arrays import namespace
from models.exact.worker.blocks import Array, Blocks, Cell
from models.exact.worker.tiles import margins, members

# As MLlib's BinaryLabelCounter.
POSITIVE = 0.5


def positive_scores(blocks: Blocks, weights: Array, validates: Array, weighted: bool) -> dict[str, Array]:
    """Margins of the positives among each model's validation rows.

    Args:
        weights: (Q + 1, M) float64, each model's weights on [raw design, 1].
        validates: (M, C) bool, whether a model is judged on the rows of a cell.
        weighted: whether rows count by their weight, or as 1.

    Returns:
        count: (M) positives of each model; score, weight: (sum of count), those of the first model first.
    """
    xp = namespace(weights)
    scores: list[list[Array]] = [[] for _ in range(weights.shape[1])]
    row_weights: list[list[Array]] = [[] for _ in range(weights.shape[1])]
    for cell, models, margin, weight in _judged(blocks, weights, validates, weighted):
        positive = xp.nonzero(cell.label > POSITIVE)[0]
        for column, model in enumerate(models):
            scores[model].append(xp.take(margin[:, column], positive))
            row_weights[model].append(xp.take(weight, positive))
    nothing = [xp.zeros((0,), dtype=xp.float64)]
    return {
        "count": xp.asarray([sum(part.shape[0] for part in parts) for parts in scores], dtype=xp.int64),
        "score": xp.concat(nothing + [part for parts in scores for part in parts]),
        "weight": xp.concat(nothing + [part for parts in row_weights for part in parts]),
    }


def negatives_above(
    blocks: Blocks, weights: Array, validates: Array, weighted: bool, thresholds: Array, ends: Array
) -> dict[str, Array]:
    """Weight of the negatives at or above, and above, each of a model's thresholds.

    Args:
        weights, validates, weighted: as in `positive_scores`.
        thresholds: (T) scores, those of the first model first; ends: (M) where each model's thresholds end.

    Returns:
        at_or_above, above: (T); total: (M) weight of all negatives.
    """
    xp = namespace(weights)
    at_or_above = xp.zeros(thresholds.shape, dtype=xp.float64)
    above = xp.zeros(thresholds.shape, dtype=xp.float64)
    totals = [0.0] * weights.shape[1]
    for cell, models, margin, weight in _judged(blocks, weights, validates, weighted):
        negative = xp.nonzero(cell.label <= POSITIVE)[0]
        weight = xp.take(weight, negative)
        for column, model in enumerate(models):
            own = slice(int(ends[model - 1]) if model else 0, int(ends[model]))
            score = xp.take(margin[:, column], negative)
            order = xp.argsort(score)
            ordered = xp.take(score, order)
            # Weight of the negatives from each of the ordered scores upwards; sums from the top down keep exact what is near it.
            upwards = xp.flip(
                xp.cumulative_sum(xp.flip(xp.take(weight, order)), dtype=xp.float64, include_initial=True)
            )
            at_or_above[own] += xp.take(upwards, xp.searchsorted(ordered, thresholds[own], side="left"))
            above[own] += xp.take(upwards, xp.searchsorted(ordered, thresholds[own], side="right"))
            totals[model] += float(upwards[0])
    return {"at_or_above": at_or_above, "above": above, "total": xp.asarray(totals, dtype=xp.float64)}


def _judged(
    blocks: Blocks, weights: Array, validates: Array, weighted: bool
) -> Iterator[tuple[Cell, list[int], Array, Array]]:
    """Cells with the models judged on them, their margins (n, m), and the weights (n) of the rows."""
    xp = namespace(weights)
    for cell in blocks.cells:
        models, _ = members(validates, cell)
        if models.shape[0]:
            margin = margins(cell, blocks.levels, xp.take(weights, models, axis=1))
            yield cell, [int(m) for m in models], margin, cell.weight if weighted else xp.ones_like(cell.weight)
