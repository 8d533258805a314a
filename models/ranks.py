"""The distinct values of a column in order, with exact sums of what lies before each.

Nothing is ranked by one task: values are cut into ranges, sums run inside each range, and the totals of the ranges before it are
added. Boundaries come from rows picked by their hash, so they depend on the data alone, not on how Spark holds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

ROWS_PER_RANGE = 30_000
MOST_RANGES = 64
_SAMPLE = 50_000


def range_count(rows: int) -> int:
    """Number of ranges (or other parts) for so many rows: a function of the data, never of the cores."""
    return min(MOST_RANGES, rows // ROWS_PER_RANGE + 1)


def descending_range(frame: DataFrame, column: str, *, row: Column, rows: int) -> Column:
    """The range that a value of `column` lies in, counted from 0 for the highest values; equal values share a range.

    Args:
        column: a double without nulls and NaN.
        row: a 64-bit hash of each row; it decides which rows the boundaries are taken from.
        rows: about how many rows the frame has.
    """
    count = range_count(rows)
    if count == 1:
        # Always 0. The optimizer would fold a literal away, and with it the partition of the windows over it.
        return F.col(column).isNull().cast("int")
    shares = [index / count for index in range(1, count)]
    boundaries = sampled_quantiles(frame, column, shares, row=row, rows=rows)
    return F.size(F.filter(F.array(*map(F.lit, boundaries)), lambda boundary: boundary > F.col(column)))


def sampled_quantiles(frame: DataFrame, column: str, shares: Sequence[float], *, row: Column, rows: int) -> list[float]:
    """About these quantiles, from rows picked by their hash: the same for the same rows; empty when none is picked."""
    picked = F.pmod(row, F.lit(max(1, rows // _SAMPLE))) == 0
    quantiles = F.percentile(F.when(picked, F.col(column)), F.array(*map(F.lit, shares)))
    found = frame.agg(quantiles.alias("quantiles")).first()
    return list(found["quantiles"] or []) if found else []


@dataclass(frozen=True)
class Steps:
    """Distinct values from the highest to the lowest.

    `frame` has one row per value: `value`, each sum under its name, and `<name>_before`: the sum over all higher values.
    `totals` are the sums over all values.
    """

    frame: DataFrame
    totals: dict[str, int]


@contextmanager
def descending_steps(frame: DataFrame, column: str, **counts: Column) -> Iterator[Steps]:
    """Group by the values of `column` and accumulate from the highest down; released when the block ends.

    Args:
        column: a double without nulls and NaN.
        counts: name -> expression of whole numbers, summed per value (whole, so that no order of addition shows).
    """
    sums = [F.sum(count).alias(name) for name, count in counts.items()]
    values = frame.groupBy(F.col(column).alias("value")).agg(*sums).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        part = descending_range(values, "value", row=F.xxhash64("value"), rows=values.count())
        ranged = values.withColumn("part", part)
        totals, offsets = _offsets(ranged, list(counts))
        window = Window.partitionBy("part").orderBy(F.col("value").desc()).rowsBetween(Window.unboundedPreceding, -1)
        before = [
            F.coalesce(F.sum(name).over(window), F.lit(0)) + F.element_at(offsets[name], F.col("part") + 1)
            for name in counts
        ]
        running = [column.alias(f"{name}_before") for name, column in zip(counts, before, strict=True)]
        yield Steps(ranged.select("value", *counts, *running), totals)
    finally:
        values.unpersist()


def _offsets(ranged: DataFrame, names: list[str]) -> tuple[dict[str, int], Mapping[str, Column]]:
    """Sums over all ranges, and for each sum an array: what lies in the ranges before range 0, 1, 2, ..."""
    sums = ranged.groupBy("part").agg(*(F.sum(name).alias(name) for name in names))
    found = {row["part"]: row for row in sums.collect()}
    totals = dict.fromkeys(names, 0)
    before: dict[str, list[Column]] = {name: [] for name in names}
    for part in range(max(found, default=0) + 1):
        for name in names:
            before[name].append(F.lit(totals[name]).cast("long"))
            totals[name] += found[part][name] if part in found else 0
    return totals, {name: F.array(*columns) for name, columns in before.items()}


def exact_quantiles(frame: DataFrame, column: str, shares: Sequence[float]) -> list[float]:
    """Quantiles of a column over all rows, linear between neighbours as in NumPy; empty for no rows."""
    with descending_steps(frame, column, rows=F.lit(1)) as steps:
        count = steps.totals["rows"]
        if count == 0:
            return []
        # Ranks counted from the highest value, as the steps are.
        places = [(count - 1) * (1 - share) for share in shares]
        ranks = sorted({rank for place in places for rank in (math.floor(place), math.ceil(place))})
        before, after = F.col("rows_before"), F.col("rows_before") + F.col("rows")
        wanted = F.exists(F.array(*(F.lit(rank).cast("long") for rank in ranks)), lambda r: (r >= before) & (r < after))
        found = steps.frame.where(wanted).collect()
    values = {rank: row["value"] for row in found for rank in ranks if 0 <= rank - row["rows_before"] < row["rows"]}
    quantiles = []
    for place in places:
        lower = math.floor(place)
        quantiles.append(values[lower] + (values[math.ceil(place)] - values[lower]) * (place - lower))
    return quantiles
