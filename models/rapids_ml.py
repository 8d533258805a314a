"""MLlib's estimators that NVIDIA's spark-rapids-ml fits on GPUs, under the same names; their models are stock MLlib's again.

What it cannot do stands in tables of its own, which are looked up before anything is submitted. Of parameters that cuML has no equal of it says a line and
goes on without them, the subsamplingRate of forests among them: here whoever sets one keeps the estimator on the processors, or is refused where a GPU
is required.
"""

from __future__ import annotations

import importlib
from threading import Lock
from typing import Any

from pyspark.ml import Estimator, Model
from pyspark.sql import DataFrame, SparkSession

from models import gpus
from models.gpus import Choice

# Linear and logistic regressions and boosted trees have ways of their own.
_KNOWN = {
    "pyspark.ml.classification": ("RandomForestClassifier",),
    "pyspark.ml.clustering": ("KMeans",),
    "pyspark.ml.feature": ("PCA",),
    "pyspark.ml.regression": ("RandomForestRegressor",),
}
# What a fit need not be told: how MLlib uses its memory, and what the model does when it predicts, which is MLlib's own.
_NOT_OF_FITS = (
    "cacheNodeIds", "checkpointInterval", "maxBlockSizeInMB", "maxMemoryInMB",
    "leafCol", "predictionCol", "probabilityCol", "rawPredictionCol", "thresholds",
)  # fmt: skip
# Two fits would share the memory of one GPU.
_ONE_AT_A_TIME = Lock()


def knows(stage: Any) -> bool:
    """Whether spark-rapids-ml has an estimator of this name."""
    return type(stage).__name__ in _KNOWN.get(type(stage).__module__, ())


def choose(spark: SparkSession, estimator: Estimator[Any]) -> Choice:
    """Where an estimator that it `knows` would be fitted, and why.

    Raises:
        NoGpu: GPUs are required, and workers cannot use any or spark-rapids-ml would do without a parameter that is set.
    """
    return gpus.choose(spark, "estimators", against=_against(spark, estimator))


def take(spark: SparkSession, estimator: Estimator[Any]) -> bool:
    """As `choose`, for an estimator that is fitted now."""
    return gpus.take(spark, "estimators", against=_against(spark, estimator))


def fit(estimator: Estimator[Any], frame: DataFrame) -> Model:
    """Fit an estimator that `take` has chosen a GPU for; in doubles, as MLlib does."""
    with _ONE_AT_A_TIME:
        model = counterpart(estimator)(float32_inputs=False, **_of_fit(estimator)).fit(frame).cpu()
    model._resetUid(estimator.uid)
    fitted: Model = estimator._copyValues(model)
    return fitted


def reason_against(estimator: Estimator[Any]) -> str:
    """Why spark-rapids-ml would not fit the same model, empty where nothing is known against it."""
    try:
        theirs = counterpart(estimator)
    except ImportError as error:
        return (
            f"Python of the driver cannot import {error.name or error}: install the extra rapids-ml of millrace there"
        )
    names, values = theirs._param_mapping(), theirs._param_value_mapping()

    def is_lost(name: str, value: Any) -> bool:
        if name not in names:
            return not hasattr(theirs, name)
        mapped = names[name]
        return not mapped or (mapped in values and values[mapped](value) is None)

    lost = [f"{k}={v!r}" for k, v in _of_fit(estimator).items() if is_lost(k, v)]
    return f"spark-rapids-ml fits {type(estimator).__name__} without {', '.join(lost)}" if lost else ""


def _against(spark: SparkSession, estimator: Estimator[Any]) -> str:
    # Its import takes a second, which nobody has to wait for who asks for no GPU.
    return "" if spark.conf.get(gpus.SETTING, "never") == "never" else reason_against(estimator)


def counterpart(estimator: Estimator[Any]) -> Any:
    """The class of spark-rapids-ml under the name of an estimator of MLlib.

    Raises:
        ImportError: spark-rapids-ml is not there.
    """
    module = type(estimator).__module__.replace("pyspark.ml", "spark_rapids_ml")
    return getattr(importlib.import_module(module), type(estimator).__name__)


def _of_fit(estimator: Estimator[Any]) -> dict[str, Any]:
    """The parameters of a fit that were set, by name and in order of it."""
    params = sorted(estimator.params, key=lambda each: each.name)
    return {p.name: estimator.getOrDefault(p) for p in params if estimator.isSet(p) and p.name not in _NOT_OF_FITS}
