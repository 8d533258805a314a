"""Cross-validation of boosted trees, 5 folds x 12 points: ours against xgboost.spark under stock CrossValidator, and others.

    ours        models.tuning.CrossValidator over SparkXGBClassifier, from a cached vector column to a fitted model
    peer        stock CrossValidator over the same estimator and column, as many fits at once as there are cores
    one by one  the same with stock's own parallelism, which is one fit after the other; timed once
    local       the same models in as many processes as there are cores, a binned matrix a fold in each, without Spark: the limit

At 20 and at 50 rounds; `ours_s`, `peer_s` and `ratio` are those at 20. `quality` compares the areas of ours and peer, point by point. Targets
are held against the peer one by one, and against it with as many fits at once as there are cores (`at once`).
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import groupby, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.tuning import ParamGridBuilder
from xgboost.spark import SparkXGBClassifier

from conf.schema import Environment
from jobs import session
from scripts import paired, tuning_bench

SIZES = {"small": (10_000, 10), "full": (200_000, 50)}
ROUNDS = (20, 50)
DEPTHS, RATES = (3, 5, 7), (0.05, 0.1, 0.2, 0.4)
APART = 0.002
TARGETS = {20: 8.0, 50: 5.0, "local": 1.25}
Array = npt.NDArray[Any]


def problem(rounds: int, **settings: Any) -> tuple[SparkXGBClassifier, list[Any], BinaryClassificationEvaluator]:
    """Estimator, grid and evaluator; exact areas on both sides."""
    common = {"label_col": "flag", "num_workers": 1, "missing": float("nan")}
    estimator = SparkXGBClassifier(n_estimators=rounds, **common, **settings)
    grid = ParamGridBuilder().addGrid(estimator.max_depth, list(DEPTHS)).addGrid(estimator.learning_rate, list(RATES))
    return estimator, grid.build(), BinaryClassificationEvaluator(labelCol="flag", numBins=0)


def local(x: Array, y: Array, fold: Array, rounds: int, cores: int) -> float:
    """Seconds of all models without Spark, and of one more on all rows."""
    models = [(k, rate, depth) for k in range(tuning_bench.FOLDS) for rate in RATES for depth in DEPTHS]
    ends = [len(models) * core // cores for core in range(cores + 1)]
    started = time.perf_counter()
    # A fork of this process would share XGBoost's threads.
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        list(pool.map(_share, [(x, y, fold, rounds, models[a:b]) for a, b in pairwise(ends)]))
        pool.submit(_share, (x, y, fold, rounds, [(-1, RATES[1], DEPTHS[1])])).result()
    return time.perf_counter() - started


def _share(given: tuple[Array, Array, Array, int, list[tuple[int, float, int]]]) -> None:
    x, y, fold, rounds, models = given
    for k, of_fold in groupby(models, key=lambda model: model[0]):
        matrix = xgboost.QuantileDMatrix(x[fold != k], y[fold != k], nthread=1)
        for _, rate, depth in of_fold:
            parameters = {"max_depth": depth, "learning_rate": rate, "objective": "binary:logistic", "nthread": 1}
            xgboost.train(parameters, matrix, rounds).inplace_predict(x[fold == k], predict_type="margin")


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    count, features = SIZES[given.size]
    spark = session.build(Environment(driver_memory=tuning_bench.DRIVER_MEMORY), app="bench trees_cv")
    cores = spark.sparkContext.defaultParallelism
    by_rounds: dict[str, Any] = {}
    apart: dict[str, float] = {}
    met: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as folder:
        frame = tuning_bench.assembled(tuning_bench.rows(spark, count, features, Path(folder)))
        rows = frame.select("features", "flag", "fold").toPandas()
        x = np.array([vector.toArray() for vector in rows["features"]], dtype=np.float32)
        y, fold = rows["flag"].to_numpy(), rows["fold"].to_numpy()
        for rounds in ROUNDS:
            paired.told(f"{rounds} rounds")
            ours, peer = tuning_bench.validators(*problem(rounds))
            timings, mine, theirs = paired.take_turns(partial(ours.fit, frame), partial(peer.fit, frame), given.pairs)
            one_by_one, _ = paired.seconds(partial(peer.setParallelism(1).fit, frame))
            paired.told(f"one by one {one_by_one:.2f} s, {one_by_one / timings.ours_s:.1f} times ours")
            limit = min(local(x, y, fold, rounds, cores) for _ in range(max(given.pairs, 1)))
            apart[f"areas_apart_{rounds}"] = tuning_bench.metrics_apart(mine, theirs)
            by_rounds[str(rounds)] = {
                "ours_s": timings.ours_s, "peer_s": timings.peer_s, "ratio": timings.ratio, "one_by_one_s": one_by_one,
                "one_by_one_ratio": one_by_one / timings.ours_s, "local_s": limit, "over_local": timings.ours_s / limit,
            }  # fmt: skip
            met |= {
                f"peer at {rounds}": one_by_one / timings.ours_s >= TARGETS[rounds],
                f"peer at once at {rounds}": timings.ratio >= TARGETS[rounds],
                f"local at {rounds}": timings.ours_s <= TARGETS["local"] * limit,
            }
            paired.told(f"local      {limit:.2f} s, ours {timings.ours_s / limit:.2f} times that")
    spark.stop()
    first = by_rounds[str(ROUNDS[0])]
    found = {
        "bench": "trees_cv",
        "size": {"name": given.size, "rows": count, "features": features, "folds": tuning_bench.FOLDS, "points": len(DEPTHS) * len(RATES)},
        "ours_s": first["ours_s"], "peer_s": first["peer_s"], "ratio": first["ratio"],
        "scaling": {"rounds": by_rounds, "pairs": given.pairs},
        "quality": apart, "ok": max(apart.values()) <= APART, "targets_met": met,
    }  # fmt: skip
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
