"""One linear regression on many columns: `models.tuning.fit` against MLlib's own fit, on the same cached vector column."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from pyspark.ml.regression import LinearRegression

from conf.schema import Environment
from jobs import session
from models import tuning
from scripts import paired, tuning_bench

SIZES = {"small": (20_000, 200), "full": (60_000, 1000)}


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    count, features = SIZES[given.size]
    spark = session.build(Environment(driver_memory=tuning_bench.DRIVER_MEMORY), app="bench linear_fit")
    estimator = LinearRegression(labelCol="value", regParam=0.01)
    with tempfile.TemporaryDirectory() as folder:
        frame = tuning_bench.assembled(tuning_bench.rows(spark, count, features, Path(folder)))
        timings, ours, peer = paired.take_turns(
            lambda: tuning.fit(estimator, {}, frame), lambda: estimator.fit(frame), given.pairs
        )
        mine, theirs = (np.append(model.coefficients.toArray(), model.intercept) for model in (ours, peer))
    spark.stop()
    apart = float(np.max(np.abs(mine - theirs)) / np.max(np.abs(theirs)))
    size = {"name": given.size, "rows": count, "features": features}
    found = timings.line("linear_fit", size, {"coefficients_apart": apart}, ok=apart <= 1e-6)
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
