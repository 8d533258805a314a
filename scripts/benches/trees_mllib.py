"""Cross-validation of boosted trees, 20 rounds, 5 folds x 12 points: ours over xgboost.spark against MLlib's own GBTClassifier.

    ours        models.tuning.CrossValidator over SparkXGBClassifier
    peer        GBTClassifier, as many fits at once as there are cores: six of them, two of each depth, scaled to all that the search has
    one by one  the same six, one after the other, as stock CrossValidator does by default

Both sides have the same number of bins a feature: 32, MLlib's default, whose figures are `ours_s`, `peer_s` and `ratio`; and 256, XGBoost's.
`as_they_come` is XGBoost's 256 against MLlib's 32. What is told of MLlib are estimates: its whole search takes ten minutes and more.
`quality` compares areas at MLlib's default rate, depth by depth: ours of five folds, MLlib's of two, and other trees of other libraries.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.ml.classification import GBTClassifier
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.schema import Environment
from jobs import session
from models import tuning
from scripts import paired, tuning_bench
from scripts.benches import trees_cv

ROUNDS = 20
RATE = 0.1
BINS = (32, 256)
TARGET = 30.0
APART = 0.02


def six(frame: DataFrame, bins: int, at_once: int) -> list[float]:
    """Areas of MLlib's models of two folds in each depth."""
    estimator = GBTClassifier(labelCol="flag", maxIter=ROUNDS, stepSize=RATE, maxBins=bins)
    judge = BinaryClassificationEvaluator(labelCol="flag", numBins=0)

    def one(depth: int, fold: int) -> float:
        model = estimator.copy({estimator.maxDepth: depth}).fit(frame.where(F.col("fold") != fold))
        return judge.evaluate(model.transform(frame.where(F.col("fold") == fold)))

    with ThreadPool(at_once) as pool:
        return pool.starmap(one, [(depth, fold) for fold in (0, 1) for depth in trees_cv.DEPTHS], chunksize=1)


def areas_apart(mine: tuning.CrossValidatorModel, areas: list[float]) -> float:
    """The most that a depth's mean area differs."""
    ours = [
        area
        for point, area in zip(mine.getEstimatorParamMaps(), mine.avgMetrics, strict=True)
        if RATE in point.values()
    ]
    return float(np.abs(np.array(ours) - np.reshape(areas, (2, -1)).mean(axis=0)).max())


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    count, features = trees_cv.SIZES[given.size]
    spark = session.build(Environment(driver_memory=tuning_bench.DRIVER_MEMORY), app="bench trees_mllib")
    cores = spark.sparkContext.defaultParallelism
    fits = tuning_bench.FOLDS * len(trees_cv.DEPTHS) * len(trees_cv.RATES) + 1
    by_bins: dict[int, dict[str, float]] = {}
    apart: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        frame = tuning_bench.assembled(tuning_bench.rows(spark, count, features, Path(folder)))
        for bins in BINS:
            paired.told(f"{bins} bins, six of MLlib's {fits} fits")
            ours, _ = tuning_bench.validators(*trees_cv.problem(ROUNDS, max_bin=bins))
            timings, mine, areas = paired.take_turns(
                partial(ours.fit, frame), partial(six, frame, bins, cores), given.pairs
            )
            one_by_one, _ = paired.seconds(partial(six, frame, bins, 1))
            scale = fits / len(areas)
            by_bins[bins] = {
                "ours_s": timings.ours_s, "peer_s": timings.peer_s * scale, "ratio": timings.ratio * scale,
                "one_by_one_s": one_by_one * scale, "one_by_one_ratio": one_by_one * scale / timings.ours_s,
            }  # fmt: skip
            apart[f"areas_apart_{bins}"] = areas_apart(mine, areas)
            paired.told(
                f"all fits   at once {timings.ratio * scale:.1f}x  one by one {by_bins[bins]['one_by_one_ratio']:.1f}x"
            )
    spark.stop()
    equal, finer = (by_bins[bins] for bins in BINS)
    scaling: dict[str, Any] = {
        "bins": {str(bins): figures for bins, figures in by_bins.items()},
        "as_they_come": {
            "ratio": equal["peer_s"] / finer["ours_s"], "one_by_one_ratio": equal["one_by_one_s"] / finer["ours_s"],
        },
        "pairs": given.pairs,
    }  # fmt: skip
    found = {
        "bench": "trees_mllib",
        "size": {"name": given.size, "rows": count, "features": features, "rounds": ROUNDS, "folds": tuning_bench.FOLDS, "fits": fits},
        "ours_s": equal["ours_s"], "peer_s": equal["peer_s"], "ratio": equal["ratio"],
        "scaling": scaling, "quality": apart, "ok": max(apart.values()) <= APART,
        "targets_met": {
            f"{side} at {bins} bins": figures[name] >= TARGET
            for bins, figures in by_bins.items()
            for side, name in (("at once", "ratio"), ("one by one", "one_by_one_ratio"))
        },
    }  # fmt: skip
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
