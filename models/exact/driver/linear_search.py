"""Linear regression in all folds and at all grid points from one pass over the rows: moments by cell, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.regression import LinearRegression

from models.exact.driver import linear_regression, moments, regression_metrics
from models.exact.driver.affine import Affine
from models.exact.driver.cells import Cells
from models.exact.driver.maps import Maps
from models.exact.driver.moments import Moments
from models.exact.driver.passes import Passes
from models.exact.driver.penalty import Penalty
from models.exact.driver.solution import Solution

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class LinearSearch:
    """A search by one evaluator; estimators, one a grid point, differ in what a `Penalty` says, and in their solver."""

    def __init__(
        self,
        passes: Passes,
        cells: Cells,
        estimators: Sequence[LinearRegression],
        evaluator: RegressionEvaluator,
        maps: Maps | None = None,
    ) -> None:
        self._passes = passes
        self._cells = cells
        self._estimators = estimators
        self._evaluator = evaluator
        self._maps = maps or Maps(cells)

    @cached_property
    def by_cell(self) -> list[Moments | None]:
        """Moments by cell number: all that is read of the rows but for metrics that these do not tell."""
        return moments.of_passes(self._passes, self._cells.count)

    @cached_property
    def _plain(self) -> list[Moments | None]:
        """As `by_cell`, every row counted once."""
        return self._maps.plain(self._passes, self.by_cell, weighted=is_weighted(self._estimators[0]))

    @property
    def filled(self) -> Flags:
        """(C), the cells with rows of positive weight."""
        return np.array([each is not None for each in self.by_cell])

    def folds(self, pairs: Sequence[tuple[int, int]]) -> list[Solution]:
        """The models of (point, fold) pairs, each with its metric on the fold's validation rows."""
        shared: dict[Any, list[tuple[int, int]]] = {}
        for point, fold in pairs:
            shared.setdefault((fold, self._maps.setting(point)), []).append((point, fold))
        found = {}
        for alike in shared.values():
            points, fold = [point for point, _ in alike], alike[0][1]
            design = self._maps.of(points[0], fold, self._plain)
            coefficients, intercepts = self._fitted(self._features(self._cells.trains[fold], design), points)
            values = self._measured(fold, design, coefficients, intercepts)
            for m, pair in enumerate(alike):
                found[pair] = Solution(coefficients[m : m + 1], intercepts[m : m + 1], float(values[m]))
        return [found[pair] for pair in pairs]

    def whole(self, point: int) -> Solution:
        """The model of a grid point on all rows; no pass is needed for it."""
        design = self._maps.of(point, None, self._plain)
        rows = self._features(self._maps.trains(None), design)
        coefficients, intercepts = self._fitted(rows, [point])
        estimator, diagonal = self._estimators[point], None
        if not _is_iterative(estimator, len(rows.mean) - 1):
            diagonal = linear_regression.inverse_diagonal(rows, penalty_of(estimator))
        return Solution(coefficients, intercepts, None, inverse_diagonal=diagonal)

    def _features(self, cells: Flags, design: Affine) -> Moments:
        """Moments of the features in some cells."""
        return moments.total(self.by_cell, cells).mapped(design)

    def _fitted(self, rows: Moments, points: Sequence[int]) -> tuple[Doubles, Doubles]:
        features = len(rows.mean) - 1
        coefficients, intercepts = np.empty((len(points), features)), np.empty(len(points))
        unbiased = np.array([_is_iterative(self._estimators[point], features) for point in points])
        for kind in set(unbiased.tolist()):
            at = np.flatnonzero(unbiased == kind).tolist()
            penalties = [penalty_of(self._estimators[points[m]]) for m in at]
            coefficients[at], intercepts[at] = linear_regression.fit(rows, penalties, unbiased_std=kind)
        return coefficients, intercepts

    def _measured(self, fold: int, design: Affine, coefficients: Doubles, intercepts: Doubles) -> Doubles:
        """Metrics (M) from moments, and from a scoring pass where these do not tell."""
        metric: Any = self._evaluator.getMetricName()
        through_origin = self._evaluator.getThroughOrigin()
        validates = self._cells.validates[fold]
        rows = self._features(validates, design)
        values, sound = np.empty(len(intercepts)), np.zeros(len(intercepts), dtype=bool)
        if metric != "mae":
            values, sound = regression_metrics.from_moments(
                rows, coefficients, intercepts, metric, through_origin=through_origin
            )
        rest = np.flatnonzero(~sound)
        if len(rest):
            each = [design.weights(coefficients[m : m + 1], intercepts[m : m + 1]) for m in rest]
            asked = {"weights": np.hstack(each), "validates": np.tile(validates, (len(rest), 1))}
            values[rest] = regression_metrics.scored(
                self._passes, [rows] * len(rest), asked, metric, through_origin=through_origin
            )
        return values


def penalty_of(estimator: Any) -> Penalty:
    """What a linear or logistic estimator penalises."""
    return Penalty(
        estimator.getRegParam(),
        estimator.getElasticNetParam(),
        estimator.getFitIntercept(),
        estimator.getStandardization(),
    )


def is_weighted(estimator: Any) -> bool:
    """Whether rows have weights."""
    return bool(estimator.isDefined("weightCol") and estimator.getWeightCol())


def _is_iterative(estimator: LinearRegression, features: int) -> bool:
    """Whether MLlib would take solver l-bfgs, which scales by another standard deviation."""
    solver = estimator.getSolver()
    return solver == "l-bfgs" or (solver == "auto" and features > linear_regression.MAX_NORMAL_FEATURES)
