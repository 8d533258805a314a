"""Cross-validation of `xgboost.spark`: the models of all folds and grid points over one binned matrix, side by side.

Each of some tasks holds all rows and trains a share of the models, one thread a core. Feature stages that are fitted make other
features in each fold: then there is a matrix a fold, of its training rows alone.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from functools import partial
from itertools import chain
from multiprocessing.pool import ThreadPool
from typing import Any

from pyspark import inheritable_thread_target
from pyspark.ml import Model, Transformer
from pyspark.ml.evaluation import BinaryClassificationEvaluator, Evaluator, RegressionEvaluator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from models import any_estimator, gpus, trees
from models.any_estimator import FIT_ERRORS, Fit, Pairs, Route
from models.exact.driver import choice
from models.exact.driver.cells import Cells
from models.exact.driver.linear_search import is_weighted
from models.folds import Folds
from models.margins import Measure
from models.tree_task import ANSWER, CELL, ORDINAL, Request, Training
from transforms.errors import ModelError

SOLVER = "xgboost, shared matrix"


def knows(way: Route) -> bool:
    """Whether the estimator is one of `xgboost.spark`."""
    return type(way.last).__module__.startswith("xgboost.spark")


def reason_against(way: Route, evaluator: Evaluator) -> str | None:
    """Why a grid point goes the general path, None where its models can be trained together with others."""
    if way.last is None or not trees.applies(way.last):
        return "only features, label and weight, one worker and CPUs are shared by boosted trees"
    if way.tail:
        return "stages follow the estimator"
    return choice.against_evaluator(way.last, evaluator, classifies=_classifies(way.last))


def fits(
    frame: DataFrame,
    folds: Folds,
    routes: Sequence[Route],
    evaluator: Evaluator,
    *,
    parallelism: int = 1,
    skip: Collection[tuple[int, int]] = (),
    keep_models: bool = False,
) -> Generator[Fit]:
    """As `any_estimator.fits`, for routes that `reason_against` has nothing against.

    Args:
        frame: rows in canonical order; XGBoost's sums depend on the order of rows.
        parallelism: how many tasks may hold all rows at once.
    """
    for members in any_estimator.alike(routes):
        search = _Search(members, folds, measure_of(evaluator), parallelism, keep_models)
        wanted = any_estimator.pairs(members, folds, skip)
        if not wanted:
            continue
        if not members[0].is_fitted:
            yield from search.fits(any_estimator.through(members[0].prefix, frame), wanted, members[0].prefix)
            continue
        with any_estimator.cached(frame) as base:
            for fold in sorted({fold for _, fold in wanted}):
                yield from search.fits_of_fold(base, fold, [pair for pair in wanted if pair[1] == fold])


def measure_of(evaluator: Evaluator) -> Measure:
    """What one of MLlib's evaluators measures."""
    each: Any = evaluator
    weighted = is_weighted(evaluator)
    metric = each.getOrDefault("metricName")
    if isinstance(evaluator, BinaryClassificationEvaluator):
        return Measure("binary", metric, weighted, {})
    regression = isinstance(evaluator, RegressionEvaluator)
    names = ["throughOrigin"] if regression else ["metricLabel", "beta", "eps"]
    kind = "regression" if regression else "multiclass"
    return Measure(kind, metric, weighted, {name: each.getOrDefault(name) for name in names})


