"""Trailing windows and as-of joins against what plain Spark offers, on the same cached rows of one year.

    windows         against RANGE frames with the segment tree on: three keys, windows of 3 hours, 7 and 28 days,
                    a count and two averages each
    default frames  the same against RANGE frames as Spark runs them by default, on fewer rows
    as-of join      against a union of both sides, sorted by key and time, that carries the last row along
    slope           exponent of seconds over rows, from a sixteenth of the rows to all
    one key         seconds with all rows under one key over seconds with three keys: near 1 when no core waits

Sides alternate in one session after a warm-up each; the warm-up's results are stored and compared row by row.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from conf.schema import Environment
from conf.values import Duration
from jobs import session
from scripts import paired
from transforms.point_in_time import as_of_join
from transforms.windows import Aggregate, trailing

WIDTHS = [Duration.model_validate(text) for text in ("3 hours", "7 days", "28 days")]
AGGREGATES = [Aggregate("count", None, "rows"), Aggregate("avg", "x", "mean_x"), Aggregate("avg", "y", "mean_y")]
SIZES = {"small": (200_000, 30_000), "full": (2_000_000, 300_000)}  # rows, and rows of the default frames (minutes)
WITHIN = timedelta(hours=3)
SEGMENT_TREE = "spark.sql.window.segmentTree.enabled"
YEAR_SECONDS = 365 * 86_400
TARGETS = {"windows": 6.0, "default frames": 200.0, "as-of join": 3.0, "slope": 1.1, "one key": 1.3}


@dataclass(frozen=True)
class Comparison:
    """Median seconds of both sides and how far apart the values are: relative, 0 where both are null, infinite where one is."""

    rows: int
    ours_s: float
    peer_s: float
    ratio: float
    difference: float

    @property
    def equal(self) -> bool:
        return self.difference <= 1e-9


def events(spark: SparkSession, rows: int, keys: int) -> DataFrame:
    """Cached rows `id, key, at, x, y`, from the hash of their number: at random microseconds of 2013, values in [0, 1)."""
    share = [F.pmod(F.xxhash64("id", F.lit(salt)), F.lit(1 << 52)) for salt in range(4)]
    micros = F.unix_micros(F.lit("2013-01-01").cast("timestamp")) + share[1] % F.lit(YEAR_SECONDS * 1_000_000)
    frame = spark.range(rows).select(
        "id",
        (share[0] % keys).cast("int").alias("key"),
        F.timestamp_micros(micros).alias("at"),
        (share[2] / float(1 << 52)).alias("x"),
        (share[3] / float(1 << 52)).alias("y"),
    )
    frame = frame.cache()
    frame.count()
    return frame


def windows(frame: DataFrame) -> DataFrame:
    return trailing(
        frame,
        frame.select("key", "at", "x", "y"),
        by={"key": "key"},
        as_of="at",
        known_at="at",
        widths=WIDTHS,
        aggregates=AGGREGATES,
        name=lambda name, width: f"{name}_{width.suffix}",
    )


def range_frames(frame: DataFrame) -> DataFrame:
    """The same columns in Spark SQL: frames over microseconds that end one before the row's own."""
    frame = frame.withColumn("micros", F.unix_micros("at"))
    columns = []
    for aggregate in AGGREGATES:
        value = F.count("*") if aggregate.column is None else F.avg(aggregate.column)
        for width in WIDTHS:
            before = Window.partitionBy("key").orderBy("micros").rangeBetween(-width.seconds * 1_000_000, -1)
            columns.append(value.over(before).alias(f"{aggregate.name}_{width.suffix}"))
    return frame.select("*", *columns).drop("micros")


def join(frame: DataFrame) -> DataFrame:
    return as_of_join(
        frame,
        frame.select("id", "key", "at", "x", "y"),
        by={"key": "key"},
        as_of="at",
        known_at="at",
        at="at",
        key=["id"],
        within=WITHIN,
        take={"last_x": "x", "last_y": "y"},
    )


def union_sort(frame: DataFrame) -> DataFrame:
    """The same columns in Spark SQL: both sides in one sort, the queries of an instant before its rows."""
    row = F.struct("at", "x", "y")
    queries = frame.withColumns({"side": F.lit(0), "row": F.lit(None).cast("struct<at timestamp, x double, y double>")})
    rows = frame.withColumns({"side": F.lit(1), "row": row})
    before = Window.partitionBy("key").orderBy("at", "side", "id").rowsBetween(Window.unboundedPreceding, 0)
    last = F.last("row", ignorenulls=True).over(before)
    known = F.when(F.col("last.at") >= F.col("at") - F.expr(f"INTERVAL {WITHIN.seconds} SECONDS"), F.col("last"))
    return (
        queries.unionByName(rows)
        .withColumn("last", last)
        .where("side = 0")
        .withColumn("last", known)
        .select(*frame.columns, F.col("last.x").alias("last_x"), F.col("last.y").alias("last_y"))
    )


