"""The search of the job `train`: all candidates in file order, then a stack of them, trial by trial; resumed from the trials that are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial, reduce

import numpy as np
from pyspark.ml import Model, Pipeline
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.device_times import Models
from jobs.kept_rows import kept
from jobs.runs import Run
from jobs.trial_log import TrialLog
from models import grid_search, preprocessing, rounds, search, stacking
from models.folds import Folds
from models.search import Plan, Point
from models.trials import Trial, TuningResult, failed, failures
from transforms.errors import ModelError

# Threads that fit grid points of one fold side by side; beyond the cores they only wait.
MOST_PARALLEL = 8


@dataclass(frozen=True)
class Winner:
    """The best point of a candidate, or of all.

    Attributes:
        values: its metric in each fold.
        fit: makes its model of rows.
        of_fold: makes its model of a fold, anew where this run did not fit it.
    """

    point: Point
    estimator: str
    values: tuple[float, ...]
    fit: Callable[[DataFrame], Model]
    of_fold: Callable[[int], Model]

    @property
    def mean(self) -> float:
        """Mean over the folds."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        """Population standard deviation over the folds."""
        return float(np.std(self.values))


def try_all(
    run: Run,
    rows: DataFrame,
    plans: list[Plan],
    pipelines: Mapping[str, Pipeline],
    log: TrialLog,
    models: Models,
    held: ExitStack,
) -> tuple[Winner, list[TuningResult]]:
    """Try all candidates in file order, then a stack of them; of equally good points the first one wins.

    Args:
        models: are told how long they took.
        held: holds what the winner's model is made of.

    Raises:
        ModelError: no point of any candidate could be fitted in every fold.
    """
    spec, folds = run.pipeline.train, folds_of(run)
    results: dict[str, TuningResult] = {}
    best: dict[str, Winner] = {}
    evaluator = search.evaluator(spec.metric, run.pipeline.task)
    counts = [rounds.points_of(spec, plan) for plan in plans]
    steps = _Steps(run, (sum(counts) + (len(stacking.PENALTIES) if spec.stack else 0)) * folds.count)

    def on_trial(trial: Trial) -> None:
        log.add(trial)
        steps.done += 1
        steps.show()

    def tried(plan: Plan, known: list[Trial]) -> TuningResult:
        steps.done = steps.before + sum(trial.error is None for trial in known)
        wanted = grid_search.Search(
            estimator=pipelines[plan.candidate],
            grid=plan.grid,
            evaluator=evaluator,
            folds=folds,
            candidate=plan.candidate,
            metric=spec.metric,
            parameters=[point.parameters for point in plan.points],
            parallelism=min(MOST_PARALLEL, run.spark.sparkContext.defaultParallelism),
            halving=plan.spec.halving,
            since=plan.since,
        )
        started = time.monotonic()
        result = grid_search.tune(wanted, rows, known=known, on_trial=on_trial, on_pass=steps.passed, keep_models=True)
        # What failed took no time that tells anything, and what is left of a search that shares its passes takes as many as the whole.
        whole = not log.known(plan.candidate) and all(trial.error is None for trial in result.trials)
        models.add(time.monotonic() - started, len(result.trials) - len(known) if whole else 0)
        log.flush()
        return result

    def take(name: str, result: TuningResult, winner: Winner | None) -> None:
        # Models are kept of the best point alone.
        results[name] = TuningResult(result.trials, result.scores, result.larger_is_better)
        if winner is not None and (name not in best or _is_better(winner, best[name], result)):
            best[name] = winner
        if best:
            first = _first(best.values(), result)
            steps.best = f"{first.mean:.5f} {described(first.point)}"
            steps.show()

    budget = rounds.Budget(spec.search.minutes)
    for plan in plans:
        steps.before = steps.done
        for grown, result in rounds.of(spec, plan, log.known(plan.candidate), tried, budget):
            take(plan.candidate, result, _best_of(folds, rows, pipelines[plan.candidate], grown, result))
        for sentence in failed(results[plan.candidate].trials):
            run.progress.message(f"train: {sentence}")
    if not best:
        raise ModelError(failures(tuple(trial for result in results.values() for trial in result.trials)))
    if spec.stack and len(best) > 1:
        stack = _stack(run, rows, best, _first(best.values(), result), held)
        result = stack.tune(evaluator, spec.metric, known=log.known(stacking.NAME), on_trial=on_trial)
        log.flush()
        take(stacking.NAME, result, _best_of_stack(stack, rows, result))
        for sentence in failed(result.trials):
            run.progress.message(f"train: {sentence}")
    return _first(best.values(), result), list(results.values())


def _is_better(one: Winner, other: Winner, result: TuningResult) -> bool:
    return one.mean > other.mean if result.larger_is_better else one.mean < other.mean


def _first(winners: Iterable[Winner], result: TuningResult) -> Winner:
    """The best, the first of equals."""
    return reduce(lambda best, other: other if _is_better(other, best, result) else best, winners)


def _best_of(folds: Folds, rows: DataFrame, pipeline: Pipeline, plan: Plan, result: TuningResult) -> Winner | None:
    """The best point of a candidate, None where none came through; models of an interrupted run are fitted again."""
    best = result.best
    if best is None:
        return None
    extra = plan.grid[best]
    models = {fold: model for (point, fold), model in result.models.items() if point == best}

    @cache
    def of_fold(fold: int) -> Model:
        return models[fold]() if fold in models else grid_search.fit(pipeline, extra, rows.where(folds.trains(fold)))

    fit = partial(grid_search.fit, pipeline, extra)
    return Winner(plan.points[best], plan.spec.estimator, tuple(result.scores[best].tolist()), fit, of_fold)


def _stack(run: Run, rows: DataFrame, best: Mapping[str, Winner], first: Winner, held: ExitStack) -> stacking.Stack:
    """The best points of all candidates, and what they say of rows that they did not train on."""
    run.progress.message(f"train: stacking {', '.join(described(winner.point) for winner in best.values())}")
    members = {
        name: stacking.Member(name, described(winner.point), winner.values, winner.of_fold, winner.fit)
        for name, winner in best.items()
    }
    folds, scale = folds_of(run), 1.0
    said = held.enter_context(kept(stacking.said(list(members.values()), rows, folds)))
    if run.pipeline.task == "regression":
        scale = float(rows.agg(F.stddev(preprocessing.LABEL)).collect()[0][0])
    return stacking.Stack(
        tuple(members.values()), said, folds, run.pipeline.task, members[first.point.candidate], scale
    )


def _best_of_stack(stack: stacking.Stack, rows: DataFrame, result: TuningResult) -> Winner | None:
    best = result.best
    if best is None:
        return None
    point = Point(stacking.NAME, best, stack.parameters[best])
    of_fold = partial(stack.of_fold, result, best, rows)
    return Winner(point, stacking.NAME, tuple(result.scores[best].tolist()), partial(stack.fit, best), of_fold)


@dataclass
class _Steps:
    """How far a search is, for those who watch."""

    run: Run
    total: int
    done: int = 0
    best: str = ""
    before: int = 0  # of `done`, those of the candidates before

    def show(self, doing: str = "") -> None:
        self.run.progress.advance(self.done, self.total, self.best, doing)

    def passed(self, number: int, moving: int) -> None:
        """After a pass over the rows that several fits share."""
        self.show(f"pass {number}, {moving} models still move")


def folds_of(run: Run) -> Folds:
    """The folds of the pipeline file."""
    folds = run.pipeline.split.folds
    if folds.kind == "time":
        return Folds(folds.count, "fold", "earlier", "train_from")
    return Folds(folds.count, "fold")


def described(point: Point) -> str:
    """A point, for people."""
    settings = ", ".join(f"{name}={value}" for name, value in point.parameters.items())
    return f"{point.candidate}({settings})"
