"""Exact areas under the curves of many binary models on their validation rows: BinaryClassificationEvaluator with numBins = 0.

The default of that evaluator, numBins = 1000, merges points of the curve by partition, so its value depends on how rows are
partitioned, in the sixth digit; this one does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.exact.driver.passes import Passes

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# What a request or a reply may hold: models are judged in groups.
MESSAGE_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Areas:
    """Areas under the curves, (M) each.

    Attributes:
        roc: of recall over the false positive rate; ties count half.
        pr: of precision over recall, by trapezoids between neighbouring points, as MLlib.
    """

    roc: Floats
    pr: Floats


def areas(passes: Passes, weights: Floats, validates: Flags, *, rows: int, weighted: bool = False) -> Areas:
    """Judge models by their margins, in two passes for each group of models that fits into a message.

    Args:
        weights: (Q + 1, M), each model's weights on [raw design, 1], see `Affine.weights`.
        validates: (M, C), whether a model is judged on the rows of a cell.
        rows: the most that one model is judged on.
        weighted: whether rows count by their weight, or as 1.
    """
    count = weights.shape[1]
    at_once = max(1, MESSAGE_BYTES // (16 * max(1, rows)))
    roc, pr = np.zeros(count), np.zeros(count)
    for start in range(0, count, at_once):
        group = slice(start, start + at_once)
        request = {
            "weights": np.ascontiguousarray(weights[:, group]),
            "validates": validates[group],
            "weighted": weighted,
        }
        positives = _positives(passes.run("positive_scores", request))
        ends = np.cumsum([len(thresholds) for thresholds, _ in positives])
        thresholds = np.concatenate([thresholds for thresholds, _ in positives])
        replies = passes.run("negatives_above", {**request, "thresholds": thresholds, "ends": ends})
        at_or_above, above, total = (sum(r[name] for r in replies) for name in ("at_or_above", "above", "total"))
        for m, (_, positive) in enumerate(positives):
            own = slice(ends[m] - len(positive), ends[m])
            roc[start + m] = area_under_roc(positive, at_or_above[own], above[own], float(total[m]))
            pr[start + m] = area_under_pr(positive, at_or_above[own], above[own])
    return Areas(roc, pr)


def area_under_roc(positive: Floats, at_or_above: Floats, above: Floats, total: float) -> float:
    """Area from the positives' weight at each distinct score of theirs and the negatives' at or above and above it.

    The weight of pairs of a positive and a lower negative, ties half, relative to all pairs. As MLlib, whose curve ends at (1, 1):
    0 where nothing is positive, else 1 where nothing is negative.
    """
    pairs = float(positive.sum()) * total
    if pairs == 0:
        return float(positive.sum() > 0)
    return float(positive @ (total - (at_or_above + above) / 2)) / pairs


def area_under_pr(positive: Floats, at_or_above: Floats, above: Floats) -> float:
    """As `area_under_roc`. Recall grows at positives' scores only, from the precision just above each to the precision at it."""
    if positive.sum() == 0:
        return 0.0
    # Scores ascend.
    found = np.cumsum(positive[::-1])[::-1]
    found_above = np.append(found[1:], 0.0)
    after = found / np.maximum(found + at_or_above, np.finfo(float).tiny)
    before = np.divide(found_above, found_above + above, out=after.copy(), where=found_above + above > 0)
    return float((positive * (before + after)).sum() / 2 / found[0])


def _positives(replies: list[dict[str, Floats]]) -> list[tuple[Floats, Floats]]:
    """Per model its positives' distinct scores, ascending, and their weights."""
    parts = [np.cumsum(reply["count"])[:-1] for reply in replies]
    scores = [np.split(reply["score"], ends) for reply, ends in zip(replies, parts, strict=True)]
    weights = [np.split(reply["weight"], ends) for reply, ends in zip(replies, parts, strict=True)]
    result = []
    for m in range(len(replies[0]["count"])):
        distinct, place = np.unique(np.concatenate([worker[m] for worker in scores]), return_inverse=True)
        weight = np.concatenate([worker[m] for worker in weights])
        result.append((distinct, np.bincount(place, weights=weight, minlength=len(distinct)).astype(np.float64)))
    return result
