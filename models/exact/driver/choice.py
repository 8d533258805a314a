"""Whether a grid point has an exact solver, decided from its parameters before anything is read."""

from __future__ import annotations

from typing import Any

from pyspark.ml import Estimator
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    Evaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.regression import LinearRegression

LINEAR, LOGISTIC = "exact linear regression", "exact logistic regression"

# Fewer iterations or a looser tolerance than MLlib's defaults ask for a fit that has not converged.
MAX_ITER, TOL = 100, 1e-6

_BOUNDS = (
    "lowerBoundsOnCoefficients",
    "upperBoundsOnCoefficients",
    "lowerBoundsOnIntercepts",
    "upperBoundsOnIntercepts",
)


def solver(estimator: Estimator[Any] | None) -> str | None:
    """Which exact solver knows the estimator at all."""
    if type(estimator) is LinearRegression:
        return LINEAR
    return LOGISTIC if type(estimator) is LogisticRegression else None


def reason_against(
    estimator: Estimator[Any] | None, evaluator: Evaluator | None, *, insist: bool = False
) -> str | None:
    """Why a fit and its evaluation must go the general path, None where an exact solver gives the same answer.

    Args:
        evaluator: None for a fit that is not evaluated.
        insist: find the optimum although fewer iterations or a looser tolerance are set.
    """
    if solver(estimator) is None:
        return f"no exact solver knows {type(estimator).__name__}"
    assert estimator is not None
    if not insist:
        for name, loose in (
            ("maxIter", _value(estimator, "maxIter") < MAX_ITER),
            ("tol", _value(estimator, "tol") > TOL),
        ):
            if estimator.isSet(name) and loose:
                return f"{name} is {_value(estimator, name)}, which asks for a fit that may not have converged; exact=True overrides"
    if isinstance(estimator, LinearRegression) and estimator.getLoss() != "squaredError":
        return f"loss {estimator.getLoss()} is no sum of squares"
    if isinstance(estimator, LogisticRegression) and any(estimator.isSet(name) for name in _BOUNDS):
        return "bounds on coefficients are set"
    classifies = isinstance(estimator, LogisticRegression)
    return None if evaluator is None else against_evaluator(estimator, evaluator, classifies=classifies)


def against_evaluator(estimator: Estimator[Any], evaluator: Evaluator, *, classifies: bool) -> str | None:
    """The evaluator must be MLlib's, and read what this estimator writes."""
    name = type(evaluator).__name__
    columns: dict[str, tuple[str, ...]]
    if type(evaluator) is BinaryClassificationEvaluator and classifies:
        if evaluator.isSet(evaluator.numBins) and evaluator.getNumBins() != 0:
            return "numBins is set, and bins depend on the partitioning; 0 measures the area exactly"
        columns = {"rawPredictionCol": ("rawPredictionCol", "probabilityCol")}
    elif type(evaluator) is MulticlassClassificationEvaluator and classifies:
        columns = {"predictionCol": ("predictionCol",)}
        if _value(evaluator, "metricName") == "logLoss":
            columns["probabilityCol"] = ("probabilityCol",)
    elif type(evaluator) is RegressionEvaluator and not classifies:
        columns = {"predictionCol": ("predictionCol",)}
    else:
        return f"{name} does not measure what {type(estimator).__name__} predicts, or is not MLlib's own"
    for column, written in {**columns, "labelCol": ("labelCol",)}.items():
        if _value(evaluator, column) not in [_value(estimator, name) for name in written]:
            return f"{name}.{column} is '{_value(evaluator, column)}', which {type(estimator).__name__} does not write or read"
    same = [_weight(estimator), None] if classifies else [_weight(estimator)]
    if _weight(evaluator) not in same:
        return "training and evaluation have different weight columns"
    return None


def _weight(stage: Any) -> str | None:
    return stage.getOrDefault("weightCol") if stage.isDefined("weightCol") and stage.getOrDefault("weightCol") else None


def _value(stage: Any, name: str) -> Any:
    return stage.getOrDefault(name)
