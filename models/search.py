"""From the `train` block of a pipeline file to estimators, grids and evaluators; every mistake in it is one sentence.

`estimator` is a short name or the dotted path of a class below `pyspark.ml` or `xgboost.spark` that predicts a label (and, for a
classification task, gives probabilities). Parameters are written in snake_case: `reg_param` is MLlib's `regParam`.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from pyspark.errors import IllegalArgumentException
from pyspark.ml import Estimator, Pipeline
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    Evaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.param import Param

from conf.candidates import Candidate, Range
from conf.schema import SMALLER_IS_BETTER, Train
from models import preprocessing
from models.preprocessing import Design, Profile
from transforms.errors import ConfigError

# short name -> task -> class
SHORT_NAMES: Mapping[str, Mapping[str, str]] = {
    "logistic_regression": dict.fromkeys(("binary", "multiclass"), "pyspark.ml.classification.LogisticRegression"),
    "linear_regression": {"regression": "pyspark.ml.regression.LinearRegression"},
    "boosted_trees": {
        "binary": "xgboost.spark.SparkXGBClassifier",
        "multiclass": "xgboost.spark.SparkXGBClassifier",
        "regression": "xgboost.spark.SparkXGBRegressor",
    },
    "random_forest": {
        "binary": "pyspark.ml.classification.RandomForestClassifier",
        "multiclass": "pyspark.ml.classification.RandomForestClassifier",
        "regression": "pyspark.ml.regression.RandomForestRegressor",
    },
}
ROOTS = ("pyspark.ml.", "xgboost.spark.")
# One worker and no random shuffle: XGBoost then depends on the canonical order of rows alone.
BOOSTED_FIXED = {"num_workers": 1, "repartition_random_shuffle": False, "force_repartition": False}
_EVALUATORS: Mapping[str, Mapping[str, Any]] = {
    "log_loss": {"metricName": "logLoss"},
    "accuracy": {"metricName": "accuracy"},
    "weighted_precision": {"metricName": "weightedPrecision"},
    "weighted_recall": {"metricName": "weightedRecall"},
}


@dataclass(frozen=True)
class Point:
    """One point of a candidate's grid, in the order of the pipeline file; the last parameter varies fastest."""

    candidate: str
    index: int
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A candidate ready to be fitted: its estimator with fixed parameters set, and the grid over it; a space begins without points.

    `spec` is the candidate as the file has it, `since` the first of the points that were drawn last.
    """

    candidate: str
    spec: Candidate
    estimator: Estimator[Any]
    points: tuple[Point, ...]
    grid: tuple[dict[Param[Any], Any], ...]
    design: Design
    since: int = 0

    @property
    def stops_early(self) -> bool:
        """Whether rows that are set aside tell when to stop."""
        return "early_stopping_rounds" in {*self.spec.params, *self.spec.grid, *self.spec.space}

    def with_points(self, drawn: Iterable[Mapping[str, Any]]) -> Plan:
        """The plan with further points at the end of its grid."""
        parameters = [dict(each) for each in drawn]
        first = len(self.points)
        more = tuple(Point(self.candidate, first + i, each) for i, each in enumerate(parameters))
        grid = []
        for each in parameters:
            trial = self.estimator.copy()
            for key, value in each.items():
                trial._set(**{str(_parameter(trial, key)): value})
            grid.append(_grid_point(self.estimator, trial, each))
        return replace(self, points=(*self.points, *more), grid=(*self.grid, *grid), since=first)

    def pipeline(self, profile: Profile, impute: str) -> Pipeline:
        """Feature stages, then the estimator."""
        estimator = self.estimator
        if estimator.hasParam("maxBins") and not estimator.isSet(estimator.getParam("maxBins")):
            estimator = estimator.copy()
            estimator._set(maxBins=preprocessing.max_bins(profile))
        return Pipeline(stages=[*preprocessing.stages(profile, self.design, impute), estimator])


def plans(train: Train, task: str) -> list[Plan]:
    """Candidates with their estimators and grids; none where they are chosen by data that have not been looked at.

    Raises:
        ConfigError: an estimator is unknown or does not fit the task, or a parameter is unknown or has a wrong type; all are listed.
    """
    made: list[Plan] = []
    problems: list[str] = []
    for name, candidate in train.named.items():
        try:
            made.append(_plan(name, candidate, task, train.seed))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return made


def evaluator(metric: str, task: str) -> Evaluator:
    """MLlib's evaluator for a metric of the pipeline file, exact where MLlib approximates by default.

    `f1` is that of the positive class for a binary task, and weighted by class for a multiclass one.
    """
    if metric in ("area_under_roc", "area_under_pr"):
        name = {"area_under_roc": "areaUnderROC", "area_under_pr": "areaUnderPR"}[metric]
        # The default of 1000 bins changes with the partitioning.
        return BinaryClassificationEvaluator(metricName=name, numBins=0)  # type: ignore[arg-type]
    if task == "regression":
        return RegressionEvaluator(metricName=metric)  # type: ignore[arg-type]
    if metric == "f1":
        binary = {"metricName": "fMeasureByLabel", "metricLabel": 1.0}
        return MulticlassClassificationEvaluator(**(binary if task == "binary" else {"metricName": "f1"}))
    return MulticlassClassificationEvaluator(**_EVALUATORS[metric])


def larger_is_better(metric: str) -> bool:
    """Direction of a metric."""
    return metric not in SMALLER_IS_BETTER


def _points(name: str, candidate: Candidate) -> list[Point]:
    combinations = itertools.product(*candidate.grid.values()) if not candidate.space else ()
    return [Point(name, i, dict(zip(candidate.grid, values, strict=True))) for i, values in enumerate(combinations)]


def _plan(name: str, candidate: Candidate, task: str, seed: int) -> Plan:
    where = f"train.candidates.{name}"
    estimator = _estimator(f"{where}.estimator", candidate.estimator, task)
    problems = []
    for key, value in candidate.params.items():
        problems += _set(estimator, f"{where}.params.{key}", key, value)
    try:
        estimator.copy()
    except IllegalArgumentException as error:  # MLlib compares a value with its range when it is handed to the JVM
        raise ConfigError(f"{where}.params: {str(error).strip().splitlines()[0]}") from error
    grid = []
    for point in _points(name, candidate):
        trial = estimator.copy()
        found = [p for key, value in point.parameters.items() for p in _set(trial, f"{where}.grid.{key}", key, value)]
        problems += [problem for problem in found if problem not in problems]
        if not found:
            # Whether MLlib takes the value is for the trial to find out: one failing point is a row, not the end.
            grid.append(_grid_point(estimator, trial, point.parameters))
    for key, values in candidate.space.items():
        for value in _drawable(values):
            found = _set(estimator.copy(), f"{where}.space.{key}", key, value)
            problems += [problem for problem in found if problem not in problems]
    if problems:
        raise ConfigError(problems)
    if candidate.halving is not None and _design(estimator) is not Design.BOOSTED:
        raise ConfigError(
            f"{where}.halving: {type(estimator).__name__} does not grow round by round, as boosted_trees do. Remove it."
        )
    for key in ("seed", "random_state"):
        if estimator.hasParam(key) and not estimator.isSet(estimator.getParam(key)):
            estimator._set(**{key: seed})
    plan = Plan(name, candidate, estimator, tuple(_points(name, candidate)), tuple(grid), _design(estimator))
    if plan.stops_early:
        estimator._set(validationIndicatorCol=preprocessing.ASIDE)
    return plan


def _drawable(values: Range | tuple[Any, ...]) -> tuple[Any, ...]:
    """What shows whether a parameter takes whatever may be drawn: both ends, and between two that are not whole a fraction."""
    if isinstance(values, tuple):
        return values
    ends = values.low, values.high
    return ends if values.is_whole else (*ends, ends[0] + (ends[1] - ends[0]) / math.e)


def _grid_point(
    estimator: Estimator[Any], trial: Estimator[Any], parameters: Mapping[str, Any]
) -> dict[Param[Any], Any]:
    """The values of parameters as `trial`, a copy that they were set in, holds them."""
    params = [estimator.getParam(str(_parameter(estimator, key))) for key in parameters]
    return {param: trial.getOrDefault(trial.getParam(param.name)) for param in params}


def _estimator(where: str, name: str, task: str) -> Estimator[Any]:
    """An instance of the class that a short name or dotted path stands for."""
    if name in SHORT_NAMES:
        by_task = SHORT_NAMES[name]
        if task not in by_task:
            others = ", ".join(short for short, tasks in SHORT_NAMES.items() if task in tasks)
            raise ConfigError(f"{where}: '{name}' does not predict a {task} label. Use one of {others}.")
        return _instance(by_task[task])
    if "." not in name:
        raise ConfigError(
            f"{where}: expected {', '.join(SHORT_NAMES)} or a dotted path, found '{name}'.{_hint(name, SHORT_NAMES)}"
        )
    if not name.startswith(ROOTS):
        raise ConfigError(
            f"{where}: '{name}' is refused: a dotted path names a class below pyspark.ml or xgboost.spark."
        )
    try:
        estimator = _instance(name)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{where}: '{name}' cannot be used: {error}. Name an estimator class, such as pyspark.ml.classification.FMClassifier."
        ) from error
    if not isinstance(estimator, Estimator) or not all(
        estimator.hasParam(p) for p in ("featuresCol", "labelCol", "predictionCol")
    ):
        raise ConfigError(f"{where}: '{name}' does not learn to predict a label. Name a classifier or a regressor.")
    if estimator.hasParam("classifier"):
        raise ConfigError(f"{where}: '{name}' wraps another estimator. Name that estimator itself.")
    gives_probabilities = estimator.hasParam("probabilityCol")
    if task != "regression" and not gives_probabilities:
        raise ConfigError(
            f"{where}: '{name}' gives no probabilities, which a {task} task needs. Use another, such as logistic_regression."
        )
    if task == "regression" and estimator.hasParam("rawPredictionCol"):
        raise ConfigError(
            f"{where}: '{name}' is a classifier; the task is regression. Use a regressor, such as linear_regression."
        )
    return estimator


def _instance(path: str) -> Estimator[Any]:
    module, _, name = path.rpartition(".")
    estimator: Estimator[Any] = getattr(importlib.import_module(module), name)()
    if path.startswith("xgboost."):
        estimator._set(**BOOSTED_FIXED)
    return estimator


def _set(estimator: Estimator[Any], where: str, key: str, value: Any) -> list[str]:
    """Set one parameter; what is wrong with it, if anything."""
    name = _parameter(estimator, key)
    if name is None:
        known = [_snake(param.name) for param in estimator.params if not _reserved(param.name)]
        return [f"{where}: {type(estimator).__name__} has no parameter '{key}'.{_hint(key, known)}"]
    if _reserved(name):
        return [f"{where}: '{key}' is set by millrace. Remove it."]
    try:
        estimator._set(**{name: value})
    except TypeError as error:
        return [f"{where}: {value!r} does not fit: {str(error).strip().rstrip('.')}."]
    return []


def _parameter(estimator: Estimator[Any], key: str) -> str | None:
    """The estimator's own name of a parameter: as written, or in camelCase."""
    camel = re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), key)
    return next((name for name in (key, camel) if estimator.hasParam(name)), None)


def _reserved(name: str) -> bool:
    """Columns and their types, the seed (`train.seed`) and what makes XGBoost repeatable are not the file's to set."""
    fixed = ("seed", "random_state", "feature_types", *BOOSTED_FIXED)
    return name.lower().endswith(("col", "cols")) or name in fixed


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)


def _hint(word: str, known: Iterable[str]) -> str:
    known = list(known)
    nearest = get_close_matches(word, known, n=1) or [name for name in known if name.startswith(word)]
    return f" Did you mean '{nearest[0]}'?" if nearest else ""


def _design(estimator: Estimator[Any]) -> Design:
    if type(estimator).__module__.startswith("xgboost."):
        return Design.BOOSTED
    if estimator.hasParam("maxBins"):
        return Design.TREES
    return Design.LINEAR if estimator.hasParam("standardization") else Design.SCALED
