"""Cross-validation where sharing gains little or nothing: stock's answer in at most 1.2 times its time plus two seconds (`targets_met`).

One point on two folds, 100,000 sparse features, features about as many as exact solvers take and beyond, fifty rows; all of it with a
driver of 2 GB. `ours_s` and `peer_s` are sums over the cases, `scaling` has each; both sides take the same cached vectors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from pyspark.ml import Estimator
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator, Evaluator, RegressionEvaluator
from pyspark.ml.linalg import Vector, Vectors, VectorUDT
from pyspark.ml.regression import LinearRegression
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, StructField, StructType

from conf.schema import Environment
from jobs import session
from scripts import paired, tuning_bench

FACTOR, SECONDS = 1.2, 2.0
APART = 1e-4  # of metrics: stock stops at its default tolerance
WIDE = 100_000
SCHEMA = StructType(
    [
        StructField("features", VectorUDT()),
        StructField("value", DoubleType()),
        StructField("flag", DoubleType()),
    ]
)


@dataclass(frozen=True)
class Case:
    """A problem of so many rows and features, of so many folds and grid points; `nonzero` is how many features a row has."""

    name: str
    rows: int
    features: int
    folds: int = 2
    points: int = 1
    nonzero: int | None = None


CASES = {
    "small": [
        Case("one point", 20_000, 20),
        Case("sparse", 2_000, WIDE, nonzero=30),
        Case("as wide as exact", 2_000, 1_000),
        Case("wider", 500, 5_000),
        Case("fifty rows", 50, 5, points=4),
    ],
    "full": [
        Case("one point", 400_000, 100),
        Case("sparse", 20_000, WIDE, points=2, nonzero=30),
        Case("as wide as exact", 8_000, 2_000),
        Case("wider", 8_000, 5_000),
        Case("fifty rows", 50, 5, folds=5, points=20),
    ],
}


def rows(spark: SparkSession, case: Case) -> DataFrame:
    """Cached vectors with both labels and a fold, seeded by the row's number."""

    features, nonzero = case.features, case.nonzero

    def row(number: int) -> tuple[Vector, float, float]:
        rng = np.random.default_rng(number)
        count = nonzero or features
        at = np.sort(rng.choice(features, count, replace=False)) if nonzero else np.arange(count)
        x = rng.normal(size=count)
        score = float(x @ np.cos(at) / np.sqrt(count))
        vector = Vectors.sparse(features, at, x) if nonzero else Vectors.dense(x)
        return vector, score + rng.standard_normal() / 2, float(rng.random() < 1 / (1 + np.exp(-3 * score)))

    context = spark.sparkContext
    numbers = context.parallelize(range(case.rows), context.defaultParallelism)
    frame = spark.createDataFrame(numbers.map(row), SCHEMA).withColumn(
        "fold", F.pmod(F.xxhash64("value"), F.lit(case.folds)).cast("int")
    )
    frame = frame.cache()
    frame.count()
    return frame


def problems(points: int) -> Iterator[tuple[str, Estimator[Any], Sequence[Any], Evaluator]]:
    """Name, estimator, grid and evaluator."""
    linear, logistic = LinearRegression(labelCol="value"), LogisticRegression(labelCol="flag")
    for name, estimator, evaluator in (
        ("linear", linear, RegressionEvaluator(labelCol="value")),
        ("logistic", logistic, BinaryClassificationEvaluator(labelCol="flag", numBins=0)),
    ):
        grid = ParamGridBuilder().addGrid(estimator.regParam, [0.02 * 1.5**i for i in range(points)]).build()
        yield name, estimator, grid, evaluator


@dataclass(frozen=True)
class Measured:
    """One problem of a case: seconds of both sides, and how far their metrics are apart."""

    title: str
    ours_s: float
    peer_s: float
    apart: float

    @property
    def is_met(self) -> bool:
        return self.ours_s <= FACTOR * self.peer_s + SECONDS


def measured(case: Case, pairs: int) -> list[Measured]:
    """Both problems of a case in a session of its own."""
    spark = session.build(Environment(driver_memory="2g"), app="bench never_worse")
    frame = rows(spark, case)
    found = []
    for name, estimator, grid, evaluator in problems(case.points):
        title = f"{case.name}, {name}"
        paired.told(title)
        ours, peer = tuning_bench.validators(estimator, grid, evaluator, folds=case.folds)
        timings, mine, theirs = paired.take_turns(partial(ours.fit, frame), partial(peer.fit, frame), pairs)
        found.append(Measured(title, timings.ours_s, timings.peer_s, tuning_bench.metrics_apart(mine, theirs)))
    spark.stop()
    return found


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    # A process for each case: MLlib leaves coefficients of past iterations in the JVM, 200 MB after a fit of 100,000 features, and
    # of the next case neither side would fit beside them.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        by_case = list(processes.map(partial(measured, pairs=given.pairs), CASES[given.size]))
    found = [each for problems_of_case in by_case for each in problems_of_case]
    ours_s, peer_s = sum(each.ours_s for each in found), sum(each.peer_s for each in found)
    apart = {each.title: each.apart for each in found}
    scaling = {each.title: {"ours_s": each.ours_s, "peer_s": each.peer_s} for each in found}
    line = {
        "bench": "never_worse", "size": {"name": given.size, "driver_memory": "2g"}, "ours_s": ours_s, "peer_s": peer_s,
        "ratio": peer_s / ours_s, "scaling": {"pairs": given.pairs, **scaling}, "quality": apart,
        "ok": max(apart.values()) <= APART, "targets_met": {each.title: each.is_met for each in found},
    }  # fmt: skip
    return paired.finish(line, given)


if __name__ == "__main__":
    sys.exit(main())
