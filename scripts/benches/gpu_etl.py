"""Spark SQL on a GPU by NVIDIA's RAPIDS plugin against the same on the processors, in one session: a scan with sums, windows, an as-of join.

Both sides read the same Parquet files. Windows and as-of joins have Python between their operators, which stays on the processors.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.load import load_environment
from jobs import rapids, session
from scripts import paired
from scripts.benches import features
from scripts.gpu_bench import NO_GPU

SIZES = {"small": 200_000, "full": 20_000_000}
ON = "spark.rapids.sql.enabled"


def sums(frame: DataFrame) -> DataFrame:
    """By the hour and key."""
    by = frame.groupBy("key", F.date_trunc("hour", "at").alias("at"))
    return by.agg(
        F.count(F.lit(1)).alias("rows"), F.sum("x").alias("x"), F.max("y").alias("y"), F.min("id").alias("id")
    )


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    problem = rapids.without_gpu()
    if problem:
        paired.told(f"gpu_etl needs a GPU: {problem}. Nothing was measured.")
        return NO_GPU
    environment = load_environment("gpu").model_copy(update={"gpu": "require"})
    spark = session.build(environment, app="bench gpu_etl")
    rows = SIZES[given.size]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        features.events(spark, rows, 3).write.parquet(str(folder / "events"))
        frame = spark.read.parquet(str(folder / "events"))
        for work in (sums, features.windows, features.join):

            def stored(on: str, work: Any = work) -> str:
                spark.conf.set(ON, on)
                target = folder / f"{work.__name__}_{on}"
                work(frame).write.mode("overwrite").parquet(str(target))
                return str(target)

            timings, mine, theirs = paired.take_turns(partial(stored, "true"), partial(stored, "false"), given.pairs)
            spark.conf.set(ON, "false")
            apart = features.difference(spark.read.parquet(mine), spark.read.parquet(theirs), ["id", "key", "at"])
            found[work.__name__] = {
                "gpu_s": timings.ours_s, "cpu_s": timings.peer_s, "ratio": timings.ratio, "apart": apart,
            }  # fmt: skip
            paired.told(
                f"{work.__name__:<10} GPU {timings.ours_s:.2f} s, processors {timings.peer_s:.2f} s, apart {apart:.1e}"
            )
    spark.stop()
    first = found["sums"]
    line = {
        "bench": "gpu_etl", "size": {"name": given.size, "rows": rows}, "ours_s": first["gpu_s"], "peer_s": first["cpu_s"],
        "ratio": first["ratio"], "scaling": found, "quality": {name: each["apart"] for name, each in found.items()},
        "ok": all(each["apart"] <= 1e-9 for each in found.values()),
    }  # fmt: skip
    return paired.finish(line, given)


if __name__ == "__main__":
    sys.exit(main())
