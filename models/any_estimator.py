"""The general path of cross-validation: any MLlib estimator or Pipeline, each model by its own `fit`.

What stock `CrossValidator` repeats is done once: stages before the last estimator are fitted once a fold for all grid points
that share them, their output is cached once, cut down to the columns that the last estimator and the evaluator read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain, takewhile
from multiprocessing.pool import ThreadPool
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark import inheritable_thread_target
from pyspark.errors import PySparkException
from pyspark.ml import Estimator, Model, Pipeline, PipelineModel, Transformer
from pyspark.ml.classification import FMClassifier, OneVsRest
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasWeightCol
from pyspark.ml.regression import FMRegressor
from pyspark.ml.util import MetaAlgorithmReadWrite
from pyspark.ml.wrapper import JavaParams
from pyspark.sql import DataFrame, SparkSession
from pyspark.storagelevel import StorageLevel

from models import rapids_ml, trees
from models.folds import Folds

SOLVER = "general"
# What an estimator, an evaluator or Spark under them raises for a point that does not work; a bug of ours is none of these.
FIT_ERRORS = (PySparkException, Py4JJavaError, ValueError, TypeError, ArithmeticError)
ParamMap = Mapping[Param[Any], Any]
Pairs = Sequence[tuple[int, int]]  # (index among some routes, fold)


@dataclass(frozen=True)
class Fit:
    """One grid point on one fold. `value` is the evaluator's, None when `error` says why; `model` makes the model, where it was asked for.

    Few models of a search are ever used, and making one may take stages that are fitted for it. `rounds` are those of boosting; `share` is
    below 1 where better points kept this one from its last rounds.
    """

    point: int
    fold: int
    value: float | None
    seconds: float
    solver: str
    error: Exception | None = None
    model: Callable[[], Model] | None = None
    rounds: int | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Route:
    """The stages that a grid point runs through: `prefix` before the last estimator, which `keys` compare, and `tail` after it.

    Its model is a `PipelineModel` if `is_pipeline`, else that of `last` alone.
    """

    point: int
    extra: ParamMap
    prefix: tuple[Any, ...]
    keys: tuple[Any, ...]
    last: Estimator[Any] | None
    tail: tuple[Transformer, ...]
    is_pipeline: bool

    @property
    def is_fitted(self) -> bool:
        """Whether a feature stage is fitted."""
        return any(isinstance(stage, Estimator) for stage in self.prefix)

    def model(self, fitted: Sequence[Transformer], last: Model) -> Model:
        """The model of fitted feature stages and of the last estimator."""
        return PipelineModel([*fitted, last, *self.tail]) if self.is_pipeline else last

    @property
    def solver(self) -> str:
        return trees.SOLVER if self.last is not None and trees.applies(self.last) else SOLVER


def route(estimator: Estimator[Any], point: int, extra: ParamMap) -> Route:
    """Split an estimator with one grid point's parameters set."""
    if type(estimator) is not Pipeline:
        return Route(point, extra, (), (), _copied(estimator, extra), (), False)
    # As Pipeline.copy, but for stages that the point says nothing about.
    whole = Params.copy(estimator, dict(extra))
    stages = [_copied(stage, extra) if _set_in(stage, extra) else stage for stage in whole.getStages()]
    at = max((i for i, stage in enumerate(stages) if isinstance(stage, Estimator)), default=len(stages))
    prefix, rest = tuple(stages[:at]), stages[at:]
    keys = tuple(_stage_key(stage, extra) for stage in prefix)
    return Route(point, extra, prefix, keys, rest[0] if rest else None, tuple(rest[1:]), True)  # type: ignore[arg-type]


def _copied(stage: Any, extra: ParamMap) -> Any:
    """As `stage.copy`, which sets every parameter in the JVM, some 50 calls of it, as each use of the copy does again.

    What MLlib refuses of `extra` is refused here, the stage's own values when the copy is used.
    """
    if not isinstance(stage, JavaParams) or type(stage).copy is not JavaParams.copy:
        return stage.copy(dict(extra))
    companion = stage._java_obj.copy(stage._empty_java_param_map())  # type: ignore[union-attr]
    copied: Any = Params.copy(stage, dict(extra))
    copied._java_obj = companion
    for param in _set_in(stage, extra):
        companion.set(copied._make_java_param_pair(param, extra[param]))
    return copied


def check_values(estimator: Any) -> None:
    """Let MLlib refuse values that were set on the estimator itself; `route` has it refuse those of a grid point.

    Raises:
        IllegalArgumentException: a value is out of range.
    """
    estimator._transfer_params_to_java()


def alike(routes: Sequence[Route]) -> list[list[Route]]:
    """Groups of equal feature stages, and of equal class and columns of the last estimator."""
    groups: dict[Any, list[Route]] = {}
    for way in routes:
        aside = trees.value_of(way.last, "validationIndicatorCol")
        groups.setdefault((way.keys, type(way.last), columns(way.last), aside), []).append(way)
    return list(groups.values())


def columns(estimator: Any) -> tuple[Any, ...]:
    """Features, label and weight, None where there is none."""
    return tuple(trees.value_of(estimator, name) for name in ("featuresCol", "labelCol", "weightCol"))


