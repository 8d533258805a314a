"""Coefficients as genuine MLlib models: saved, loaded and applied by stock pyspark, with no trace of how they were found.

The JVM constructors used here are package-private in Scala and public in bytecode; `tests` pin them for the one Spark version that
the project is bound to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.ml import Estimator
from pyspark.ml.classification import LogisticRegression, LogisticRegressionModel
from pyspark.ml.common import _py2java
from pyspark.ml.linalg import DenseMatrix, DenseVector
from pyspark.ml.regression import LinearRegression, LinearRegressionModel
from pyspark.sql import DataFrame, SparkSession

Numbers = npt.NDArray[np.float64]


def logistic_model(
    estimator: LogisticRegression,
    coefficients: Numbers,
    intercepts: Numbers,
    *,
    classes: int,
    multinomial: bool,
    training: DataFrame | None = None,
    objectives: Sequence[float] = (),
) -> LogisticRegressionModel:
    """A `LogisticRegressionModel` with the estimator's parameters and uid.

    Args:
        coefficients: (1, p), or (classes, p) of a multinomial model.
        intercepts: (1) or (classes).
        training: rows for the model's training summary; None gives a model without one.
        objectives: the objective function after each pass, for the summary.
    """
    package = _jvm().org.apache.spark.ml.classification
    if multinomial:
        rows, columns = coefficients.shape
        matrix = DenseMatrix(rows, columns, coefficients.ravel(order="F").tolist())
        made = package.LogisticRegressionModel(
            estimator.uid, _to_java(matrix), _to_java(DenseVector(intercepts)), classes, True
        )
    else:
        made = package.LogisticRegressionModel(
            estimator.uid, _to_java(DenseVector(coefficients[0])), float(intercepts[0])
        )
    model = LogisticRegressionModel(_with_parent(estimator, made))
    estimator._copyValues(model)
    if training is not None:
        made.createSummary(training._jdf, _doubles(objectives))
    return model


def linear_model(
    estimator: LinearRegression,
    coefficients: Numbers,
    intercept: float,
    *,
    training: DataFrame | None = None,
    inverse_diagonal: Numbers | None = None,
) -> LinearRegressionModel:
    """A `LinearRegressionModel` with the estimator's parameters and uid.

    Args:
        coefficients: (p).
        training: rows for the model's training summary; None gives a model without one.
        inverse_diagonal: diagonal of (A'WA)^-1 of the features, and last of the intercept where there is one: what standard errors
            come from. Without it the summary refuses them, as stock does for its iterative solver.
    """
    package = _jvm().org.apache.spark.ml.regression
    made = package.LinearRegressionModel(estimator.uid, _to_java(DenseVector(coefficients)), float(intercept))
    model = LinearRegressionModel(_with_parent(estimator, made))
    estimator._copyValues(model)
    if training is not None:
        fitted = [*coefficients, intercept] if estimator.getFitIntercept() else [*coefficients]
        diagonal = np.zeros(1) if inverse_diagonal is None else inverse_diagonal
        # No iterations, as MLlib's solver `normal` has none.
        made.createSummary(training._jdf, _doubles(diagonal), _doubles([0.0]), _doubles(fitted))
    return model


def _with_parent(estimator: Estimator[Any], made: Any) -> Any:
    """The parameters of the estimator on the JVM's model, as `fit` would leave them."""
    estimator._transfer_params_to_java()  # type: ignore[attr-defined]
    parent = estimator._java_obj  # type: ignore[attr-defined]
    parent.copyValues(made, _jvm().org.apache.spark.ml.param.ParamMap.empty())
    made.setParent(parent)
    return made


def _jvm() -> Any:
    spark = SparkSession.active()
    assert spark._jvm is not None
    return spark._jvm


def _to_java(value: Any) -> Any:
    return _py2java(SparkSession.active().sparkContext, value)


def _doubles(values: Sequence[float] | Numbers) -> Any:
    """A Java array, in one call: filling one takes a call an element."""
    return _to_java(DenseVector(values)).toArray()
