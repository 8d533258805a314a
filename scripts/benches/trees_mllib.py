"""Cross-validation of boosted trees, 20 rounds, 5 folds x 12 points: ours over xgboost.spark against MLlib's own GBTClassifier.

    ours        models.tuning.CrossValidator over SparkXGBClassifier
    peer        GBTClassifier, as many fits at once as there are cores: six of them, two of each depth, scaled to all that the search has
    one by one  the same six, one after the other, as stock CrossValidator does by default

What is told of MLlib are estimates: its whole search takes ten minutes and more. `quality` has the best mean area of our points, of five folds, and of
its three depths, of two folds and at one rate: other trees of other rows, which are told apart by noise alone unless a side is broken.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from pyspark.ml.classification import GBTClassifier
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.schema import Environment
from jobs import session
from scripts import paired, tuning_bench
from scripts.benches import trees_cv

ROUNDS = 20
TARGET = 30.0
APART = 0.02


def six(frame: DataFrame, at_once: int) -> list[float]:
    """Areas of MLlib's models of each depth in two folds, at the rate that it has by default."""
    estimator = GBTClassifier(labelCol="flag", maxIter=ROUNDS)
    judge = BinaryClassificationEvaluator(labelCol="flag", numBins=0)

    def one(fold: int, depth: int) -> float:
        model = estimator.copy({estimator.maxDepth: depth}).fit(frame.where(F.col("fold") != fold))
        return judge.evaluate(model.transform(frame.where(F.col("fold") == fold)))

    with ThreadPool(at_once) as pool:
        return pool.starmap(one, [(fold, depth) for fold in (0, 1) for depth in trees_cv.DEPTHS], chunksize=1)


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    count, features = trees_cv.SIZES[given.size]
    spark = session.build(Environment(driver_memory=tuning_bench.DRIVER_MEMORY), app="bench trees_mllib")
    ours, _ = tuning_bench.validators(*trees_cv.problem(ROUNDS))
    fits = len(ours.getEstimatorParamMaps()) * tuning_bench.FOLDS + 1
    with tempfile.TemporaryDirectory() as folder:
        frame = tuning_bench.assembled(tuning_bench.rows(spark, count, features, Path(folder)))
        cores = spark.sparkContext.defaultParallelism
        timings, mine, areas = paired.take_turns(partial(ours.fit, frame), partial(six, frame, cores), given.pairs)
        one_by_one, _ = paired.seconds(partial(six, frame, 1))
    spark.stop()
    scale = fits / len(areas)
    peer_s, one_by_one_s = timings.peer_s * scale, one_by_one * scale
    ratio, one_by_one_ratio = peer_s / timings.ours_s, one_by_one_s / timings.ours_s
    best = {
        "best_area": max(mine.avgMetrics),
        "mllib_best_area": float(np.mean(np.reshape(areas, (2, -1)), axis=0).max()),
    }
    found = {
        "bench": "trees_mllib",
        "size": {"name": given.size, "rows": count, "features": features, "rounds": ROUNDS, "folds": tuning_bench.FOLDS, "fits": fits},
        "ours_s": timings.ours_s, "peer_s": peer_s, "ratio": ratio,
        "scaling": {"one_by_one_s": one_by_one_s, "one_by_one_ratio": one_by_one_ratio, "pairs": given.pairs},
        "quality": best, "ok": abs(best["best_area"] - best["mllib_best_area"]) <= APART,
        "targets_met": {"one by one": one_by_one_ratio >= TARGET, "at once": ratio >= TARGET},
    }  # fmt: skip
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
