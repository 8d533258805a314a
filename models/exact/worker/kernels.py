"""Every kernel by name: what a driver may ask a worker to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from models.exact.worker.areas import scores
from models.exact.worker.boosting import boost
from models.exact.worker.classification import binomial_confusion, multinomial_confusion
from models.exact.worker.counts import count, count_classes
from models.exact.worker.errors import prediction_errors
from models.exact.worker.logistic import logistic_curvature, logistic_gradient
from models.exact.worker.moments import moments, set_centred
from models.exact.worker.softmax import softmax_curvature, softmax_gradient

KERNELS: Mapping[str, Callable[..., Any]] = {
    "binomial_confusion": binomial_confusion,
    "boost": boost,
    "count": count,
    "count_classes": count_classes,
    "logistic_curvature": logistic_curvature,
    "logistic_gradient": logistic_gradient,
    "moments": moments,
    "multinomial_confusion": multinomial_confusion,
    "prediction_errors": prediction_errors,
    "scores": scores,
    "set_centred": set_centred,
    "softmax_curvature": softmax_curvature,
    "softmax_gradient": softmax_gradient,
}