def compare(
    frame: DataFrame,
    ours: Callable[[DataFrame], DataFrame],
    peer: Callable[[DataFrame], DataFrame],
    rounds: int,
    folder: Path,
) -> Comparison:
    """Warm up both by storing their results, compare these, then take turns."""
    stored = {name: folder / f"{name}_{time.time_ns()}" for name in ("ours", "peer")}
    # Ours last: Spark stops Python workers that are idle for a minute, which is less than the peer may take.
    for name, side in (("peer", peer), ("ours", ours)):
        side(frame).write.parquet(str(stored[name]))
    spark = frame.sparkSession
    apart = difference(*(spark.read.parquet(str(stored[name])) for name in ("ours", "peer")), frame.columns)
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(max(rounds, 1)):
        for name, side in (("ours", ours), ("peer", peer)):
            paired.rest()
            times[name].append(_seconds(side(frame)))
    ours_s, peer_s = (statistics.median(times[name]) for name in ("ours", "peer"))
    return Comparison(frame.count(), round(ours_s, 2), round(peer_s, 2), round(peer_s / ours_s, 1), apart)


def _seconds(frame: DataFrame) -> float:
    """How long it takes to compute all rows."""
    start = time.perf_counter()
    frame.write.format("noop").mode("overwrite").save()
    return time.perf_counter() - start


def difference(ours: DataFrame, peer: DataFrame, identity: list[str]) -> float:
    """Largest relative difference of the values of any row; infinite if rows or nulls differ."""
    values = [name for name in peer.columns if name not in identity]
    both = ours.alias("ours").join(peer.alias("peer"), "id", "full")
    apart = []
    for name in [*(n for n in identity if n not in ("id", "at")), *values]:
        mine, theirs = F.col(f"ours.{name}").cast("double"), F.col(f"peer.{name}").cast("double")
        relative = F.abs(mine - theirs) / F.greatest(F.abs(theirs), F.lit(1e-300))
        equal = mine.eqNullSafe(theirs)
        apart.append(F.max(F.when(equal, 0.0).otherwise(F.coalesce(relative, F.lit(float("inf"))))).alias(name))
    found = both.agg(*apart).first()
    assert found is not None
    return max(found) if ours.count() == peer.count() else math.inf


def slope(spark: SparkSession, rows: int, rounds: int) -> tuple[float, dict[str, float]]:
    """Exponent of seconds over rows between a sixteenth of the rows and all of them, in the same year."""
    seconds = {}
    for count in (rows // 16, rows):
        frame = events(spark, count, 3)
        _seconds(windows(frame))
        seconds[str(count)] = round(min(_seconds(windows(frame)) for _ in range(max(rounds, 1))), 2)
        frame.unpersist()
    small, large = seconds.values()
    return round(math.log(large / small) / math.log(16), 2), seconds


def one_key(spark: SparkSession, rows: int, rounds: int) -> float:
    frames = [events(spark, rows, keys) for keys in (1, 3)]
    for frame in frames:
        _seconds(windows(frame))
    turns = [[_seconds(windows(frame)) for frame in frames] for _ in range(max(rounds, 1))]
    for frame in frames:
        frame.unpersist()
    hot, spread = (statistics.median(side) for side in zip(*turns, strict=True))
    return round(hot / spread, 2)


def run(spark: SparkSession, size: str, rounds: int) -> dict[str, Any]:
    """Measure all of it. `ok` is whether every result equals its peer's; `targets_met` is about speed."""
    rows, default_rows = SIZES[size]
    found: dict[str, Comparison] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame = events(spark, rows, 3)
        spark.conf.set(SEGMENT_TREE, "true")
        found["windows"] = _told("windows", compare(frame, windows, range_frames, rounds, folder))
        found["as-of join"] = _told("as-of join", compare(frame, join, union_sort, rounds, folder))
        frame.unpersist()
        spark.conf.set(SEGMENT_TREE, "false")
        frame = events(spark, default_rows, 3)
        found["default frames"] = _told("default frames", compare(frame, windows, range_frames, 1, folder))
        frame.unpersist()
    exponent, seconds = slope(spark, rows, rounds)
    hot = one_key(spark, rows, rounds)
    print(f"slope {exponent} ({seconds}), one key {hot}", file=sys.stderr)
    met = {name: comparison.ratio >= TARGETS[name] for name, comparison in found.items()}
    main = found["windows"]
    return {
        "bench": "features",
        "size": {"name": size, "rows": rows, "default_rows": default_rows, "rounds": rounds},
        "ours_s": main.ours_s,
        "peer_s": main.peer_s,
        "ratio": main.ratio,
        "scaling": {"slope": exponent, "seconds": seconds, "one_key": hot},
        "quality": {name: asdict(comparison) for name, comparison in found.items()},
        "targets_met": met | {"slope": exponent <= TARGETS["slope"], "one key": hot <= TARGETS["one key"]},
        "ok": all(comparison.equal for comparison in found.values()),
    }


def _told(name: str, found: Comparison) -> Comparison:
    print(
        f"{name:<15} {found.rows:>10,} rows  ours {found.ours_s:>8.2f} s  peer {found.peer_s:>8.2f} s  "
        f"{found.ratio:>6.1f}x  largest difference {found.difference:.1e}",
        file=sys.stderr,
    )
    return found


def main() -> int:
    given = paired.arguments(__doc__)
    spark = session.build(Environment(), app="bench features")
    try:
        found = run(spark, given.size, given.pairs)
    finally:
        spark.stop()
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
