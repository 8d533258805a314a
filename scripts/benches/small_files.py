"""Ingest of the same rows from 20,000 small files and from 20 large ones: rows a second of the first over the second (`ratio`)."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
from pyspark.sql import SparkSession

from conf.schema import Environment, Pipeline
from jobs import ingest, session
from jobs.lake import Lake
from jobs.runs import Ledger, Run
from scripts import paired
from scripts.benches.ingest import PIPELINE
from scripts.raw_flights import COLUMNS, write_files

SIZES = {"small": (2, 500, 5), "full": (12, 20_000, 20)}  # copies of the flights, small files, large files
TARGET = 0.5


def cut(table: pa.Table, files: int, raw: Path) -> None:
    """The rows in so many files of equal size."""
    (raw / "flights").mkdir(parents=True)
    quoting = pacsv.WriteOptions(quoting_style="none")
    for number in range(files):
        first, last = (table.num_rows * n // files for n in (number, number + 1))
        pacsv.write_csv(table.slice(first, last - first), raw / "flights" / f"{number:05}.csv", quoting)


def seconds(spark: SparkSession, raw: Path, lake_root: Path) -> tuple[float, int]:
    """Of the ingest job into a new lake, and the rows that it took."""
    lake = Lake(spark, str(lake_root))
    pipeline = Pipeline.model_validate(PIPELINE)
    run = Run(spark, pipeline, Environment(raw=str(raw)), lake, Ledger(lake, "bench"))
    began = time.perf_counter()
    (outcome,) = ingest.run(run)
    return time.perf_counter() - began, int(outcome.rows_out or 0)


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    copies, small, large = SIZES[given.size]
    spark = session.build(Environment(driver_memory="4g"), app="bench small_files")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = write_files(folder / "whole", copies)
        text = pacsv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
        files = sorted((folder / "whole/flights").glob("*.csv"))
        table = pa.concat_tables([pacsv.read_csv(file, convert_options=text) for file in files]).combine_chunks()
        cut(table, small, folder / "small")
        cut(table, large, folder / "large")
        del table
        seconds(spark, folder / "large", folder / "warm")
        rounds: list[tuple[float, float]] = []
        taken: set[int] = set()
        for turn in range(given.pairs):
            (of_small, rows), (of_large, others) = (
                seconds(spark, folder / kind, folder / f"{kind}-{turn}") for kind in ("small", "large")
            )
            paired.told(f"{small} files {of_small:.1f} s, {large} files {of_large:.1f} s")
            rounds.append((of_small, of_large))
            taken |= {rows, others}
    spark.stop()
    ours_s, peer_s = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratio = statistics.median(of_large / of_small for of_small, of_large in rounds)
    found: dict[str, Any] = {
        "bench": "small_files", "size": {"name": given.size, "rows": count, "files": small, "large_files": large},
        "ours_s": ours_s, "peer_s": peer_s, "ratio": ratio, "scaling": {"rows_per_second": round(count / ours_s)},
        "quality": {}, "targets_met": {"ratio": ratio >= TARGET}, "ok": len(taken) == 1,
    }  # fmt: skip
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
