"""Cross-validation of `xgboost.spark`: the models of all folds and grid points over the binned rows of each fold, side by side.

Each of some tasks holds all rows and trains a share of the models, one thread a core; or rows are divided (`tree_division`). Feature stages that are fitted
make other features in each fold: then there is a job a fold.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from pyspark.ml import Model, Transformer
from pyspark.ml.evaluation import BinaryClassificationEvaluator, Evaluator, RegressionEvaluator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from models import any_estimator, boosters, data_parallel_trees, gpus, tree_division, tree_shares, trees
from models.any_estimator import FIT_ERRORS, Fit, Pairs, Route
from models.boosters import Request
from models.exact.driver import choice
from models.exact.driver.barrier import Unavailable
from models.exact.driver.cells import Cells
from models.exact.driver.linear_search import is_weighted
from models.folds import Folds
from models.halving import Halving, promise
from models.margins import Measure
from models.tree_division import Division
from models.tree_task import CELL, ORDINAL, Training
from transforms.errors import ModelError

log = logging.getLogger(__name__)


def knows(way: Route) -> bool:
    """Whether the estimator is one of `xgboost.spark`."""
    return type(way.last).__module__.startswith("xgboost.spark")


def ranks(way: Route) -> bool:
    """Whether the estimator is the one of `xgboost.spark` that learns to rank."""
    return knows(way) and type(way.last).__name__ == "SparkXGBRanker"


def reason_against(way: Route, evaluator: Evaluator) -> str | None:
    """Why a grid point goes the general path, None where its models can be trained together with others."""
    if way.last is None or not trees.applies(way.last):
        return "only features, label, weight and rows aside, one worker and CPUs are shared by boosted trees"
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
    halving: Halving | None = None,
) -> Generator[Fit]:
    """As `any_estimator.fits`, for routes that `reason_against` has nothing against.

    Args:
        frame: rows in canonical order; XGBoost's sums depend on the order of rows.
        parallelism: how many tasks may hold all rows at once.
        halving: which points go on after parts of their rounds; those of other feature stages do not compete with each other.
    """
    refused, sound = dict[int, Exception](), list[Route]()
    for k, way in enumerate(routes):
        try:
            _validate(way.last)
            sound.append(way)
        except FIT_ERRORS as error:
            refused[k] = error
    for k, fold in any_estimator.pairs(routes, folds, skip):
        if k in refused:
            yield Fit(routes[k].point, fold, None, 0.0, tree_division.WHOLE, refused[k])
    for members in any_estimator.alike(sound):
        wanted = any_estimator.pairs(members, folds, skip)
        if wanted:
            among = halving and halving.among(way.point for way in members)
            yield from _Search(members, folds, evaluator, parallelism, keep_models, among).fits(frame, wanted)


def division(way: Route, dataset: DataFrame, parallelism: int) -> Division | None:
    """How models or rows would be divided; of stages to be fitted, whose features are not known yet, only the fit can tell."""
    if way.is_fitted:
        return None
    last: Any = way.last
    try:
        prepared = trees.inputs(last, any_estimator.through(way.prefix, dataset))
    except FIT_ERRORS:  # the fit says it
        return None
    return tree_division.of_inputs(prepared, parallelism, binned=trees.is_binned(last))


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


@dataclass(frozen=True)
class _Rows:
    """Rows as tasks read them, of all folds or of one, after feature stages; `labels` stand for them where classes are counted."""

    frame: DataFrame
    labels: _Labels
    fitted: Sequence[Transformer]
    division: Division


@dataclass(frozen=True)
class _State:
    """How far a model is: what its task answered last, whether it has stopped early, and the feature stages before it."""

    value: float | None
    seconds: float
    half: float | None = None
    stopped: bool = False
    rounds: int | None = None
    error: Exception | None = None
    config: str = ""
    model: bytes = b""
    solver: str = tree_division.WHOLE
    fitted: Sequence[Transformer] = ()


class _Search:
    """Grid points of equal feature stages and columns."""

    def __init__(
        self,
        routes: Sequence[Route],
        folds: Folds,
        evaluator: Evaluator,
        parallelism: int,
        keep_models: bool,
        halving: Halving | None,
    ) -> None:
        self._routes, self._folds = routes, folds
        self._measure, self._larger_is_better = measure_of(evaluator), evaluator.isLargerBetter()
        self._parallelism, self._keep_models = parallelism, keep_models
        self._halving = halving
        self._kept, self._held = ExitStack(), dict[int | None, _Rows]()

    def fits(self, frame: DataFrame, wanted: Pairs) -> Iterator[Fit]:
        """Train all models to the end; with halving, part after part of their rounds, those that go on."""
        shares = self._halving.shares if self._halving else (1.0,)
        states = dict.fromkeys(wanted, _State(None, 0.0))
        by_fold = self._routes[0].is_fitted
        folds = sorted({fold for _, fold in wanted})
        with self._kept, any_estimator.cached(frame) if by_fold else nullcontext(frame) as base:
            for before, share in zip((0.0, *shares), shares, strict=False):
                for fold in folds if by_fold else [None]:
                    pairs = [pair for pair in states if fold in (None, pair[1])]
                    if not pairs:
                        continue
                    for pair, state in self._advanced(base, fold, pairs, states, (before, share)):
                        states[pair] = state
                        if share == 1 or state.error is not None:
                            yield self._fit(pair, states.pop(pair))
                going = self._going_on(share, states)
                for pair in [pair for pair in states if pair[0] not in going]:
                    yield replace(self._fit(pair, states.pop(pair)), share=share)

    def _advanced(
        self,
        frame: DataFrame,
        fold: int | None,
        pairs: Pairs,
        states: Mapping[tuple[int, int], _State],
        shares: tuple[float, float],
    ) -> Iterator[tuple[tuple[int, int], _State]]:
        """Some models and their states after a further part of their rounds, as they come."""
        started, left = time.monotonic(), dict.fromkeys(pairs)
        try:
            with self._at_hand(frame, fold) as rows:
                for pair, state in self._trained(rows, pairs, states, shares):
                    del left[pair]
                    yield pair, state
        except FIT_ERRORS as error:
            seconds = (time.monotonic() - started) / len(pairs)
            yield from [(pair, _State(None, states[pair].seconds + seconds, error=error)) for pair in left]

    @contextmanager
    def _at_hand(self, frame: DataFrame, fold: int | None) -> Iterator[_Rows]:
        """The rows of a fold, or of all; kept for the next part of the rounds where there is one."""
        if self._halving is None:
            with self._rows(frame, fold) as rows:
                yield rows
            return
        if fold not in self._held:
            self._held[fold] = self._kept.enter_context(self._rows(frame, fold))
        yield self._held[fold]

    @contextmanager
    def _rows(self, frame: DataFrame, fold: int | None) -> Iterator[_Rows]:
        """The rows of a fold, or of all, cached until the end of the context."""
        last: Any = self._routes[0].last
        if fold is None:
            fitted: Sequence[Transformer] = self._routes[0].prefix
            features = any_estimator.through(fitted, frame)
        else:
            features, fitted = any_estimator.features_of_fold(frame, self._folds, fold, self._routes[0])
        cell = Cells.of(self._folds).column.alias(CELL)
        with any_estimator.cached(trees.inputs(last, features, cell)) as prepared:
            # Reads all rows, in as many tasks as there are: those that train find them cached.
            counted = prepared.agg(F.count_distinct("label"), *tree_division.extent()).collect()
            extent = tree_division.counted(counted[0][1:])
            division = tree_division.of(frame.sparkSession, *extent, self._parallelism)
            ordered = prepared.withColumn(ORDINAL, F.monotonically_increasing_id())
            yield _Rows(ordered, _Labels(counted), fitted, division)

    def _trained(
        self,
        rows: _Rows,
        pairs: Pairs,
        states: Mapping[tuple[int, int], _State],
        shares: tuple[float, float],
    ) -> Iterator[tuple[tuple[int, int], _State]]:
        """The models after the rounds between two shares, as they come; one that has stopped early stays as it is."""
        lasts: list[Any] = [way.last for way in self._routes]
        arguments = [last._get_xgb_parameters(rows.labels) for last in lasts]
        requests = []
        for number, (k, fold) in enumerate(pairs):
            booster, rounds, matrix = arguments[k]
            before, after = (_rounds(rounds, share) for share in shares)
            state = states[k, fold]
            if before < after and (state.rounds or 0) == before:
                part = {**rounds, "num_boost_round": after - before}
                requests.append(Request(number, fold, booster, part, matrix, state.model or None))
            else:
                yield (k, fold), state
        for row in self._answers(rows, requests, is_last=shares[1] == 1) if requests else ():
            pair = pairs[row["number"]]
            _, boosting, _ = arguments[pair[0]]
            yield (
                pair,
                _State(
                    value=row["value"],
                    seconds=states[pair].seconds + row["seconds"],
                    half=row["half"],
                    stopped=(row["rounds"] or 0) < _rounds(boosting, shares[1]),
                    rounds=row["rounds"],
                    error=None if row["error"] is None else ModelError(row["error"]),
                    config=row["config"],
                    model=row["model"],
                    solver=row["solver"],
                    fitted=rows.fitted,
                ),
            )

    def _answers(self, rows: _Rows, requests: Sequence[Request], *, is_last: bool) -> Iterator[dict[str, Any]]:
        """A row of ANSWER for each model, with its `solver`: by tasks that hold all rows or by workers that hold a part."""
        spark, division, cells = rows.frame.sparkSession, rows.division, Cells.of(self._folds)
        classifies = _classifies(self._routes[0].last)
        keep = self._keep_models or not is_last
        training = Training(cells.trains, cells.validates, self._measure, classifies, keep, halves=not is_last)
        parted = [] if division.tasks else [each for each in requests if boosters.is_binned(each.booster)]
        whole = [each for each in requests if each not in parted]
        if parted:
            gpus.take(spark, "trees", against=tree_division.NOT_ON_GPU)
            try:
                answered = list(data_parallel_trees.answers(rows.frame, division.features, parted, training))
                yield from ({**answer, "solver": tree_division.DIVIDED} for answer in answered)
            except Unavailable as error:
                log.warning(tree_division.NEVERTHELESS, division.reason, error)
                whole = list(requests)
        if whole:
            training = replace(training, gpu=gpus.take(spark, "trees"))
            for row in tree_shares.answers(rows.frame, whole, training, division):
                yield {**row, "solver": tree_division.WHOLE}

    def _going_on(self, share: float, states: Mapping[tuple[int, int], _State]) -> set[int]:
        """Which of the routes go on; a point that failed in a fold, whose state is gone, does not."""
        if self._halving is None or share == 1:
            return set()
        sign = 1 if self._larger_is_better else -1
        promises: dict[int, dict[int, float]] = {}
        for (k, fold), state in states.items():
            promises.setdefault(self._routes[k].point, {})[fold] = sign * _promise(state, share)
        most = max((len(each) for each in promises.values()), default=0)
        whole = {point: each if len(each) == most else {0: np.nan} for point, each in promises.items()}
        going = self._halving.going_on(share, whole)
        return {k for k, _ in states if self._routes[k].point in going}

    def _fit(self, pair: tuple[int, int], state: _State) -> Fit:
        way, model = self._routes[pair[0]], None
        if self._keep_models and state.error is None:
            model = partial(_made, way, state)
        value = None if state.error else state.value
        return Fit(way.point, pair[1], value, state.seconds, state.solver, state.error, model, rounds=state.rounds)


def _promise(state: _State, share: float) -> float:
    """What a model may have at the end; one that has stopped early is there."""
    if state.value is None or state.half is None:
        return np.nan
    return state.value if state.stopped else promise(state.value, state.half, share)


def _rounds(rounds: Mapping[str, Any], share: float) -> int:
    """A share of the rounds of an estimator, rounded up."""
    return math.ceil(share * int(rounds.get("num_boost_round", 10)))


def _made(way: Route, state: _State) -> Model:
    return way.model(state.fitted, trees.model_of(way.last, state.config, state.model))


class _Labels:
    """Stands for the dataset where `xgboost.spark` counts its classes anew for each estimator: it is told what was counted once."""

    def __init__(self, counted: list[Any]) -> None:
        self._counted = counted

    def select(self, *_: Any) -> _Labels:
        return self

    def collect(self) -> list[Any]:
        return self._counted


def _validate(estimator: Any) -> None:
    """As `xgboost.spark` does; and it takes a number of rounds that makes no model.

    Raises:
        ValueError: a parameter is refused.
    """
    estimator._validate_params()
    if estimator.getOrDefault("n_estimators") < 1:
        raise ModelError(f"n_estimators is {estimator.getOrDefault('n_estimators')}; expected 1 or more.")


def _classifies(estimator: Any) -> bool:
    return "Classifier" in type(estimator).__name__
