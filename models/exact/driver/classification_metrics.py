"""Every metric of MLlib's MulticlassClassificationEvaluator, from weighted counts of labels and predictions.

Definitions: Spark's MulticlassMetrics.scala. Averages are weighted by the labels' own weight; labels that no row has do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.exact.driver.passes import Passes
from transforms.errors import ModelError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Confusions:
    """What M models said of their validation rows.

    Attributes:
        counts: (M, L, L), weight of the rows by label and by prediction.
        log_loss: (M), weighted sum of the log losses.
    """

    counts: Floats
    log_loss: Floats

    def metric(self, name: str, *, label: float = 0.0, beta: float = 1.0) -> Floats:
        """Values (M) of the evaluator's `metricName`, with its `metricLabel` and `beta`.

        Raises:
            ModelError: the name is none of the evaluator's, or no row of some model has the label asked for.
        """
        by_label = self.counts.sum(axis=2)
        total = by_label.sum(axis=1)
        correct = np.diagonal(self.counts, axis1=1, axis2=2)
        if name in {"accuracy", "hammingLoss", "logLoss"}:
            wrong = total - correct.sum(axis=1)
            numerator = {"accuracy": correct.sum(axis=1), "hammingLoss": wrong, "logLoss": self.log_loss}[name]
            return np.asarray(numerator / total)
        kind, by_class = _kinds(name)
        beta = 1.0 if name == "f1" else beta
        false = self.counts.sum(axis=1) - correct
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = correct / by_label
            precision = np.where(correct + false == 0, 0.0, correct / (correct + false))
            both = beta**2 * precision + recall
            values = {
                "truePositiveRate": recall,
                "recall": recall,
                "falsePositiveRate": false / (total[:, None] - by_label),
                "precision": precision,
                "fMeasure": np.where(precision + recall == 0, 0.0, (1 + beta**2) * precision * recall / both),
            }[kind]
        if by_class:
            return self._of_label(values, by_label, name, label)
        # Labels without rows would give 0 / 0, and count for nothing.
        return np.asarray(np.where(by_label > 0, values * by_label, 0.0).sum(axis=1) / total)

    def _of_label(self, values: Floats, by_label: Floats, name: str, label: float) -> Floats:
        number = int(label)
        if number != label or not 0 <= number < by_label.shape[1] or not (by_label[:, number] > 0).all():
            raise ModelError(
                f"MulticlassClassificationEvaluator: metric {name} of label {label} expects validation rows with that label in every "
                "fold, found a fold without; choose another metricLabel."
            )
        return values[:, number]


def binomial_confusions(
    passes: Passes,
    weights: Floats,
    validates: Flags,
    thresholds: Floats,
    *,
    labels: int = 2,
    weighted: bool = False,
    eps: float = 1e-15,
) -> Confusions:
    """What binomial models say, in one pass.

    Args:
        weights: (Q + 1, M), of [raw design, 1], see `Affine.weights`.
        validates: (M, C), whether a model is judged on the rows of a cell.
        thresholds: (M), probabilities above which 1 is said. MLlib's `thresholds` (t0, t1) mean 1 / (1 + t0 / t1).
        labels: one more than the largest label.
        weighted: whether rows count by their weight, or as 1.
        eps: the evaluator's: probabilities are taken to be at least this and at most 1 - eps.
    """
    with np.errstate(divide="ignore"):
        margin_above = np.log(thresholds / (1.0 - thresholds))
    return _confusions(
        passes,
        "binomial_confusion",
        {
            "weights": weights,
            "validates": validates,
            "weighted": weighted,
            "labels": max(labels, 2),
            "margin_above": margin_above,
            "eps": eps,
        },
    )


def multinomial_confusions(
    passes: Passes,
    weights: Floats,
    validates: Flags,
    thresholds: Floats | None,
    *,
    labels: int,
    weighted: bool = False,
    eps: float = 1e-15,
) -> Confusions:
    """As `binomial_confusions`, for multinomial models: weights (Q + 1, K, M), thresholds (K) or None."""
    request = {
        "weights": weights,
        "validates": validates,
        "weighted": weighted,
        "labels": max(labels, weights.shape[1]),
    }
    return _confusions(passes, "multinomial_confusion", {**request, "thresholds": thresholds, "eps": eps})


def _confusions(passes: Passes, kernel: str, request: dict[str, object]) -> Confusions:
    replies = passes.run(kernel, request)
    return Confusions(sum(r["confusion"] for r in replies), sum(r["log_loss"] for r in replies))


def _kinds(name: str) -> tuple[str, bool]:
    """The measure that a metric's name means, and whether it is of one label."""
    weighted = {
        "f1": "fMeasure",
        "weightedPrecision": "precision",
        "weightedRecall": "recall",
        "weightedTruePositiveRate": "truePositiveRate",
        "weightedFalsePositiveRate": "falsePositiveRate",
        "weightedFMeasure": "fMeasure",
    }
    of_label = {
        f"{kind}ByLabel": kind for kind in ("truePositiveRate", "falsePositiveRate", "precision", "recall", "fMeasure")
    }
    if name in weighted:
        return weighted[name], False
    if name in of_label:
        return of_label[name], True
    expected = ", ".join(["accuracy", "hammingLoss", "logLoss", *weighted, *of_label])
    raise ModelError(f"MulticlassClassificationEvaluator: metricName must be one of {expected}, but got {name}.")
