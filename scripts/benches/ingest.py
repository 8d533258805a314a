"""The ingest job against a bare `spark.read.csv(schema)` written to Delta, on the same files.

    ours        manifest, plain reader, rules, counts by file, commits and the ledger; the tables exist, as on any day but the first
    distinct    the part of it that looks for repeated keys
    peer        spark.read.csv with the schema, written to a new Delta table
    parquet     the same to bare Parquet, for comparison

Sides alternate in one session after a warm-up each; the rows of the warm-up are compared by their sum and count of hashes.
The files are the flights of 2013, several times over with other flight numbers.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Environment, Pipeline
from jobs import ingest, session
from jobs.delivery import Delivery, tables
from jobs.lake import Lake
from jobs.runs import Ledger, Run
from scripts import paired
from scripts.raw_flights import COLUMNS, write_files
from transforms import contracts

COPIES = {"small": 6, "full": 36}  # of the 336,776 flights
TARGETS = {"without_duplicates": 0.8, "with_duplicates": 0.65}
PIPELINE = {
    "pipeline": "bench",
    "task": "regression",
    "timezone": "America/New_York",
    "sources": {
        "flights": {
            "files": "flights/*.csv",
            "nulls": ["NA"],
            "columns": COLUMNS,
            "key": ["carrier", "flight", "origin", "time_hour"],
            "at": "time_hour",
            "rules": {"known_origin": "origin IN ('EWR', 'JFK', 'LGA')", "distance_positive": "distance > 0"},
        }
    },
    "features": {"spine": "flights", "label": {"name": "late", "value": "arr_delay"}},
    "split": {"test": {"share": 0.2}},
    "train": {"metric": "rmse", "candidates": {"linear": {"estimator": "linear_regression"}}},
}


@dataclass
class Seconds:
    """One round of each side."""

    ours: list[float]
    distinct: list[float]
    peer: list[float]
    parquet: list[float]


class Sides:
    """Both sides on the files under `folder/raw`; each call writes to a new folder that the next one removes."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self._spark, self._folder = spark, folder
        self._pipeline = Pipeline.model_validate(PIPELINE)
        self._environment = Environment(raw=str(folder / "raw"))

    def ours(self) -> tuple[float, float, DataFrame]:
        """Seconds of the job, of its search for repeated keys, and the rows that it wrote."""
        root = self._new("ours")
        lake = Lake(self._spark, root)
        run = Run(self._spark, self._pipeline, self._environment, lake, Ledger(lake, "bench"))
        silver, quarantine = tables(run, "flights")
        for table in (silver, quarantine, contracts.files("bench"), contracts.stages("bench")):
            lake.create(table)
        began = time.perf_counter()
        with _timed_distinct() as distinct:
            ingest.run(run)
        return time.perf_counter() - began, distinct.seconds, lake.read(silver)

    def peer(self, file_format: str) -> tuple[float, DataFrame]:
        """Seconds of reading and writing, and the rows written."""
        root = self._new(file_format)
        schema = ", ".join(f"{name} {kind.rstrip('!')}" for name, kind in COLUMNS.items())
        began = time.perf_counter()
        reader = self._spark.read.option("header", True).option("nullValue", "NA").option("escape", '"')
        reader.schema(schema).csv(f"{self._folder}/raw/flights").write.format(file_format).save(root)
        return time.perf_counter() - began, self._spark.read.format(file_format).load(root)

    def _new(self, name: str) -> str:
        shutil.rmtree(self._folder / name, ignore_errors=True)
        return str(self._folder / name)


class _timed_distinct:
    """Adds up the seconds that deliveries spend on repeated keys while the block runs."""

    def __enter__(self) -> _timed_distinct:
        self.seconds, self._plain = 0.0, Delivery._make_distinct

        def timed(delivery: Delivery) -> None:
            began = time.perf_counter()
            self._plain(delivery)
            self.seconds += time.perf_counter() - began

        Delivery._make_distinct = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        Delivery._make_distinct = self._plain  # type: ignore[method-assign]


def summary(frame: DataFrame) -> tuple[int, int]:
    """Rows, and the sum of their hashes, of the columns that both sides have."""
    marks = F.struct(*COLUMNS)
    row = frame.agg(F.count(F.lit(1)), F.sum(F.xxhash64(F.to_json(marks)).cast("decimal(38,0)"))).collect()[0]
    return int(row[0]), int(row[1])


def run(spark: SparkSession, size: str, rounds: int) -> dict[str, Any]:
    """Measure. `ok` is whether both sides wrote the same rows; `targets_met` is about speed."""
    copies = COPIES[size]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_files(folder / "raw", copies)
        sides = Sides(spark, folder)
        written = summary(sides.ours()[2]), summary(sides.peer("delta")[1])
        found = Seconds([], [], [], [])
        for _ in range(rounds):
            ours, distinct, _rows = sides.ours()
            found.ours.append(ours)
            found.distinct.append(distinct)
            found.peer.append(sides.peer("delta")[0])
            found.parquet.append(sides.peer("parquet")[0])
    ours_s, distinct_s, peer_s, parquet_s = (
        statistics.median(side) for side in (found.ours, found.distinct, found.peer, found.parquet)
    )
    ratios = {"without_duplicates": peer_s / (ours_s - distinct_s), "with_duplicates": peer_s / ours_s}
    table = {"ours": ours_s, "of it distinct": distinct_s, "peer": peer_s, "parquet": parquet_s}
    for side, seconds in table.items():
        print(f"{side:<16} {rows:>10,} rows {seconds:>8.2f} s", file=sys.stderr)
    for what, ratio in ratios.items():
        print(f"{what:<20} {ratio:.2f}x, wanted {TARGETS[what]}x", file=sys.stderr)
    return {
        "bench": "ingest",
        "size": {"name": size, "rows": rows, "columns": len(COLUMNS), "files": 12 * copies, "rounds": rounds},
        "ours_s": round(ours_s, 2),
        "peer_s": round(peer_s, 2),
        "ratio": round(ratios["with_duplicates"], 2),
        "scaling": {"rows_per_second": round(rows / ours_s), "distinct_s": round(distinct_s, 2)},
        "quality": {**{what: round(ratio, 2) for what, ratio in ratios.items()}, "parquet_s": round(parquet_s, 2)},
        "targets_met": {what: ratio >= TARGETS[what] for what, ratio in ratios.items()},
        "ok": written[0] == written[1],
    }


def main() -> int:
    given = paired.arguments(__doc__)
    spark = session.build(Environment(driver_memory="2g"), app="bench ingest")
    try:
        found = run(spark, given.size, given.pairs)
    finally:
        spark.stop()
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
