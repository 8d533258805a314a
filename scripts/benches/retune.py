"""Cross-validation after one percent of new rows: ours from kept statistics and the new rows, stock from all rows anew.

Linear regression, 5 folds x 20 points, on the rows of `linear_cv`; `scaling.all_rows_s` is ours from all rows. What takes the statistics of the
old rows is not timed: they are kept from the fit before.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pyspark.sql import functions as F

from conf.schema import Environment
from jobs import session
from models import tuning
from scripts import paired, tuning_bench
from scripts.benches import linear_cv

NEW_ROWS = 0.01


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    count, features = linear_cv.SIZES[given.size]
    spark = session.build(Environment(driver_memory=tuning_bench.DRIVER_MEMORY), app="bench retune")
    estimator, grid, evaluator = linear_cv.problem()
    ours, peer = tuning_bench.validators(estimator, grid, evaluator)
    with tempfile.TemporaryDirectory() as folder:
        frame = tuning_bench.assembled(tuning_bench.rows(spark, count, features, Path(folder, "rows")))
        is_new = F.pmod(F.xxhash64("value"), F.lit(1_000_000)) < NEW_ROWS * 1_000_000
        new = frame.filter(is_new).cache()
        new_rows = new.count()
        kept = str(Path(folder, "statistics"))
        ours.statistics(frame.filter(~is_new)).save(kept)
        timings, mine, theirs = paired.take_turns(
            lambda: ours.fitStatistics(tuning.Statistics.load(kept) + ours.statistics(new)),
            lambda: peer.fit(frame),
            given.pairs,
        )
        all_rows, whole = paired.seconds(lambda: ours.fit(frame))
    spark.stop()
    quality = {
        "metrics_apart": tuning_bench.metrics_apart(mine, theirs),
        "metrics_apart_from_all_rows": tuning_bench.metrics_apart(mine, whole),
    }
    ok = quality["metrics_apart"] <= 1e-4 and quality["metrics_apart_from_all_rows"] <= 1e-9
    size = {"name": given.size, "rows": count, "new_rows": new_rows, "features": features, "points": len(grid)}
    found = timings.line("retune", size, quality, ok=ok, all_rows_s=all_rows)
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
