"""How cross-validation grows: rows times 2, 4 and 8, grid points times 2 and 4. Ours alone, so that `peer_s` and `ratio` are null.

`scaling` has, of linear and of logistic regression, seconds by rows and by points (the least of some rounds), the exponent of
seconds over rows between the two largest sizes, where fixed costs count least, and the largest memory that a worker which still lives
took so far. There is nothing to compare with, so that `ok` is true; `targets_met` is about the exponents.
"""

from __future__ import annotations

import math
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.ml import Estimator
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator, Evaluator, RegressionEvaluator
from pyspark.ml.regression import LinearRegression
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession

from conf.schema import Environment
from jobs import session
from models import tuning
from scripts import paired, tuning_bench

SIZES = {"small": (10_000, 20), "full": (100_000, 100)}
ROWS, POINTS = (1, 2, 4, 8), (1, 2, 4)
FEWEST_POINTS = 6
SLOPE = 1.05


def validator(estimator: Estimator[Any], evaluator: Evaluator, points: int) -> tuning.CrossValidator:
    """Five folds and so many penalties, over two decades."""
    penalties = np.geomspace(0.001, 0.1, points).tolist()
    grid = ParamGridBuilder().addGrid(estimator.getParam("regParam"), penalties).build()
    return tuning.CrossValidator(
        estimator=estimator,
        estimatorParamMaps=grid,
        evaluator=evaluator,
        numFolds=tuning_bench.FOLDS,
        foldCol="fold",
    )


def least(fits: Sequence[tuple[Any, tuning.CrossValidator, DataFrame]], rounds: int) -> dict[Any, float]:
    """By name, the least seconds of some rounds, in which all take turns."""
    found = {name: math.inf for name, _, _ in fits}
    for _ in range(rounds + 1):  # the first warms up
        for name, each, frame in fits:
            found[name] = min(found[name], paired.seconds(partial(each.fit, frame))[0])
    return found


def worker_mebibytes(spark: SparkSession) -> float:
    """Most memory that any Python worker took so far: workers are used again."""

    def peak(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            yield pa.RecordBatch.from_arrays([pa.array([taken])], ["taken"])

    cores = spark.sparkContext.defaultParallelism
    return max(row[0] for row in spark.range(0, cores, 1, cores).mapInArrow(peak, "taken DOUBLE").collect())


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    count, features = SIZES[given.size]
    spark = session.build(Environment(driver_memory=tuning_bench.DRIVER_MEMORY), app="bench growth")
    problems: list[tuple[str, Estimator[Any], Evaluator]] = [
        ("linear", LinearRegression(labelCol="value"), RegressionEvaluator(labelCol="value")),
        ("logistic", LogisticRegression(labelCol="flag"), BinaryClassificationEvaluator(labelCol="flag")),
    ]
    scaling: dict[str, Any] = {"rounds": given.pairs}
    met: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as folder:
        frames = {}
        for times in ROWS:
            plain = tuning_bench.rows(spark, count * times, features, Path(folder, str(times)))
            frames[times] = tuning_bench.assembled(plain)
        for name, estimator, evaluator in problems:
            by_rows = least(
                [(t, validator(estimator, evaluator, FEWEST_POINTS), frame) for t, frame in frames.items()],
                given.pairs,
            )
            by_points = least(
                [(t, validator(estimator, evaluator, FEWEST_POINTS * t), frames[ROWS[-1]]) for t in POINTS],
                given.pairs,
            )
            slope = math.log2(by_rows[ROWS[-1]] / by_rows[ROWS[-2]])
            met |= {
                f"{name} by rows": slope <= SLOPE,
                f"{name} by points": by_points[POINTS[-1]] < POINTS[-1] * by_points[1],
            }
            scaling[name] = {
                "seconds_by_rows": {f"{count * t}": seconds for t, seconds in by_rows.items()},
                "seconds_by_points": {f"{FEWEST_POINTS * t}": seconds for t, seconds in by_points.items()},
                "slope": slope,
                "worker_mebibytes": worker_mebibytes(spark),
            }
            paired.told(f"{name}: {scaling[name]}")
        held = count * ROWS[-1] * features * 8 / 2**20 / spark.sparkContext.defaultParallelism
    spark.stop()
    found = {
        "bench": "growth", "size": {"name": given.size, "features": features, "most_mebibytes_a_worker": held},
        "ours_s": scaling["linear"]["seconds_by_rows"][f"{count * ROWS[-1]}"], "peer_s": None, "ratio": None,
        "scaling": scaling, "quality": {}, "targets_met": met, "ok": True,
    }  # fmt: skip
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