def who_ignores_weights(estimator: Any) -> str | None:
    """The class in MLlib for which weights that are asked for come to nothing: factorization machines have the parameter and never read it."""
    last = estimator.getClassifier() if isinstance(estimator, OneVsRest) else estimator
    reads = isinstance(last, HasWeightCol) and not isinstance(last, (FMClassifier, FMRegressor))
    if reads or not isinstance(estimator, (OneVsRest, FMClassifier, FMRegressor)) or not columns(estimator)[2]:
        return None
    return type(last).__name__


def pairs(routes: Sequence[Route], folds: Folds, skip: Collection[tuple[int, int]]) -> Pairs:
    """What is to be fitted, fold after fold; `skip` names grid points."""
    return [(k, f) for f in range(folds.count) for k, way in enumerate(routes) if (way.point, f) not in skip]


def features_of_fold(frame: DataFrame, folds: Folds, fold: int, way: Route) -> tuple[DataFrame, list[Transformer]]:
    """The rows of one fold after the feature stages, which have been fitted on its training rows; and these stages."""
    rows = frame.filter(folds.trains(fold) | folds.validates(fold))
    memo: dict[Any, Transformer] = {}
    _, features = advance((rows.filter(folds.trains(fold)), rows), way, range(len(way.prefix)), memo)
    return features, list(memo.values())


def failed(routes: Sequence[Route], todo: Pairs, seconds: float, error: Exception, solver: str) -> Iterator[Fit]:
    """The same error for all of several fits, which share the time that it took."""
    for k, fold in todo:
        yield Fit(routes[k].point, fold, None, seconds / len(todo), solver, error)


def fit_whole(way: Route, frame: DataFrame) -> Model:
    """Fit one grid point on all rows of a frame."""
    memo: dict[Any, Transformer] = {}
    rows, _ = advance((frame, frame), way, range(len(way.prefix)), memo)
    with cached(_pruned(rows, way, None)) if way.prefix else nullcontext(rows) as prepared:
        return _assembled(way, memo, _fit_last(way, prepared))


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
    """Fit and evaluate every grid point on every fold; folds in order, points of a fold as they finish.

    Args:
        skip: (point, fold) pairs not to fit.
        keep_models: hand over what makes each model.

    Raises:
        NoGpu: GPUs are required, and an estimator that spark-rapids-ml knows cannot be fitted on one.
    """
    wanted = {fold: [way for way in routes if (way.point, fold) not in skip] for fold in range(folds.count)}
    if not any(wanted.values()):
        return
    require_gpus(frame.sparkSession, routes)
    with cached(frame) as base:
        for fold, ways in wanted.items():
            if ways:
                rows = base.filter(folds.trains(fold)), base.filter(folds.validates(fold))
                yield from _fold(rows, fold, ways, evaluator, parallelism, keep_models)


def require_gpus(spark: SparkSession, routes: Iterable[Route]) -> None:
    """Before any fit: where GPUs are required, make sure that all stages that spark-rapids-ml knows can be fitted on one.

    Raises:
        NoGpu: they cannot.
    """
    for stage in chain.from_iterable((*way.prefix, way.last) for way in routes):
        if rapids_ml.knows(stage):
            rapids_ml.choose(spark, stage)


@contextmanager
def cached(frame: DataFrame) -> Iterator[DataFrame]:
    """The frame in memory (disk where that is short), let go afterwards; as it is when the caller has it cached already."""
    if frame.storageLevel != StorageLevel.NONE:
        yield frame
        return
    persisted = frame.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield persisted
    finally:
        persisted.unpersist()


def _fold(
    rows: tuple[DataFrame, DataFrame],
    fold: int,
    wanted: list[Route],
    evaluator: Evaluator,
    parallelism: int,
    keep: bool,
) -> Iterator[Fit]:
    """One fold: the prefix that all points share, then each group of points with equal prefixes."""
    groups: dict[tuple[Any, ...], list[Route]] = {}
    for way in wanted:
        groups.setdefault(way.keys, []).append(way)
    shared = _shared_length(list(groups))
    memo: dict[Any, Transformer] = {}
    with ExitStack() as stack:
        started = time.monotonic()
        try:
            train, valid = advance(rows, wanted[0], range(shared), memo)
        except FIT_ERRORS as error:
            yield from (_failed(way, fold, started, error) for way in wanted)
            return
        if shared and len(groups) > 1:
            train, valid = stack.enter_context(cached(train)), stack.enter_context(cached(valid))
        for group in groups.values():
            yield from _group((train, valid), shared, memo, fold, group, evaluator, parallelism, keep)


