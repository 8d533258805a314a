"""The exact path of cross-validation: linear and logistic regression, alone or after feature stages, to the optimum of MLlib's objective.

Without feature stages that are fitted, all folds and grid points share the passes over one frame. With them, the stages are
fitted once a fold by stock code, and the grid points that share them share the passes over that fold's rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from pyspark.ml import Estimator, Model, PipelineModel, Transformer
from pyspark.ml.evaluation import Evaluator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from models import any_estimator
from models.any_estimator import FIT_ERRORS, Fit, Route
from models.exact.driver import choice, search
from models.exact.driver.search import OnPass
from models.exact.driver.solution import Solution
from models.folds import Folds

# The driver holds moments of all pairs of features for each cell: more than this goes the general path.
MOMENTS_BYTES = 256 * 2**20
_FOLD = "_no_fold"
Pairs = Sequence[tuple[int, int]]  # (index in the group, fold)
log = logging.getLogger(__name__)


@dataclass
class Refit:
    """The model of the best grid point on all rows, fitted while workers still hold them.

    Attributes:
        best: the grid point, given the values of (point, fold) pairs found just now; None where that cannot be said yet.
        model: None where the rows are not at hand.
    """

    best: Callable[[Mapping[tuple[int, int], float]], int | None]
    model: Model | None = None


def reason_against(way: Route, evaluator: Evaluator | None, *, insist: bool = False) -> str | None:
    """Why a grid point goes the general path, None where this one has the same answer; see `choice`."""
    if way.tail:
        return "stages follow the estimator"
    return choice.reason_against(way.last, evaluator, insist=insist)


def too_wide(features: int, folds: Folds) -> str | None:
    """Why so many features go the general path, None where they fit."""
    cells = (folds.count + 1) * (folds.count + 1 if folds.train_from else 1)
    if cells * (features + 1) ** 2 * 8 <= MOMENTS_BYTES:
        return None
    return f"the moments of {features} features in {cells} cells of rows take more than {MOMENTS_BYTES >> 20} MiB"


def fits(
    frame: DataFrame,
    folds: Folds,
    routes: Sequence[Route],
    evaluator: Evaluator,
    *,
    parallelism: int = 1,
    skip: Collection[tuple[int, int]] = (),
    keep_models: bool = False,
    on_pass: OnPass | None = None,
    refit: Refit | None = None,
) -> Generator[Fit]:
    """As `any_estimator.fits`, for routes that `reason_against` has nothing against."""
    for group in _groups(routes):
        todo = [
            (k, fold) for fold in range(folds.count) for k, way in enumerate(group) if (way.point, fold) not in skip
        ]
        prefix = group[0].prefix
        if not any(isinstance(stage, Estimator) for stage in prefix):
            yield from _Group(group, folds, evaluator, parallelism, keep_models, on_pass, refit).fits(
                reduce(lambda rows, stage: stage.transform(rows), prefix, frame), prefix, todo
            )
        elif todo:
            # Every stage that is fitted reads the rows, in every fold.
            with any_estimator.cached(frame) as base:
                searched = _Group(group, folds, evaluator, parallelism, keep_models, on_pass, None)
                for fold in sorted({fold for _, fold in todo}):
                    yield from searched.fits_of_fold(base, fold, [pair for pair in todo if pair[1] == fold])


def fit_whole(way: Route, frame: DataFrame, *, on_pass: OnPass | None = None) -> Model | None:
    """Fit one grid point on all rows of a frame, with a training summary as MLlib's fit gives it; None where it is too wide."""
    memo: dict[Any, Transformer] = {}
    features, _ = any_estimator.advance((frame, frame), way, range(len(way.prefix)), memo)
    folds = Folds(1, _FOLD)
    last: Any = way.last
    if too_wide(search.width(features, last.getFeaturesCol()), folds):
        return None
    with search.opened(features.withColumn(_FOLD, F.lit(-1)), folds, [last], None, on_pass=on_pass) as opened:
        solution = opened.whole(0)
    model = search.model_of(last, solution, features)
    return PipelineModel([*memo.values(), model]) if way.is_pipeline else model


