"""The exact path of cross-validation: linear and logistic regression, alone or after feature stages, to the optimum of MLlib's objective.

All folds and grid points share the passes over one frame: of features, or of a raw design that each fold and setting of the feature
stages maps to its features (`driver.stages`). Stages that are no such map are fitted once a fold by stock code, and the grid points
that share them share the passes over that fold's rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import or_
from typing import Any

from pyspark.errors import PySparkException
from pyspark.ml import Estimator, Model, Transformer
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType

from models import any_estimator
from models.any_estimator import FIT_ERRORS, Fit, Pairs, Route
from models.exact.driver import choice, moments, search, stages
from models.exact.driver.cells import Cells
from models.exact.driver.maps import Maps
from models.exact.driver.raw_design import NoRecipe, RawDesign, raw_design
from models.exact.driver.search import OnPass
from models.exact.driver.solution import Solution
from models.exact.driver.stages import Recipe
from models.folds import Folds
from transforms.errors import ModelError

# The driver holds moments of all pairs of features for each cell: more than this goes the general path.
MOMENTS_BYTES = 256 * 2**20
_FOLD = "_no_fold"
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
    if moments.size(features, cells) <= MOMENTS_BYTES:
        return None
    return f"the moments of {features} features in {cells} cells of rows take more than {MOMENTS_BYTES >> 20} MiB"


def reason_against_rows(way: Route, frame: DataFrame, folds: Folds) -> str | None:
    """Why rows go the general path though `reason_against` has nothing against the grid point; of stages to be fitted, only the fit can tell.

    Raises:
        ModelError: there is no row to tell the number of features from.
    """
    if way.is_fitted:
        return None
    features = any_estimator.through(way.prefix, frame)
    return too_wide(search.width(features, way.last.getFeaturesCol()), folds)  # type: ignore[union-attr]


def checks_folds(routes: Sequence[Route]) -> bool:
    """Whether `fits` of these routes finds out about wrong folds from the sums that it needs anyway."""
    return bool(routes) and not any(way.is_fitted for way in routes)


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

    def group(members: Sequence[Route], whole: Refit | None) -> tuple[_Group, Pairs]:
        searched = _Group(members, folds, evaluator, parallelism, keep_models, on_pass, whole)
        return searched, any_estimator.pairs(members, folds, skip)

    with ExitStack() as stack:
        if any(way.is_fitted for way in routes):
            # Every stage that is fitted reads the rows.
            frame = stack.enter_context(any_estimator.cached(frame))
        rest = []
        for members in _alike(routes):
            searched, todo = group(members, refit)
            shared = searched.shared(frame) if todo and members[0].is_fitted else None
            if shared is None:
                rest += members
            else:
                yield from searched.fits(*shared, todo)
        for members in any_estimator.alike(rest):
            searched, todo = group(members, None if members[0].is_fitted else refit)
            if not members[0].is_fitted:
                numbers = searched.numbers(frame)
                if numbers is None:
                    prefix = members[0].prefix
                    yield from searched.fits(any_estimator.through(prefix, frame), None, todo, prefix, every_row=True)
                else:
                    yield from searched.fits(*numbers, todo, every_row=True)
                continue
            for fold in sorted({fold for _, fold in todo}):
                yield from searched.fits_of_fold(frame, fold, [pair for pair in todo if pair[1] == fold])


def fit_whole(way: Route, frame: DataFrame, *, on_pass: OnPass | None = None) -> Model | None:
    """Fit one grid point on all rows of a frame; None where it is too wide.

    The model has MLlib's training summary; of the history of the objective, which tells the way that a solver went, it has the end.
    """
    memo: dict[Any, Transformer] = {}
    features, _ = any_estimator.advance((frame, frame), way, range(len(way.prefix)), memo)
    folds = Folds(1, _FOLD)
    last: Any = way.last
    any_estimator.check_values(last)
    width = search.width(features, last.getFeaturesCol())
    if too_wide(width, folds):
        return None
    rows = features.withColumn(_FOLD, F.lit(-1))
    with search.opened(rows, folds, [last], None, width=width, on_pass=on_pass) as opened:
        solution = opened.whole(0)
    model = search.model_of(last, solution, features)
    return way.model(list(memo.values()), model)


@dataclass(frozen=True)
class _Group:
    """Grid points that one search can try: class and columns are equal, and the feature stages are, or have recipes."""

    routes: Sequence[Route]
    folds: Folds
    evaluator: Evaluator
    parallelism: int
    keep_models: bool
    on_pass: OnPass | None
    refit: Refit | None

    def shared(self, frame: DataFrame) -> tuple[DataFrame, Maps] | None:
        """The rows with what transformers make of them, and how the fitted stages map them; None where they are no maps."""
        features = self.routes[0].last.getFeaturesCol()  # type: ignore[union-attr]
        try:
            frame = _transformed(self.routes[0], frame)
            recipes: dict[Any, Recipe] = {}
            for way in self.routes:
                if way.keys not in recipes:
                    fitted = [stage for stage in way.prefix if stages.is_shared(stage)]
                    recipes[way.keys] = Recipe.of(fitted, features, frame.schema)
            sources = reduce(or_, (recipe.sources for recipe in recipes.values()))
            raw = raw_design(frame, sources, lambda name: search.width(frame, name))
            reason = too_wide(raw.size, self.folds)
            if reason:
                raise NoRecipe(reason)
            learned = {
                fold: stages.surrogates((stage for recipe in recipes.values() for stage in recipe.stages), rows)
                for fold, rows in [
                    (None, frame),
                    *((k, frame.filter(self.folds.trains(k))) for k in range(self.folds.count)),
                ]
            }
        except (NoRecipe, *FIT_ERRORS) as error:
            # What fails here fails in its fold as well, where it is that fold's error.
            log.info("Feature stages are fitted once a fold: %s.", error)
            return None
        return frame, Maps(Cells.of(self.folds), raw, [recipes[way.keys] for way in self.routes], learned)

    def numbers(self, frame: DataFrame) -> tuple[DataFrame, Maps] | None:
        """The rows before the `VectorAssembler` that ends the stages, and its inputs as the raw design; None where it is no more than that.

        Reading numbers takes a fraction of the time that vectors take, which are assembled row by row.
        """
        way: Any = self.routes[0]
        last = way.prefix[-1] if way.prefix else None
        if type(last) is not VectorAssembler or last.getHandleInvalid() != "error":
            return None
        if any(stages.is_shared(stage) for stage in way.prefix[:-1]):
            return None
        names, frame = last.getInputCols(), any_estimator.through(way.prefix[:-1], frame)
        last.transform(frame)  # what is wrong with its columns is told before the search
        plain = all(name in frame.columns and isinstance(frame.schema[name].dataType, NumericType) for name in names)
        if not plain or len(set(names)) < len(names) or last.getOutputCol() != way.last.getFeaturesCol():
            return None
        if too_wide(len(names), self.folds):
            return None
        return frame, Maps(Cells.of(self.folds), RawDesign(tuple(names), {}, {}, {}))

    def fits_of_fold(self, frame: DataFrame, fold: int, todo: Pairs) -> Iterator[Fit]:
        """Fits of one fold, after the feature stages have been fitted on its training rows."""
        started = time.monotonic()
        try:
            features, fitted = any_estimator.features_of_fold(frame, self.folds, fold, self.routes[0])
        except FIT_ERRORS as error:
            yield from any_estimator.failed(
                self.routes, todo, time.monotonic() - started, error, solver(self.routes[0])
            )
            return
        yield from self.fits(features, None, todo, fitted)

    def fits(
        self,
        rows: DataFrame,
        maps: Maps | None,
        todo: Pairs,
        fitted: Sequence[Transformer] = (),
        *,
        every_row: bool = False,
    ) -> Iterator[Fit]:
        """Fits over rows that have gone through the `fitted` feature stages, or that `maps` lead to the features.

        With `every_row`, not only those of one fold, wrong folds are an error, as `Folds.check` tells it.
        """
        if not todo:
            return
        started = time.monotonic()
        lasts: list[Any] = [way.last for way in self.routes]
        try:
            any_estimator.check_values(lasts[0])
            width = maps.raw.size if maps and maps.raw else search.width(rows, lasts[0].getFeaturesCol())
            reason = None if maps else too_wide(width, self.folds)
            if reason:
                if every_row:
                    self.folds.check(rows)
                yield from self._general(rows, fitted, todo, reason)
                return
            # Workers may hold every slot: nothing else runs in Spark, and no fit is handed over, until they are let go.
            with search.opened(
                rows, self.folds, lasts, self.evaluator, width=width, maps=maps, on_pass=self.on_pass
            ) as opened:
                if every_row and not Cells.of(self.folds).are_folds(opened.filled):
                    raise ModelError(
                        "A part of a fold has no row of positive weight: use fewer folds, or check the weights."
                    )
                solutions = opened.folds(todo)
                best = self._best(todo, solutions)
                whole = None if best is None else opened.whole(best)
        except FIT_ERRORS as error:
            if every_row:
                self.folds.check(rows)
            yield from any_estimator.failed(
                self.routes, todo, time.monotonic() - started, error, solver(self.routes[0])
            )
            return
        seconds = (time.monotonic() - started) / len(todo)
        of_part: dict[Any, Sequence[Transformer]] = {}
        for (k, fold), solution in zip(todo, solutions, strict=True):
            way, model = self.routes[k], None
            if self.keep_models:
                stages_of = partial(self._stages, way, fold, rows, of_part) if maps else partial(list, fitted)
                model = partial(_made, way, stages_of, partial(search.model_of, way.last, solution))
            yield Fit(way.point, fold, solution.value, seconds, solver(way), None, model)
        if self.refit is not None and best is not None and whole is not None:
            if maps:
                rows, fitted = _fitted(self.routes[best], rows)
            self.refit.model = self.routes[best].model(fitted, search.model_of(lasts[best], whole, rows))

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

    def _stages(
        self, way: Route, fold: int, rows: DataFrame, known: dict[Any, Sequence[Transformer]]
    ) -> Sequence[Transformer]:
        """The feature stages of a fold, fitted by stock code; `known` are those of points before."""
        if (way.keys, fold) not in known:
            known[way.keys, fold] = _fitted(way, rows.filter(self.folds.trains(fold)))[1]
        return known[way.keys, fold]

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
            if fit.model is not None:
                fit = replace(fit, model=partial(_made, self.routes[0], partial(list, fitted), fit.model))
            yield fit


def passes(way: Route, evaluator: Evaluator) -> int | None:
    """Passes over the rows for all grid points, None where they depend on the data; one more where errors next to none need it."""
    if choice.solver(way.last) != choice.LINEAR:
        return None
    return 2 if evaluator.getOrDefault("metricName") == "mae" else 1


def solver(way: Route) -> str:
    """Name of the solver, for trials and plans."""
    return choice.solver(way.last) or any_estimator.SOLVER


def _made(way: Route, fitted: Callable[[], Sequence[Transformer]], last: Callable[[], Model]) -> Model:
    return way.model(fitted(), last())


def _transformed(way: Route, frame: DataFrame) -> DataFrame:
    """The rows with what stages make of them that no recipe has.

    Raises:
        NoRecipe: such a stage reads a column that a fitted one makes.
    """
    for stage in way.prefix:
        if not stages.is_shared(stage):
            try:
                frame = stage.transform(frame)
            except PySparkException as error:
                raise NoRecipe(f"{type(stage).__name__} cannot come first: {error.getCondition()}") from error
    return frame


def _fitted(way: Route, rows: DataFrame) -> tuple[DataFrame, list[Transformer]]:
    """The features, and all stages fitted, of rows that are `_transformed` already."""
    fitted = []
    for stage in way.prefix:
        model = any_estimator.fitted(stage, rows) if isinstance(stage, Estimator) else stage
        if stages.is_shared(stage):
            rows = model.transform(rows)
        fitted.append(model)
    return rows, fitted


def _alike(routes: Sequence[Route]) -> list[list[Route]]:
    """Groups that differ in what fitted stages do, and in nothing else that comes before the last estimator."""
    groups: dict[Any, list[Route]] = {}
    for way in routes:
        plain = tuple(key for stage, key in zip(way.prefix, way.keys, strict=True) if not stages.is_shared(stage))
        groups.setdefault((way.is_fitted, plain, type(way.last), any_estimator.columns(way.last)), []).append(way)
    return list(groups.values())