def _group(
    rows: tuple[DataFrame, DataFrame],
    start: int,
    memo: dict[Any, Transformer],
    fold: int,
    group: list[Route],
    evaluator: Evaluator,
    parallelism: int,
    keep: bool,
) -> Iterator[Fit]:
    """Points that differ in the last estimator only: fit the rest of their prefix, cache its output, fit them in threads."""
    started = time.monotonic()
    way = group[0]
    try:
        train, valid = advance(rows, way, range(start, len(way.prefix)), memo)
    except FIT_ERRORS as error:
        yield from (_failed(other, fold, started, error) for other in group)
        return
    with ExitStack() as stack:
        if way.prefix:
            train = stack.enter_context(cached(_pruned(train, way, evaluator)))
            valid = stack.enter_context(cached(_pruned(valid, way, evaluator)))

        def one(route: Route) -> Fit:
            return _fit_and_evaluate(route, (train, valid), memo, fold, evaluator, keep)

        pool = stack.enter_context(ThreadPool(max(1, min(parallelism, len(group)))))
        threaded = inheritable_thread_target(train.sparkSession)(one)
        # Grids are listed from small to large: the last point takes longest, and should not be left alone at the end.
        yield from pool.imap_unordered(threaded, reversed(group))


def _fit_and_evaluate(
    way: Route,
    rows: tuple[DataFrame, DataFrame],
    memo: dict[Any, Transformer],
    fold: int,
    evaluator: Evaluator,
    keep: bool,
) -> Fit:
    started = time.monotonic()
    train, predictions = rows
    try:
        last = _fit_last(way, train)
        for transformer in (*last, *way.tail):
            predictions = transformer.transform(predictions, dict(way.extra))
        value = float(evaluator.evaluate(predictions))
    except FIT_ERRORS as error:
        return _failed(way, fold, started, error)
    model = partial(_assembled, way, memo, last) if keep else None
    return Fit(way.point, fold, value, time.monotonic() - started, way.solver, None, model)


def _fit_last(way: Route, frame: DataFrame) -> list[Transformer]:
    return [] if way.last is None else [fitted(way.last, frame)]


def fitted(stage: Estimator[Any], frame: DataFrame) -> Any:
    """The model of one stage: of boosted trees without a barrier, of others by their own fit, or on a GPU."""
    if trees.applies(stage):
        return trees.fit(stage, frame)
    if rapids_ml.knows(stage) and rapids_ml.take(frame.sparkSession, stage):
        return rapids_ml.fit(stage, frame)
    return stage.fit(frame)


def _assembled(way: Route, memo: Mapping[Any, Transformer], last: list[Transformer]) -> Model:
    if not way.is_pipeline:
        return last[0]  # type: ignore[return-value]
    prefix = [memo[way.keys[: i + 1]] for i in range(len(way.prefix))]
    return PipelineModel([*prefix, *last, *way.tail])


def _failed(way: Route, fold: int, started: float, error: Exception) -> Fit:
    return Fit(way.point, fold, None, time.monotonic() - started, way.solver, error)


def through(transformers: Sequence[Transformer], rows: DataFrame) -> DataFrame:
    """The rows with what transformers make of them, one after the other."""
    return reduce(lambda frame, stage: stage.transform(frame), transformers, rows)


def advance(
    rows: tuple[DataFrame, DataFrame], way: Route, steps: range, memo: dict[Any, Transformer]
) -> tuple[DataFrame, DataFrame]:
    """Training and validation rows through some stages of the prefix, fitted on the training rows unless `memo` has them."""
    train, valid = rows
    for step in steps:
        key, stage = way.keys[: step + 1], way.prefix[step]
        if key not in memo:
            memo[key] = fitted(stage, train) if isinstance(stage, Estimator) else stage
        train, valid = memo[key].transform(train), memo[key].transform(valid)
    return train, valid


def _shared_length(keys: Sequence[tuple[Any, ...]]) -> int:
    """How many leading stages are equal in all prefixes."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*keys, strict=False)))


def _stage_key(stage: Params, extra: ParamMap) -> tuple[Any, ...]:
    """Two stages are fitted alike when they come from one stage and the grid sets the same of their parameters."""
    return (stage.uid, *sorted((p.parent, p.name, _value_key(extra[p])) for p in _set_in(stage, extra)))


def _set_in(stage: Params, extra: ParamMap) -> list[Param[Any]]:
    """The parameters of a grid point that belong to a stage, or to an estimator inside it."""
    owned = MetaAlgorithmReadWrite.getUidMap(stage)
    return [param for param in extra if param.parent in owned]


def _value_key(value: Any) -> str:
    """Plain values compare by content, anything else (an array's text may be shortened) by being the same object."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return repr([_value_key(item) for item in value])
    return f"{type(value).__name__}@{id(value)}"


def _pruned(frame: Any, way: Route, evaluator: Evaluator | None) -> Any:
    """Only the columns that MLlib's last estimator and evaluator name; all of them where others may read more."""
    readers = [reader for reader in (way.last, evaluator) if reader is not None]
    ours = ("pyspark.ml.classification", "pyspark.ml.regression", "pyspark.ml.evaluation", "xgboost.spark")
    if way.tail or way.last is None or not all(type(reader).__module__.startswith(ours) for reader in readers):
        return frame
    named: set[str] = set()
    for reader in readers:
        for param in reader.params:
            if param.name.lower().endswith(("col", "cols")) and reader.isDefined(param):
                value = reader.getOrDefault(param)
                named.update(value if isinstance(value, (list, tuple)) else [value])
    return frame.select(*(name for name in frame.columns if name in named))
