"""Cross-validation of linear and of logistic regression on a GPU against the same on the processors.

One session, one cached vector column, 5 folds x 20 and 5 x 12 points: `spark.millrace.gpu` is `require` for ours and `never` for the
peer. `ours_s`, `peer_s` and `ratio` are those of logistic regression. `quality` compares metrics of all points and coefficients of the
best model. Where cuML is installed, NVIDIA's spark-rapids-ml searches the same on the same GPU, once warm: `rapids_s`. Without a GPU it says so,
and the exit code is 3.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from models import gpus
from scripts import gpu_bench, paired, tuning_bench
from scripts.benches import linear_cv, logistic_cv

SIZES = {"small": (200_000, 50), "full": (4_000_000, 100)}
APART = 1e-8


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    count, features = SIZES[given.size]
    spark = gpu_bench.started(Path(__file__).stem, "arrays", "48g")
    quality: dict[str, float] = {}
    scaling: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        frame = tuning_bench.assembled(tuning_bench.rows(spark, count, features, Path(folder)))
        for name, problem in (("linear", linear_cv.problem), ("logistic", logistic_cv.problem)):
            paired.told(name)
            ours, _ = tuning_bench.validators(*problem())
            timings, mine, theirs = gpu_bench.on_both(ours, frame, given.pairs)
            quality[f"{name}_metrics_apart"] = tuning_bench.metrics_apart(mine, theirs)
            if not gpus.found(spark).estimators:
                rapids = gpu_bench.rapids(*problem(), tuning_bench.FOLDS)
                rapids.fit(frame)
                rapids_s, _ = paired.seconds(partial(rapids.fit, frame))
                paired.told(f"rapids     {rapids_s:.2f} s, {rapids_s / timings.ours_s:.1f} times ours")
                scaling[f"{name}_rapids"] = {"rapids_s": rapids_s, "rapids_ratio": rapids_s / timings.ours_s}
            quality[f"{name}_coefficients_apart"] = tuning_bench.coefficients_apart(mine, theirs)
            scaling[name] = {
                "gpu_s": timings.ours_s, "cpu_s": timings.peer_s, "ratio": timings.ratio, "gpu_cold_s": timings.ours_cold,
            }  # fmt: skip
    spark.stop()
    size = {"name": given.size, "rows": count, "features": features, "folds": tuning_bench.FOLDS}
    found = timings.line(Path(__file__).stem, size, quality, ok=max(quality.values()) <= APART)
    found["scaling"] |= scaling
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