class _Search:
    """Grid points of equal feature stages and columns."""

    def __init__(
        self, routes: Sequence[Route], folds: Folds, measure: Measure, parallelism: int, keep_models: bool
    ) -> None:
        self._routes, self._folds, self._measure = routes, folds, measure
        self._parallelism, self._keep_models = parallelism, keep_models

    def fits_of_fold(self, frame: DataFrame, fold: int, wanted: Pairs) -> Iterator[Fit]:
        """Fits of one fold, after the feature stages have been fitted on its training rows."""
        started = time.monotonic()
        try:
            features, fitted = any_estimator.features_of_fold(frame, self._folds, fold, self._routes[0])
        except FIT_ERRORS as error:
            yield from any_estimator.failed(self._routes, wanted, time.monotonic() - started, error, SOLVER)
            return
        yield from self.fits(features, wanted, fitted, of_one_fold=True)

    def fits(
        self, rows: DataFrame, wanted: Pairs, fitted: Sequence[Transformer], *, of_one_fold: bool = False
    ) -> Iterator[Fit]:
        """Fits over rows that have gone through the feature stages."""
        started = time.monotonic()
        try:
            found = self._trained(rows, wanted, of_one_fold=of_one_fold)
        except FIT_ERRORS as error:
            yield from any_estimator.failed(self._routes, wanted, time.monotonic() - started, error, SOLVER)
            return
        for (k, fold), row in zip(wanted, found, strict=True):
            way, model = self._routes[k], None
            problem = None if row["error"] is None else ModelError(row["error"])
            if self._keep_models and problem is None:
                model = partial(_made, way, row["config"], row["model"], fitted)
            yield Fit(way.point, fold, row["value"], row["seconds"], SOLVER, problem, model)

    def _trained(self, rows: DataFrame, wanted: Pairs, *, of_one_fold: bool) -> list[Any]:
        """The rows that tasks answer, one for each model, in order."""
        lasts: list[Any] = [way.last for way in self._routes]
        for last in lasts:
            last._validate_params()
        cells = Cells.of(self._folds)
        classifies = _classifies(lasts[0])
        with any_estimator.cached(trees.inputs(lasts[0], rows, cells.column.alias(CELL))) as prepared:
            # Reads all rows, in as many tasks as there are: those that train find them cached.
            labels = _Labels(prepared.select(F.count_distinct("label")).collect())
            arguments = [last._get_xgb_parameters(labels) for last in lasts]
            requests = [Request(n, fold, *arguments[k]) for n, (k, fold) in enumerate(wanted)]
            gpu = gpus.take(rows.sparkSession, "trees")
            # A second task would hold all rows once more, on the same GPU.
            shares = dealt(requests, 1 if gpu else min(self._parallelism, len(requests)))
            training = Training(
                cells.trains, cells.validates, self._measure, classifies, of_one_fold, self._keep_models, gpu
            )
            ordered = prepared.withColumn(ORDINAL, F.monotonically_increasing_id())
            schema = from_arrow_schema(ANSWER)

            def answers(share: Sequence[Request]) -> list[Any]:
                return ordered.coalesce(1).mapInArrow(partial(training.run, requests=share), schema).collect()

            # A job of one task for each share: a union of single partitions would be a single partition again (SPARK-52921).
            with ThreadPool(len(shares)) as pool:
                found = pool.map(inheritable_thread_target(rows.sparkSession)(answers), shares)
        return sorted(chain.from_iterable(found), key=lambda row: int(row["number"]))


def _made(way: Route, config: str, booster: bytes, fitted: Sequence[Transformer]) -> Model:
    return way.model(fitted, trees.model_of(way.last, config, booster))


class _Labels:
    """Stands for the dataset where `xgboost.spark` counts its classes anew for each estimator: it is told what was counted once."""

    def __init__(self, counted: list[Any]) -> None:
        self._counted = counted

    def select(self, *_: Any) -> _Labels:
        return self

    def collect(self) -> list[Any]:
        return self._counted


def dealt(requests: Sequence[Request], tasks: int) -> list[list[Request]]:
    """A share for each task, of about equal work: the longest first, each to the task with least to do (Graham 1969)."""
    shares: list[list[Request]] = [[] for _ in range(max(tasks, 1))]
    heap = [(0.0, task) for task in range(len(shares))]
    for request in sorted(requests, key=lambda each: -each.work):
        work, task = heapq.heappop(heap)
        shares[task].append(request)
        heapq.heappush(heap, (work + request.work, task))
    return shares


def _classifies(estimator: Any) -> bool:
    return "Classifier" in type(estimator).__name__
