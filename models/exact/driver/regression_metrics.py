"""Metrics of linear models on validation rows as `RegressionEvaluator` defines them, from moments; and from a scoring pass where
moments do not tell.

The squared error of y - x'beta - b is a quadratic form in the moments, exact but for cancellation: where the fit is so close that
its error is rounding of the terms that it is the difference of, the value is marked, and `scored` takes it from a pass instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from models.exact.driver.moments import Moments
from models.exact.driver.passes import Passes
from transforms.errors import ModelError

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Metric = Literal["rmse", "mse", "r2", "var", "mae"]

# Of the terms' sizes: a squared error below this keeps fewer than 8 digits.
CANCELLED = 1e-8


def from_moments(
    moments: Moments, coefficients: Doubles, intercepts: Doubles, metric: Metric, *, through_origin: bool = False
) -> tuple[Doubles, Flags]:
    """A metric of M models.

    Args:
        moments: of the validation rows, with the evaluator's weights.
        coefficients: (M, p).
        intercepts: (M).
        metric: not `mae`, which moments do not tell.
        through_origin: r2 relative to the sum of squares of the label about 0, as the evaluator's `throughOrigin`.

    Returns:
        Values (M), and (M) whether they are free of cancellation: take others from `scored`.

    Raises:
        ModelError: `metric` is `mae`.
    """
    if metric == "mae":
        raise ModelError(
            "from_moments: expected rmse, mse, r2 or var, found mae: absolute errors take a scoring pass; call scored."
        )
    p = len(moments.mean) - 1
    features, label = moments.comoment[:p, :p], moments.comoment[p, p]
    shift = coefficients @ moments.mean[:p] + intercepts - moments.mean[p]
    predicted = np.einsum("mj,mj->m", coefficients @ features, coefficients)
    if metric == "var":
        return predicted / moments.weight + shift**2, np.ones(len(intercepts), dtype=bool)
    size = np.abs(coefficients)
    terms = np.einsum("mj,mj->m", size @ np.abs(features), size) + label
    about_mean = predicted - 2 * coefficients @ moments.comoment[:p, p] + label
    squared = np.maximum(about_mean, 0.0) + moments.weight * shift**2
    return _of_squares(moments, squared, metric, through_origin), squared > CANCELLED * terms


def scored(
    passes: Passes,
    moments: list[Moments],
    models: Mapping[str, Any],
    metric: Metric,
    *,
    through_origin: bool = False,
) -> Doubles:
    """A metric of M models by one pass over the rows.

    Args:
        moments: M, of each model's validation rows, with the evaluator's weights.
        models: what the kernel `prediction_errors` asks for: `weights`, `validates`, `weighted`.
        metric: not `var`, which moments tell without cancellation.

    Returns:
        (M).
    """
    replies = passes.run("prediction_errors", models)
    absolute, squared = (np.sum([reply[name] for reply in replies], axis=0) for name in ("absolute", "squared"))
    if metric == "mae":
        return np.asarray(absolute / np.array([each.weight for each in moments]))
    values = [_of_squares(each, squared[m : m + 1], metric, through_origin)[0] for m, each in enumerate(moments)]
    return np.array(values)


def _of_squares(moments: Moments, squared: Doubles, metric: Metric, through_origin: bool) -> Doubles:
    """(M), from the models' sums of w (y - prediction)^2."""
    if metric == "mse":
        return squared / moments.weight
    if metric == "rmse":
        return np.asarray(np.sqrt(squared / moments.weight))
    about_mean, mean = float(moments.comoment[-1, -1]), float(moments.mean[-1])
    if through_origin:
        total = about_mean + moments.weight * mean**2
    else:
        # As RegressionMetrics: the unbiased variance times W - 1, which with weights is not the sum of squares.
        total = float(moments.std(unbiased=True)[-1]) ** 2 * (moments.weight - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 - squared / total)
