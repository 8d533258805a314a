"""Exact areas under the curves of many binary models on their validation rows: BinaryClassificationEvaluator with numBins = 0.

The default of that evaluator, numBins = 1000, merges points of the curve by partition, so its value depends on how rows are
partitioned, in the sixth digit; this one does not. Workers send scores, once: to sort them among themselves, or to be asked for the
weight of negatives above each positive, each would have to be sent what belongs to all others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import starmap
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.exact.driver.passes import Passes, Reply

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# What all replies together may hold: models are judged in groups.
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
    """Judge models by their margins, in one pass for each group of models that fits into a message.

    Args:
        weights: (Q + 1, M), each model's weights on [raw design, 1], see `Affine.weights`.
        validates: (M, C), whether a model is judged on the rows of a cell.
        rows: the most that one model is judged on.
        weighted: whether rows count by their weight, or as 1.
    """
    count = weights.shape[1]
    at_once = max(1, MESSAGE_BYTES // (8 * max(1, rows)))
    found: list[tuple[float, float]] = []
    threads = min(count, len(os.sched_getaffinity(0)))
    # Making threads takes longer than judging one model.
    with ThreadPool(threads) if threads > 1 else nullcontext() as pool:
        for start in range(0, count, at_once):
            group = slice(start, start + at_once)
            request = {"weights": np.ascontiguousarray(weights[:, group]), "validates": validates[group]}
            judged = _judged(passes.run("scores", {**request, "weighted": weighted}), validates[group], weighted)
            # Sorting and searching let other threads run.
            found += pool.starmap(_areas, judged) if pool else starmap(_areas, judged)
    roc, pr = zip(*found, strict=True)
    return Areas(np.array(roc), np.array(pr))


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


def _judged(replies: Sequence[Reply], validates: Flags, weighted: bool) -> list[tuple[_Scores, _Scores]]:
    """Per model its positives and its negatives."""
    found: list[tuple[list[Floats], ...]] = [([], [], [], []) for _ in validates]
    for reply in replies:
        at, row = 0, 0
        for cell, positives, negatives in zip(
            *(reply[name].tolist() for name in ("cells", "positives", "negatives")), strict=True
        ):
            rows = positives + negatives
            weight = reply["weight"][row : row + rows] if weighted else np.empty(0)
            row += rows
            for model in np.flatnonzero(validates[:, cell]):
                score = reply["score"][at : at + rows]
                at += rows
                parts = (score[:positives], weight[:positives], score[positives:], weight[positives:])
                for into, part in zip(found[model], parts, strict=True):
                    into.append(part)
    joined = [[np.concatenate([*parts, np.empty(0)]) for parts in each] for each in found]
    return [(_Scores(*each[:2]), _Scores(*each[2:])) for each in joined]


def _areas(positives: _Scores, negatives: _Scores) -> tuple[float, float]:
    """Areas under both curves. Between two positives the curves move in one direction only: no other scores of negatives matter."""
    scores, from_each = positives.ascending()
    distinct = np.flatnonzero(np.diff(scores, prepend=np.nan) != 0)
    # Sums from the top down keep exact what is near it.
    positive = -np.diff(from_each[np.append(distinct, len(scores))])
    thresholds = scores[distinct]
    others, from_each_other = negatives.ascending()
    at_or_above, above = (from_each_other[np.searchsorted(others, thresholds, side)] for side in ("left", "right"))
    return (
        area_under_roc(positive, at_or_above, above, float(from_each_other[0])),
        area_under_pr(positive, at_or_above, above),
    )


class _Scores(NamedTuple):
    """Scores (n) in any order, and their weights (n), or (0) where all are 1."""

    score: Floats
    weight: Floats

    def ascending(self) -> tuple[Floats, Floats]:
        """Scores (n) in order, and the weight (n + 1) from each of them upwards."""
        if not len(self.weight):
            return np.sort(self.score), np.arange(len(self.score), -1.0, -1.0)
        order = np.argsort(self.score)
        upwards = np.cumsum(self.weight[order][::-1])[::-1]
        return self.score[order], np.append(upwards, 0.0)
