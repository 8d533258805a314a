"""Boosted trees of up to 200 rounds that stop early, 5 folds x 12 points: ours, which halves the grid, against xgboost.spark under stock CrossValidator.

    ours        models.tuning.CrossValidator with halving 2
    peer        stock CrossValidator over the same estimator, as many fits at once as there are cores
    one by one  the same with stock's own parallelism, which is one fit after the other; timed once

A tenth of the training rows tells both sides when to stop. `behind` is how far our winner is from the best by the peer's own areas.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from pyspark.sql import functions as F

from conf.schema import Environment
from jobs import session
from scripts import paired, tuning_bench
from scripts.benches import trees_cv

ROUNDS, PATIENCE = 200, 10
TARGET, APART = 5.0, 0.002


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    count, features = trees_cv.SIZES[given.size]
    spark = session.build(Environment(driver_memory=tuning_bench.DRIVER_MEMORY), app="bench trees_early")
    estimator, grid, judge = trees_cv.problem(ROUNDS, early_stopping_rounds=PATIENCE, validation_indicator_col="aside")
    ours, peer = tuning_bench.validators(estimator, grid, judge)
    ours.setHalving(2)
    with tempfile.TemporaryDirectory() as folder:
        frame = tuning_bench.assembled(tuning_bench.rows(spark, count, features, Path(folder)))
        rows = frame.withColumn("aside", F.pmod(F.xxhash64("value"), F.lit(10)) == 0)
        timings, mine, theirs = paired.take_turns(partial(ours.fit, rows), partial(peer.fit, rows), given.pairs)
        one_by_one, _ = paired.seconds(partial(peer.setParallelism(1).fit, rows))
    one_by_one_ratio = one_by_one / timings.ours_s
    paired.told(f"one by one {one_by_one:.2f} s, {one_by_one_ratio:.1f} times ours")
    spark.stop()
    (won,) = (
        point
        for point, extra in enumerate(grid)
        if all(mine.bestModel.getOrDefault(param.name) == value for param, value in extra.items())
    )
    behind = float(max(theirs.avgMetrics) - theirs.avgMetrics[won])
    size = {"name": given.size, "rows": count, "features": features, "rounds": ROUNDS, "folds": tuning_bench.FOLDS, "points": len(grid)}  # fmt: skip
    scaling = {"one_by_one_s": one_by_one, "one_by_one_ratio": one_by_one_ratio}
    found = timings.line("trees_early", size, {"behind": behind}, ok=behind <= APART, **scaling)
    met = {
        "one by one": one_by_one_ratio >= TARGET,
        "at once": timings.ratio >= TARGET,
    }
    return paired.finish({**found, "targets_met": met}, given)


if __name__ == "__main__":
    sys.exit(main())
