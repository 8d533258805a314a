"""What the benchmarks of cross-validation share: the rows, both validators, and how far apart their answers are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.ml import Estimator, Pipeline
from pyspark.ml import tuning as stock
from pyspark.ml.evaluation import BinaryClassificationEvaluator, Evaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession

from conf.schema import Environment
from jobs import session
from models import tuning
from scripts import paired

FOLDS = 5
DRIVER_MEMORY = "8g"


def rows(spark: SparkSession, count: int, features: int, folder: Path, *, seed: int = 0) -> DataFrame:
    """Parquet of `x0`..., `value`, `flag` and `fold`, from a generator seeded by `seed` and the partition: correlated normal columns of unequal
    scale."""
    names = [f"x{i}" for i in range(features)]
    schema = ", ".join([*(f"{name} DOUBLE" for name in names), "value DOUBLE", "flag DOUBLE", "fold INT"])

    def generate(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        truth = np.random.default_rng([seed, 1] if seed else 1).normal(size=features) * (np.arange(features) % 3 > 0)
        for batch in batches:
            first, size = batch.column(0)[0].as_py(), batch.num_rows
            rng = np.random.default_rng([seed, first + 2] if seed else first + 2)
            x = rng.normal(size=(size, features)) + 0.5 * rng.normal(size=(size, 1))
            score = 0.2 * x @ truth
            value = score + rng.normal(size=size)
            flag = (rng.random(size) < 1 / (1 + np.exp(-score))).astype(float)
            scaled = x * (1 + np.arange(features) % 7) + np.arange(features) % 5
            yield pa.RecordBatch.from_arrays(
                [
                    *map(pa.array, scaled.T),
                    pa.array(value),
                    pa.array(flag),
                    pa.array(rng.integers(0, FOLDS, size).astype("i4")),
                ],
                [*names, "value", "flag", "fold"],
            )

    # Equal files, each smaller than a split of Spark's: partitions that keep both sides' cores busy to the end.
    parts = 2 * spark.sparkContext.defaultParallelism
    spark.range(0, count, 1, parts).mapInArrow(generate, schema).write.parquet(str(folder / "rows"))
    return spark.read.parquet(str(folder / "rows"))


def assembled(frame: DataFrame) -> DataFrame:
    """The features as one cached vector column."""
    assembler = _assembler(frame)
    vectors = assembler.transform(frame).drop(*assembler.getInputCols()).cache()
    vectors.count()
    return vectors


def _assembler(frame: DataFrame) -> VectorAssembler:
    names = [name for name in frame.columns if name.startswith("x")]
    return VectorAssembler(inputCols=names, outputCol="features")


def validators(
    estimator: Estimator[Any], grid: Sequence[Any], evaluator: Evaluator, *, folds: int = FOLDS
) -> tuple[tuning.CrossValidator, stock.CrossValidator]:
    """Ours and stock's of one problem, folds in column `fold`; stock runs as many fits at once as there are cores."""
    given: dict[str, Any] = {
        "estimator": estimator, "estimatorParamMaps": list(grid), "evaluator": evaluator, "numFolds": folds, "foldCol": "fold",
        "parallelism": SparkSession.active().sparkContext.defaultParallelism,
    }  # fmt: skip
    return tuning.CrossValidator(**given), stock.CrossValidator(**given)


def metrics_apart(one: stock.CrossValidatorModel, other: stock.CrossValidatorModel) -> float:
    """Largest difference of the metrics of a grid point."""
    return float(np.max(np.abs(np.subtract(one.avgMetrics, other.avgMetrics))))


def coefficients_apart(one: Any, other: Any) -> float:
    """Largest difference of a coefficient or the intercept of the best models, over the largest of the other's."""
    mine, theirs = (
        np.append(model.bestModel.coefficients.toArray(), model.bestModel.intercept) for model in (one, other)
    )
    return float(np.max(np.abs(mine - theirs)) / np.max(np.abs(theirs)))


def run(
    name: str,
    description: str | None,
    sizes: Mapping[str, tuple[int, int]],
    problem: Callable[[], tuple[Estimator[Any], Sequence[Any], Evaluator]],
) -> int:
    """Time both sides, compare them, and report; `problem` makes estimator, grid and evaluator once there is a session."""
    given = paired.arguments(description)
    count, features = sizes[given.size]
    spark = session.build(Environment(driver_memory=DRIVER_MEMORY), app=f"bench {name}")
    estimator, grid, evaluator = problem()
    with tempfile.TemporaryDirectory() as folder:
        plain = rows(spark, count, features, Path(folder))
        frame = assembled(plain)
        ours, peer = validators(estimator, grid, evaluator)
        timings, our_model, peer_model = paired.take_turns(
            lambda: ours.fit(frame), lambda: peer.fit(frame), given.pairs
        )
        pipeline = Pipeline(stages=[_assembler(plain), estimator])
        whole, _ = validators(pipeline, grid, evaluator)
        from_columns, _ = paired.seconds(lambda: whole.fit(plain))
        frame.unpersist()
        strict = _strict(frame.limit(2_000).repartition(2), estimator, grid, evaluator)
        loose = metrics_apart(our_model, peer_model)
    larger = evaluator.isLargerBetter()  # asks the JVM
    spark.stop()
    size = {"name": given.size, "rows": count, "features": features, "folds": FOLDS, "points": len(grid)}
    same_best = _best(our_model, larger) == _best(peer_model, larger)
    quality = {"metrics_apart": loose, "same_best": same_best, **strict}
    ok = loose <= 1e-4 and strict["strict_metrics_apart"] <= 1e-6 and strict["strict_coefficients_apart"] <= 1e-6
    found = timings.line(name, size, quality, ok=ok, from_columns_s=from_columns)
    return paired.finish(found, given)


def _strict(frame: DataFrame, estimator: Estimator[Any], grid: Sequence[Any], evaluator: Evaluator) -> dict[str, float]:
    """Stock to a tolerance of 1e-12 with exact areas, on fewer rows: metrics of all points, coefficients of the best."""
    frame = frame.cache()
    tight = estimator.copy()
    tight._set(tol=1e-12, maxIter=1000)
    exact = evaluator.copy()
    if isinstance(exact, BinaryClassificationEvaluator):
        exact.setNumBins(0)
    peer = validators(tight, grid, exact)[1].fit(frame)
    ours = validators(estimator, grid, exact)[0].fit(frame)
    frame.unpersist()
    return {
        "strict_metrics_apart": metrics_apart(ours, peer),
        "strict_coefficients_apart": coefficients_apart(ours, peer),
    }


def _best(model: Any, larger: bool) -> int:
    return int(np.argmax(model.avgMetrics) if larger else np.argmin(model.avgMetrics))
