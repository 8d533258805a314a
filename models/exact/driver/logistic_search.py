"""Logistic regression in all folds and at all grid points from a few passes that they share."""

from __future__ import annotations

import logging
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
from models.exact.driver.linear_search import is_weighted, penalty_of
from models.exact.driver.logistic_regression import LogisticFit, Problem
from models.exact.driver.maps import Maps
from models.exact.driver.moments import Moments
from models.exact.driver.passes import Passes
from models.exact.driver.solution import Solution
from transforms.errors import ModelError

log = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# MLlib refuses more classes where it finds their number in the labels.
MOST_CLASSES = 100


@dataclass(frozen=True, eq=False)
class _Rows:
    """What is known of the rows before the first fit.

    Attributes:
        by_cell: moments of the raw design.
        plain: the same, every row counted once.
        class_weights: (C, L).
        counts: (C), rows.
        shift, scale: (Q), of the raw design as workers hold it from here on: dense columns centred and scaled.
    """

    by_cell: list[Moments | None]
    plain: list[Moments | None]
    class_weights: Doubles
    counts: Doubles
    shift: Doubles
    scale: Doubles


@dataclass(frozen=True, eq=False)
class _Part:
    """What models of equal features share on the training rows of a fold, or on all rows.

    Attributes:
        design: the features from the raw design as workers hold it.
        std: (p), unbiased.
        class_weights: (classes).
    """

    design: Affine
    std: Doubles
    class_weights: Doubles


class LogisticSearch:
    """A search by one evaluator; estimators, one a grid point, differ in penalty, family and thresholds."""

    def __init__(
        self,
        passes: Passes,
        cells: Cells,
        estimators: Sequence[LogisticRegression],
        evaluator: Evaluator,
        *,
        maps: Maps | None = None,
        on_pass: Callable[[int, int], None] | None = None,
    ) -> None:
        self._passes = passes
        self._cells = cells
        self._estimators = estimators
        self._evaluator: Any = evaluator
        self._maps = maps or Maps(cells)
        self._on_pass = on_pass
        self._parts: dict[Any, _Part] = {}

    @property
    def filled(self) -> Flags:
        """(C), the cells with rows of positive weight."""
        return np.array([each is not None for each in self._rows.by_cell])

    def folds(self, pairs: Sequence[tuple[int, int]]) -> list[Solution]:
        """The models of (point, fold) pairs, each with its metric on the fold's validation rows."""
        fits = self._fitted(pairs)
        designs = [self._part(point, fold).design for point, fold in pairs]
        weights = [d.weights(fit.coefficients, fit.intercepts) for d, fit in zip(designs, fits, strict=True)]
        validates = self._cells.validates[[fold for _, fold in pairs]]
        found: dict[int, Solution] = {}
        # Binomial and multinomial models (where the grid is over the family) are measured apart, and so are other thresholds.
        alike: dict[Any, list[int]] = {}
        for number, (point, _) in enumerate(pairs):
            alike.setdefault((weights[number].shape[1], self._thresholds(point)), []).append(number)
        for (_, thresholds), numbers in alike.items():
            together = np.stack([weights[k] for k in numbers], axis=-1)
            values = self._measured(together, validates[numbers], thresholds)
            found |= {k: self._solution(fits[k], float(v)) for k, v in zip(numbers, values, strict=True)}
        return [found[number] for number in range(len(pairs))]

    def whole(self, point: int) -> Solution:
        """The model of a grid point on all rows."""
        return self._solution(self._fitted([(point, None)])[0], None)

    @cached_property
    def _rows(self) -> _Rows:
        """Light passes; workers' columns are centred and scaled from here on."""
        by_cell = moments.of_passes(self._passes, self._cells.count)
        plain = self._maps.plain(self._passes, by_cell, weighted=is_weighted(self._estimators[0]))
        class_weights, counts = self._classes()
        everything = moments.total(by_cell, self._maps.trains(None))
        dense = len(everything.mean) - 1 - self._maps.onehot
        shift, scale = everything.mean[:-1].copy(), everything.std(unbiased=False)[:-1]
        shift[dense:], scale[dense:] = 0.0, 1.0
        scale = np.where(scale > 0, scale, 1.0)
        self._passes.run("set_centred", {"shift": shift[:dense], "scale": scale[:dense]})
        return _Rows(by_cell, plain, class_weights, counts, shift, scale)

    def _part(self, point: int, fold: int | None) -> _Part:
        rows, key = self._rows, (self._maps.setting(point), fold)
        if key not in self._parts:
            trains, features = self._maps.trains(fold), self._maps.of(point, fold, rows.plain)
            std = moments.total(rows.by_cell, trains).mapped(features).std(unbiased=True)[:-1]
            self._parts[key] = _Part(features.of_centred(rows.shift, rows.scale), std, self._classes_of(trains))
        return self._parts[key]

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

    def _fitted(self, models: Sequence[tuple[int, int | None]]) -> list[LogisticFit]:
        """One fit for each (point, fold), None for all rows."""
        problems = []
        for point, fold in models:
            part = self._part(point, fold)
            family = logistic_regression.family_of(self._estimators[point].getFamily(), len(part.class_weights))
            penalty, trains = penalty_of(self._estimators[point]), self._maps.trains(fold)
            setting = self._maps.setting(point)
            problems.append(Problem(trains, penalty, part.design, part.std, part.class_weights, family, setting))
        rows = int(self._rows.counts.sum())
        fits = logistic_regression.fit(self._passes, problems, rows=rows, on_pass=self._on_pass)
        for (point, fold), fit in zip(models, fits, strict=True):
            if not fit.converged:
                where = "all rows" if fold is None else f"fold {fold}"
                log.warning("Grid point %d on %s has not converged: %s.", point, where, fit.reason)
        return fits

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

    def _measured(self, weights: Doubles, validates: Flags, thresholds: tuple[float, ...]) -> Doubles:
        """The evaluator's metric (M) of models with equally many rows of coefficients: weights (Q + 1, K, M)."""
        weighted = bool(self._evaluator.isDefined("weightCol") and self._evaluator.getWeightCol())
        if isinstance(self._evaluator, BinaryClassificationEvaluator):
            if weights.shape[1] > 2:
                raise ModelError(
                    f"{self._evaluator.getMetricName()} is a metric of binary labels, and the models are multinomial; use a"
                    " MulticlassClassificationEvaluator."
                )
            most = int(max(self._rows.counts[part].sum() for part in validates))
            # Of two classes the last one's margin, as the evaluator takes it; a binomial model has no other.
            found = areas(self._passes, weights[:, -1, :], validates, rows=most, weighted=weighted)
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
        multinomial = fit.coefficients.shape[0] > 1
        return Solution(fit.coefficients, fit.intercepts, value, classes, multinomial, objective=fit.objective)
