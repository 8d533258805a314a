"""Cross-validation of linear regression, 5 folds x 20 points: ours against stock CrossValidator at its best.

Both sides get the same cached vector column with folds in a column, and give a fitted CrossValidatorModel. Stock runs as many fits at
once as there are cores. `quality` compares the metrics of both on these rows, and coefficients on fewer rows with stock run to
a tolerance of 1e-12. `from_columns` is ours from the same numbers as double columns in Parquet.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyspark.ml import Estimator
from pyspark.ml.evaluation import Evaluator, RegressionEvaluator
from pyspark.ml.regression import LinearRegression
from pyspark.ml.tuning import ParamGridBuilder

from scripts import tuning_bench

SIZES = {"small": (40_000, 20), "full": (400_000, 100)}


def problem() -> tuple[Estimator[Any], list[Any], Evaluator]:
    """Estimator, grid and evaluator."""
    estimator = LinearRegression(labelCol="value")
    grid = (
        ParamGridBuilder()
        .addGrid(estimator.regParam, [0.001 * 2.0**i for i in range(10)])
        .addGrid(estimator.elasticNetParam, [0.0, 0.5])
        .build()
    )
    return estimator, grid, RegressionEvaluator(labelCol="value", metricName="rmse")


if __name__ == "__main__":
    sys.exit(tuning_bench.run(Path(__file__).stem, __doc__, SIZES, problem))
