"""Predicted classes and log losses of many classifiers on their validation rows, in one pass.

As MLlib's LogisticRegressionModel and ProbabilisticClassificationModel: a binomial model says 1 where its margin is above that of
its threshold; a multinomial one the first class of largest margin, or with thresholds of largest probability / threshold.
"""

from __future__ import annotations

from models.arrays import namespace
from models.exact.worker.blocks import Array, Blocks
from models.exact.worker.tiles import margins, members


def binomial_confusion(
    blocks: Blocks, weights: Array, validates: Array, weighted: bool, labels: int, margin_above: Array, eps: float
) -> dict[str, Array]:
    """Counts and losses of binomial models.

    Args:
        weights: (Q + 1, M) float64, of [raw design, 1].
        validates: (M, C) bool, whether a model is judged on the rows of a cell.
        weighted: whether rows count by their weight, or as 1.
        labels: L, one more than the largest label.
        margin_above: (M), a row is said to be 1 where its margin is above this.
        eps: probabilities are taken to be at least this and at most 1 - eps.

    Returns:
        confusion: (M, L, L) weight of the rows by label and by what is said; log_loss: (M) weighted sum of -log(probability of
        the label).
    """
    xp = namespace(weights)
    models_count = weights.shape[1]
    confusion = xp.zeros((models_count, labels, labels), dtype=xp.float64)
    log_loss = xp.zeros((models_count,), dtype=xp.float64)
    classes = xp.arange(labels, dtype=xp.float64)
    for cell in blocks.cells:
        models, place = members(validates, cell)
        if models.shape[0] == 0:
            continue
        margin = margins(cell, blocks.levels, xp.take(weights, models, axis=1))
        weight = cell.weight if weighted else xp.ones_like(cell.weight)
        by_label = xp.astype(cell.label[:, None] == classes[None, :], xp.float64) * weight[:, None]
        said = xp.astype(margin > xp.take(margin_above, models)[None, :], xp.float64)
        ones = place.T @ (said.T @ by_label)
        confusion[:, :, 1] += ones
        confusion[:, :, 0] += place.T @ ((1 - said).T @ by_label)
        # MLlib's order of operations: the probability of 1 is what that of 0 leaves, and rounds as that does.
        zero = 1 / (1 + xp.exp(xp.clip(margin, max=700.0)))
        own = xp.where(cell.label[:, None] == 1, 1 - zero, zero)
        log_loss += (weight @ _clipped_loss(own, eps)) @ place
    return {"confusion": confusion, "log_loss": log_loss}


def multinomial_confusion(
    blocks: Blocks, weights: Array, validates: Array, weighted: bool, labels: int, thresholds: Array | None, eps: float
) -> dict[str, Array]:
    """As `binomial_confusion`, for models of K <= labels classes.

    Args:
        weights: (Q + 1, K, M) float64.
        thresholds: (K), or None.
    """
    xp = namespace(weights)
    size, k, models_count = weights.shape
    confusion = xp.zeros((models_count, labels, labels), dtype=xp.float64)
    log_loss = xp.zeros((models_count,), dtype=xp.float64)
    classes = xp.arange(labels, dtype=xp.float64)
    for cell in blocks.cells:
        models, place = members(validates, cell)
        if models.shape[0] == 0:
            continue
        taken = xp.reshape(xp.take(weights, models, axis=2), (size, -1))
        margin = xp.reshape(margins(cell, blocks.levels, taken), (-1, k, models.shape[0]))
        weight = cell.weight if weighted else xp.ones_like(cell.weight)
        by_label = xp.astype(cell.label[:, None] == classes[None, :], xp.float64)
        probability = _softmax(margin)
        said = xp.argmax(margin if thresholds is None else _per_threshold(probability, thresholds), axis=1)
        for j in range(k):
            said_j = xp.astype(said == j, xp.float64)
            confusion[:, :, j] += place.T @ (said_j.T @ (by_label * weight[:, None]))
        own = xp.sum(probability * by_label[:, :k, None], axis=1)
        log_loss += (weight @ _clipped_loss(own, eps)) @ place
    return {"confusion": confusion, "log_loss": log_loss}


def _per_threshold(probability: Array, thresholds: Array) -> Array:
    """probability / threshold along axis 1. A threshold of 0, of which there may be one, wins wherever its class is possible."""
    xp = namespace(probability)
    threshold = thresholds[None, :, None]
    certain = xp.where(probability > 0, xp.inf, xp.full_like(probability, -xp.inf))
    return xp.where(threshold > 0, probability / xp.where(threshold > 0, threshold, 1.0), certain)


def _softmax(margin: Array) -> Array:
    """Probabilities along axis 1; an infinite margin, which a single label in training gives, takes all."""
    xp = namespace(margin)
    largest = xp.max(margin, axis=1, keepdims=True)
    sure = xp.isinf(largest)
    shifted = xp.where(sure, 0.0, margin - xp.where(sure, 0.0, largest))
    raised = xp.where(sure, xp.astype(margin == largest, margin.dtype), xp.exp(shifted))
    return raised / xp.sum(raised, axis=1, keepdims=True)


def _clipped_loss(probability: Array, eps: float) -> Array:
    xp = namespace(probability)
    return -xp.log(xp.clip(probability, min=eps, max=1 - eps))
