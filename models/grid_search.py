"""The search over one estimator's grid that `CrossValidator` and the train job run: each point to its solver, each fit to a trial.

`exact_estimator` solves linear and logistic regression, `tree_search` boosted trees, the general path of `any_estimator` all else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
from pyspark.ml import Estimator, Model
from pyspark.ml.evaluation import Evaluator
from pyspark.sql import DataFrame, SparkSession

from models import any_estimator, exact_estimator, gpus, tree_search
from models.any_estimator import Fit, ParamMap, Route
from models.exact.driver.search import OnPass
from models.exact_estimator import Refit
from models.folds import Folds
from models.halving import Halving
from models.trials import Trial, TuningResult, describe_error, finite
from transforms.errors import ConfigError

log = logging.getLogger(__name__)


class Path(Enum):
    """Which code fits a grid point."""

    EXACT = "all folds and grid points share the passes over the rows, and each ends at the optimum"
    BOOSTED = "all grid points share the binned rows of a fold"
    GENERAL = "the estimator fits itself"


@dataclass(frozen=True)
class Search:
    """A grid to be tried: what `tune` runs.

    Attributes:
        candidate, metric: names for the trials.
        parameters: per grid point, the parameters as trials report them.
        exact: find the optimum even where few iterations or a loose tolerance are set.
        halving: of the boosted trees one in so many goes on, with so many times its rounds; None for all rounds of all.
        since: first grid point that competes so; those before it are known.
    """

    estimator: Estimator[Any]
    grid: Sequence[ParamMap]
    evaluator: Evaluator
    folds: Folds
    candidate: str = ""
    metric: str = ""
    parameters: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    parallelism: int = 1
    exact: bool = False
    halving: int | None = None
    since: int = 0

    def halves(self, known: Iterable[Trial]) -> Halving | None:
        """Who goes on, where some go on."""
        if self.halving is None:
            return None
        ended = {trial.point: trial.share for trial in known if trial.point >= self.since and trial.error is None}
        return Halving(self.halving, frozenset(range(self.since, len(self.grid))), ended)


def tune(
    search: Search,
    frame: DataFrame,
    *,
    known: Iterable[Trial] = (),
    on_trial: Callable[[Trial], None] | None = None,
    on_pass: OnPass | None = None,
    keep_models: bool = False,
    refit: bool = False,
    stop_on_error: bool = False,
) -> TuningResult:
    """Try every grid point on every fold.

    Args:
        frame: features, label and the fold columns.
        known: trials of this very search done before; they are not fitted again.
        on_trial: called in this thread with each new trial, as soon as it is there.
        on_pass: called after each pass over the rows that several fits share, with its number and how many models still move. Workers
            may hold every slot then: it must not run anything in Spark.
        keep_models: keep the models fitted now.
        refit: fit the best point on all rows too, if its solver has them at hand.
        stop_on_error: raise the first error of a fit, as stock CrossValidator does; else the point's trial holds it.

    Raises:
        ConfigError: points rank, would ignore weights, or are to be halved and do not share the rows of boosted trees.
    """
    search.folds.check_type(frame)
    done = {(trial.point, trial.fold): trial for trial in known}
    routes, refused = _routes(search, done)
    models: dict[tuple[int, int], Callable[[], Model]] = {}

    def result(found: Mapping[tuple[int, int], float] = MappingProxyType({})) -> TuningResult:
        scores = np.full((len(search.grid), search.folds.count), np.nan)
        values = {pair: trial.value for pair, trial in done.items()} | dict(found)
        for pair, value in values.items():
            scores[pair] = np.nan if value is None else value
        ordered = tuple(done[key] for key in sorted(done))
        return TuningResult(ordered, scores, search.evaluator.isLargerBetter(), models, whole.model)

    def best(found: Mapping[tuple[int, int], float]) -> int | None:
        known = len(done.keys() | found.keys()) == len(search.grid) * search.folds.count
        return result(found).best if known else None

    whole = Refit(best)
    exact, boosted, general = _by_path(search, routes).values()
    if general or boosted or not exact_estimator.checks_folds(exact):
        search.folds.check(frame)
    options: dict[str, Any] = {"parallelism": search.parallelism, "skip": done.keys(), "keep_models": keep_models}
    # The exact path last: when its rows are at hand, all else is known.
    paths = (
        any_estimator.fits(frame, search.folds, general, search.evaluator, **options),
        tree_search.fits(
            frame, search.folds, boosted, search.evaluator, halving=search.halves(done.values()), **options
        ),
        exact_estimator.fits(
            frame, search.folds, exact, search.evaluator, on_pass=on_pass, refit=whole if refit else None, **options
        ),
    )
    # Closed whatever happens: a generator that waits for its collection would keep the folds cached.
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(closing(path))
        for fit in chain(refused, *paths):
            if fit.error is not None and (stop_on_error or _stopped(frame)):
                raise fit.error
            trial = _trial(search, fit)
            done[fit.point, fit.fold] = trial
            if fit.model is not None:
                models[fit.point, fit.fold] = fit.model
            if on_trial:
                on_trial(trial)
    return result()


def path(way: Route, evaluator: Evaluator, *, exact: bool, halving: int | None = None) -> tuple[Path, str]:
    """The path of a grid point, and why.

    Raises:
        ConfigError: it ranks, would ignore weights, or is to be halved and does not share the rows of boosted trees.
    """
    taken, why = _path(way, evaluator, exact=exact)
    if tree_search.ranks(way):
        raise ConfigError(
            f"{type(way.last).__name__} ranks rows within queries, which folds would cut and no evaluator of MLlib judges."
            " Search over a classifier or a regressor."
        )
    if ignoring := any_estimator.who_ignores_weights(way.last):
        raise ConfigError(
            f"{ignoring} would ignore weightCol '{any_estimator.columns(way.last)[2]}'. Remove it, or search over an estimator that reads"
            " weights."
        )
    if halving is not None and halving < 2:
        raise ConfigError(f"halving is {halving}; expected 2 or more: one grid point in so many goes on.")
    if halving is not None and taken is not Path.BOOSTED:
        against = why if tree_search.knows(way) else "its models do not grow round by round"
        raise ConfigError(f"{type(way.last).__name__} cannot be halved: {against}. Remove `halving`.")
    return taken, why


def _path(way: Route, evaluator: Evaluator, *, exact: bool) -> tuple[Path, str]:
    against = exact_estimator.reason_against(way, evaluator, insist=exact)
    if against is None:
        return Path.EXACT, Path.EXACT.value
    against_trees = tree_search.reason_against(way, evaluator)
    if against_trees is None:
        return Path.BOOSTED, Path.BOOSTED.value
    return Path.GENERAL, against_trees if tree_search.knows(way) else against


def fit(estimator: Estimator[Any], extra: ParamMap, frame: DataFrame, *, exact: bool = False) -> Model:
    """Fit one grid point on all rows of a frame, by the solver that a search would use."""
    way = any_estimator.route(estimator, 0, extra)
    model = None
    if exact_estimator.reason_against(way, None, insist=exact) is None:
        model = exact_estimator.fit_whole(way, frame)
    return model or any_estimator.fit_whole(way, frame)


def require_gpus(spark: SparkSession, estimator: Estimator[Any], grid: Iterable[ParamMap]) -> None:
    """Before any fit of a search: where GPUs are required, make sure that feature stages and estimators can be fitted on one.

    Raises:
        NoGpu: they cannot.
    """
    # To set a point's parameters takes tens of milliseconds.
    for extra in grid if gpus.is_required(spark) else ():
        # A point that MLlib refuses is a trial that fails.
        with suppress(*any_estimator.FIT_ERRORS):
            any_estimator.require_gpus(spark, [any_estimator.route(estimator, 0, extra)])


def _routes(search: Search, done: Container[tuple[int, int]]) -> tuple[list[Route], list[Fit]]:
    """A route for each grid point; MLlib refuses some values (a negative regParam) as soon as they are set."""
    routes, refused = [], []
    for point, extra in enumerate(search.grid):
        try:
            routes.append(any_estimator.route(search.estimator, point, extra))
        except any_estimator.FIT_ERRORS as error:
            pairs = [(point, fold) for fold in range(search.folds.count) if (point, fold) not in done]
            refused += [Fit(*pair, value=None, seconds=0.0, solver=any_estimator.SOLVER, error=error) for pair in pairs]
    return routes, refused


def _by_path(search: Search, routes: Sequence[Route]) -> dict[Path, list[Route]]:
    """The routes of each path; each reason for the general one is logged once."""
    found: dict[Path, list[Route]] = {each: [] for each in Path}
    reasons = set()
    for way in routes:
        taken, reason = path(way, search.evaluator, exact=search.exact, halving=search.halving)
        found[taken].append(way)
        if taken is Path.GENERAL:
            reasons.add(reason)
    for reason in sorted(reasons):
        log.info("The general path fits some grid points: %s.", reason)
    return found


def _trial(search: Search, fit: Fit) -> Trial:
    parameters = (
        search.parameters[fit.point] if search.parameters else {p.name: v for p, v in search.grid[fit.point].items()}
    )
    value, error = (None, describe_error(fit.error)) if fit.error else finite(fit.value)
    return Trial(
        search.candidate, fit.point, parameters, fit.fold, search.metric, value, fit.seconds, fit.solver, error,
        fit.rounds, fit.share,
    )  # fmt: skip


def _stopped(frame: DataFrame) -> bool:
    """Whether the session has ended: then a failed fit says nothing about its grid point."""
    context = frame.sparkSession.sparkContext._jsc
    return context is None or bool(context.sc().isStopped())
