"""Our validator and stock's on the same rows and folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark.ml import Pipeline
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.tuning import CrossValidator as StockCrossValidator
from pyspark.sql import DataFrame

from models.tuning import CrossValidator

FOLDS = 2


def both(frame: DataFrame, estimator: Any, grid: Sequence[Any], evaluator: Evaluator) -> tuple[Any, Any]:
    """Our validator, and stock with the last stage at a tolerance that leaves nothing to wish for."""
    shared: dict[str, Any] = {
        "estimatorParamMaps": list(grid), "evaluator": evaluator, "foldCol": "fold", "numFolds": FOLDS, "parallelism": 2,
    }  # fmt: skip
    tight = estimator.copy()
    last = tight.getStages()[-1] if isinstance(tight, Pipeline) else tight
    last._set(tol=1e-12, maxIter=300)
    return CrossValidator(estimator=estimator, **shared).fit(frame), StockCrossValidator(estimator=tight, **shared).fit(
        frame
    )
