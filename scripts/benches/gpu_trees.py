"""Cross-validation of boosted trees on a GPU against the same on the processors, one thread a model and as many models at once as cores.

One session, one cached vector column, 5 folds x 4 points, 20 rounds: `spark.millrace.gpu` is `require` for ours and `never` for the peer.
`quality` compares the areas of all points: a GPU adds up in another order, so that trees may differ. Without a GPU it says so, and the
exit code is 3.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.tuning import ParamGridBuilder
from xgboost.spark import SparkXGBClassifier

from scripts import gpu_bench, paired, tuning_bench

SIZES = {"small": (1_000_000, 50), "full": (5_000_000, 50)}
ROUNDS, DEPTHS, RATES = 20, (4, 6), (0.1, 0.3)
APART = 0.002


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    count, features = SIZES[given.size]
    spark = gpu_bench.started(Path(__file__).stem, "trees", "48g")
    estimator = SparkXGBClassifier(label_col="flag", n_estimators=ROUNDS, num_workers=1, missing=float("nan"))
    grid = ParamGridBuilder().addGrid(estimator.max_depth, list(DEPTHS)).addGrid(estimator.learning_rate, list(RATES))
    ours, _ = tuning_bench.validators(
        estimator, grid.build(), BinaryClassificationEvaluator(labelCol="flag", numBins=0)
    )
    with tempfile.TemporaryDirectory() as folder:
        frame = tuning_bench.assembled(tuning_bench.rows(spark, count, features, Path(folder)))
        timings, mine, theirs = gpu_bench.on_both(ours, frame, given.pairs)
    spark.stop()
    apart = tuning_bench.metrics_apart(mine, theirs)
    points = len(DEPTHS) * len(RATES)
    size = {
        "name": given.size,
        "rows": count,
        "features": features,
        "folds": tuning_bench.FOLDS,
        "points": points,
        "rounds": ROUNDS,
    }
    return paired.finish(timings.line(Path(__file__).stem, size, {"areas_apart": apart}, ok=apart <= APART), given)


if __name__ == "__main__":
    sys.exit(main())