@dataclass(frozen=True)
class _Group:
    """Grid points that one search can try: equal feature stages, class and columns."""

    routes: Sequence[Route]
    folds: Folds
    evaluator: Evaluator
    parallelism: int
    keep_models: bool
    on_pass: OnPass | None
    refit: Refit | None

    def fits_of_fold(self, frame: DataFrame, fold: int, todo: Pairs) -> Iterator[Fit]:
        """Fits of one fold, after the feature stages have been fitted on its training rows."""
        started = time.monotonic()
        rows = frame.filter(self.folds.trains(fold) | self.folds.validates(fold))
        parts = rows.filter(self.folds.trains(fold)), rows
        way, memo = self.routes[0], dict[Any, Transformer]()
        try:
            _, features = any_estimator.advance(parts, way, range(len(way.prefix)), memo)
        except FIT_ERRORS as error:
            yield from _failed(self.routes, todo, time.monotonic() - started, error)
            return
        yield from self.fits(features, list(memo.values()), todo)

    def fits(self, features: DataFrame, fitted: Sequence[Transformer], todo: Pairs) -> Iterator[Fit]:
        """Fits over rows that have gone through the `fitted` feature stages."""
        if not todo:
            return
        started = time.monotonic()
        lasts: list[Any] = [way.last for way in self.routes]
        try:
            reason = too_wide(search.width(features, lasts[0].getFeaturesCol()), self.folds)
            if reason:
                yield from self._general(features, fitted, todo, reason)
                return
            # Workers may hold every slot: nothing else runs in Spark, and no fit is handed over, until they are let go.
            with search.opened(features, self.folds, lasts, self.evaluator, on_pass=self.on_pass) as opened:
                solutions = opened.folds(todo)
                best = self._best(todo, solutions)
                whole = None if best is None else opened.whole(best)
        except FIT_ERRORS as error:
            yield from _failed(self.routes, todo, time.monotonic() - started, error)
            return
        seconds = (time.monotonic() - started) / len(todo)
        for (k, fold), solution in zip(todo, solutions, strict=True):
            way = self.routes[k]
            model = self._assembled(fitted, search.model_of(way.last, solution)) if self.keep_models else None
            yield Fit(way.point, fold, solution.value, seconds, solver(way), None, model)
        if self.refit is not None and best is not None and whole is not None:
            self.refit.model = self._assembled(fitted, search.model_of(lasts[best], whole, features))

    def _best(self, todo: Pairs, solutions: Sequence[Solution]) -> int | None:
        """Index of the best grid point, if it is to be fitted on all rows and is one of this group."""
        if self.refit is None:
            return None
        values = {
            (self.routes[k].point, fold): solution.value
            for (k, fold), solution in zip(todo, solutions, strict=True)
            if solution.value is not None
        }
        point = self.refit.best(values)
        return next((k for k, way in enumerate(self.routes) if way.point == point), None)

    def _assembled(self, fitted: Sequence[Transformer], last: Model) -> Model:
        return PipelineModel([*fitted, last]) if self.routes[0].is_pipeline else last

    def _general(self, features: DataFrame, fitted: Sequence[Transformer], todo: Pairs, reason: str) -> Iterator[Fit]:
        log.info("The general path fits %d grid point(s): %s.", len(self.routes), reason)
        bare = [replace(way, prefix=(), keys=(), is_pipeline=False) for way in self.routes]
        wanted = {(self.routes[k].point, fold) for k, fold in todo}
        every = {(way.point, fold) for way in self.routes for fold in range(self.folds.count)}
        for fit in any_estimator.fits(
            features,
            self.folds,
            bare,
            self.evaluator,
            parallelism=self.parallelism,
            skip=every - wanted,
            keep_models=self.keep_models,
        ):
            yield fit if fit.model is None else replace(fit, model=self._assembled(fitted, fit.model))


def passes(way: Route, evaluator: Evaluator) -> int | None:
    """Passes over the rows for all grid points, None where they depend on the data."""
    if choice.solver(way.last) != choice.LINEAR:
        return None
    return 2 if evaluator.getOrDefault("metricName") == "mae" else 1


def solver(way: Route) -> str:
    """Name of the solver, for trials and plans."""
    return choice.solver(way.last) or any_estimator.SOLVER


def _failed(group: Sequence[Route], todo: Pairs, seconds: float, error: Exception) -> Iterator[Fit]:
    for k, fold in todo:
        yield Fit(group[k].point, fold, None, seconds / len(todo), solver(group[k]), error)


def _groups(routes: Sequence[Route]) -> list[list[Route]]:
    groups: dict[Any, list[Route]] = {}
    for way in routes:
        groups.setdefault((way.keys, type(way.last), _columns(way.last)), []).append(way)
    return list(groups.values())


def _columns(estimator: Any) -> tuple[Any, ...]:
    names = ("featuresCol", "labelCol", "weightCol")
    return tuple(estimator.getOrDefault(name) if estimator.isDefined(name) else None for name in names)
