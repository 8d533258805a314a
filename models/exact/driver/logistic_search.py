"""Logistic regression in all folds and at all grid points from a few passes that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator, Evaluator

from models.exact.driver import classification_metrics, logistic_regression, moments
from models.exact.driver.affine import Affine
from models.exact.driver.areas import areas
from models.exact.driver.cells import Cells
from models.exact.driver.classification_metrics import Confusions
from models.exact.driver.linear_search import penalty_of
from models.exact.driver.logistic_regression import LogisticFit, Problem
from models.exact.driver.moments import Moments
from models.exact.driver.passes import Passes
from models.exact.driver.solution import Solution
from transforms.errors import ModelError

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# MLlib refuses more classes where it finds their number in the labels.
MOST_CLASSES = 100


@dataclass(frozen=True, eq=False)
class _Rows:
    """What is known of the rows before the first fit.

    Attributes:
        by_cell: moments of the features.
        class_weights: (C, L).
        counts: (C), rows.
        design: features from the columns as the workers hold them, centred and scaled.
    """

    by_cell: list[Moments | None]
    class_weights: Doubles
    counts: Doubles
    design: Affine


class LogisticSearch:
    """A search by one evaluator; estimators, one a grid point, differ in penalty, family and thresholds."""

    def __init__(
        self,
        passes: Passes,
        cells: Cells,
        estimators: Sequence[LogisticRegression],
        evaluator: Evaluator,
        *,
        on_pass: Callable[[int, int], None] | None = None,
    ) -> None:
        self._passes = passes
        self._cells = cells
        self._estimators = estimators
        self._evaluator: Any = evaluator
        self._on_pass = on_pass

    def folds(self, pairs: Sequence[tuple[int, int]]) -> list[Solution]:
        """The models of (point, fold) pairs, each with its metric on the fold's validation rows."""
        fits = self._fitted([(point, self._cells.trains[fold]) for point, fold in pairs])
        validates = self._cells.validates[[fold for _, fold in pairs]]
        found: dict[int, Solution] = {}
        # Binomial and multinomial models (where the grid is over the family) are measured apart, and so are other thresholds.
        alike: dict[Any, list[int]] = {}
        for number, (point, _) in enumerate(pairs):
            alike.setdefault((fits[number].coefficients.shape[0], self._thresholds(point)), []).append(number)
        for (_, thresholds), numbers in alike.items():
            values = self._measured([fits[k] for k in numbers], validates[numbers], thresholds)
            found |= {k: self._solution(fits[k], float(v)) for k, v in zip(numbers, values, strict=True)}
        return [found[number] for number in range(len(pairs))]

    def whole(self, point: int) -> Solution:
        """The model of a grid point on all rows."""
        return self._solution(self._fitted([(point, np.ones(self._cells.count, dtype=bool))])[0], None)

    @cached_property
    def _rows(self) -> _Rows:
        """Two light passes; workers' columns are centred and scaled from here on."""
        by_cell = moments.of_replies(self._passes.run("moments", {}), self._cells.count)
        class_weights, counts = self._classes()
        everything = moments.total(by_cell, np.ones(self._cells.count, dtype=bool))
        shift, scale = everything.mean[:-1], everything.std(unbiased=False)[:-1]
        scale = np.where(scale > 0, scale, 1.0)
        self._passes.run("set_centred", {"shift": shift, "scale": scale})
        return _Rows(by_cell, class_weights, counts, Affine().of_centred(shift, scale))

    def _classes(self) -> tuple[Doubles, Doubles]:
        """Weight of each class (C, L) and rows (C) by cell.

        Raises:
            ModelError: labels are no class numbers.
        """
        replies = [reply for reply in self._passes.run("count_classes", {"most": MOST_CLASSES}) if reply]
        wrong = sum(int(reply["wrong"]) for reply in replies)
        if wrong:
            column = self._estimators[0].getLabelCol()
            raise ModelError(
                f"Column '{column}' has {wrong} rows that are no class number: expected 0, 1, ... below {MOST_CLASSES};"
                " index the label, or fit a regression."
            )
        classes = max((reply["weight"].shape[1] for reply in replies), default=0)
        classes = max(2, classes)
        weights, counts = np.zeros((self._cells.count, classes)), np.zeros(self._cells.count)
        for reply in replies:
            weights[reply["cells"], : reply["weight"].shape[1]] += reply["weight"]
            counts[reply["cells"]] += reply["rows"]
        return weights, counts

    def _fitted(self, models: Sequence[tuple[int, Flags]]) -> list[LogisticFit]:
        """One fit for each (point, cells that train)."""
        rows, parts = self._rows, {}
        for _, trains in models:
            if trains.tobytes() not in parts:
                std = moments.total(rows.by_cell, trains).std(unbiased=True)[:-1]
                parts[trains.tobytes()] = std, self._classes_of(trains)
        problems = []
        for point, trains in models:
            std, class_weights = parts[trains.tobytes()]
            family = logistic_regression.family_of(self._estimators[point].getFamily(), len(class_weights))
            problems.append(
                Problem(trains, penalty_of(self._estimators[point]), rows.design, std, class_weights, family)
            )
        return logistic_regression.fit(self._passes, problems, rows=int(rows.counts.sum()), on_pass=self._on_pass)

    def _classes_of(self, trains: Flags) -> Doubles:
        """Weight of each class in training rows, up to the largest that they have: MLlib takes the number of classes from them."""
        weights = self._rows.class_weights[trains].sum(axis=0)
        present = np.flatnonzero(weights)
        if len(present) < 2:
            which = f"all have label {present[0]}" if len(present) else "have no weight"
            raise ModelError(
                f"The training rows of a fold {which}; expected two classes at least: use fewer folds, or stratified ones."
            )
        return np.asarray(weights[: present[-1] + 1])

    def _thresholds(self, point: int) -> tuple[float, ...]:
        """Of one binary threshold t the pair (1 - t, t), as MLlib equates them; empty where the largest probability decides."""
        estimator = self._estimators[point]
        if estimator.isSet(estimator.thresholds):
            return tuple(estimator.getThresholds())
        if estimator.isSet(estimator.threshold):
            return 1 - estimator.getThreshold(), estimator.getThreshold()
        return ()

    def _measured(self, fits: Sequence[LogisticFit], validates: Flags, thresholds: tuple[float, ...]) -> Doubles:
        """The evaluator's metric (M) of models with equally many rows of coefficients."""
        rows = self._rows
        weights = np.stack([rows.design.weights(fit.coefficients, fit.intercepts) for fit in fits], axis=-1)
        weighted = bool(self._evaluator.isDefined("weightCol") and self._evaluator.getWeightCol())
        if isinstance(self._evaluator, BinaryClassificationEvaluator):
            if weights.shape[1] > 1:
                raise ModelError(
                    f"{self._evaluator.getMetricName()} is a metric of binary labels, and the models are multinomial; use a"
                    " MulticlassClassificationEvaluator."
                )
            most = int(max(rows.counts[part].sum() for part in validates))
            found = areas(self._passes, weights[:, 0, :], validates, rows=most, weighted=weighted)
            return found.roc if self._evaluator.getMetricName() == "areaUnderROC" else found.pr
        confusions = self._confusions(weights, validates, thresholds, weighted)
        name, label = self._evaluator.getMetricName(), self._evaluator.getMetricLabel()
        return confusions.metric(name, label=label, beta=self._evaluator.getBeta())

    def _confusions(
        self, weights: Doubles, validates: Flags, thresholds: tuple[float, ...], weighted: bool
    ) -> Confusions:
        labels = self._rows.class_weights.shape[1]
        shared: dict[str, Any] = {"labels": labels, "weighted": weighted, "eps": self._evaluator.getEps()}
        if weights.shape[1] > 1:
            limits = np.array(thresholds) if thresholds else None
            return classification_metrics.multinomial_confusions(self._passes, weights, validates, limits, **shared)
        one = 1 / (1 + thresholds[0] / thresholds[1]) if thresholds else 0.5
        each = np.full(weights.shape[2], one)
        return classification_metrics.binomial_confusions(self._passes, weights[:, 0, :], validates, each, **shared)

    def _solution(self, fit: LogisticFit, value: float | None) -> Solution:
        classes = max(2, fit.coefficients.shape[0])
        return Solution(fit.coefficients, fit.intercepts, value, classes, fit.coefficients.shape[0] > 1)
