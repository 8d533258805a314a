"""Aggregates over the rows of another table that belong to a row, each evaluated over no rows at all where there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import reduce
from operator import and_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from transforms.contracts import key_condition


def totals(
    queries: DataFrame,
    rows: DataFrame,
    *,
    by: Mapping[str, str],
    row_key: Sequence[str],
    take: Mapping[str, str],
    before: tuple[str, str] | None = None,
    ahead: tuple[str, str, timedelta] | None = None,
) -> DataFrame:
    """The queries, each row once, with one column per aggregate of `take` (name -> SQL over the columns of `rows`).

    A row belongs to a query when the columns of `by` (queries -> rows) are equal; nulls match nothing. Sums of doubles are added
    in the order of the rows' values, so they do not depend on partitioning.

    Args:
        row_key: columns that tell the queries apart.
        before: (`as_of`, `known_at`): only rows with `known_at < as_of` count.
        ahead: (`as_of`, `known_at`, length): only rows with `as_of <= known_at < as_of + length` count.
    """
    aggregates = [F.expr(text).alias(name) for name, text in take.items()]
    pairs = _pairs(queries, rows, by=by, row_key=row_key, before=before, ahead=ahead)
    keys = [_row(i) for i in range(len(row_key))]
    grouped = pairs.repartition(*keys).sortWithinPartitions(*keys, *rows.columns).groupBy(*keys).agg(*aggregates)
    grouped = grouped.withColumnsRenamed(dict(zip(keys, row_key, strict=True))).withColumn("_matched", F.lit(True))
    nothing = queries.sparkSession.createDataFrame([], rows.schema).agg(*aggregates).head()
    assert nothing is not None
    values = [
        F.when(F.col("right._matched"), F.col(f"right.{name}"))
        .otherwise(F.lit(nothing[name]).cast(grouped.schema[name].dataType))
        .alias(name)
        for name in take
    ]
    joined = queries.alias("left").join(grouped.alias("right"), key_condition(row_key, "left", "right"), "left")
    return joined.select("left.*", *values)


def _pairs(
    queries: DataFrame,
    rows: DataFrame,
    *,
    by: Mapping[str, str],
    row_key: Sequence[str],
    before: tuple[str, str] | None,
    ahead: tuple[str, str, timedelta] | None,
) -> DataFrame:
    """Each row of `rows` beside the key (`_row_0`...) of each query that it belongs to."""
    timed = before or ahead
    asking = queries.select(
        *(F.col(name).alias(_row(i)) for i, name in enumerate(row_key)),
        *(F.col(name).alias(f"_by_{i}") for i, name in enumerate(by)),
        *([F.unix_micros(timed[0]).alias("_from")] if timed else []),
    )
    conditions: list[Column] = [asking[f"_by_{i}"] == rows[name] for i, name in enumerate(by.values())]
    if before:
        conditions.append(F.unix_micros(rows[before[1]]) < asking["_from"])
    if ahead:
        return _pairs_ahead(asking, rows, conditions, known_at=ahead[1], width=ahead[2] // timedelta(microseconds=1))
    return asking.join(rows, reduce(and_, conditions), "inner")


def _pairs_ahead(
    asking: DataFrame, rows: DataFrame, conditions: list[Column], *, known_at: str, width: int
) -> DataFrame:
    """The join on a range of time, made an equality on buckets as wide as the range: else every pair of a key would be looked at."""
    moment = F.unix_micros(rows[known_at])
    own = _bucket(F.col("_from"), width)
    asking = asking.withColumn("_bucket", F.explode(F.array(own, own + 1)))
    conditions = [
        *conditions,
        asking["_bucket"] == _bucket(moment, width),
        moment >= asking["_from"],
        moment < asking["_from"] + width,
    ]
    return asking.join(rows, reduce(and_, conditions), "inner")


def _bucket(moment: Column, width: int) -> Column:
    return ((moment - F.pmod(moment, F.lit(width))) / width).cast("long")


def _row(index: int) -> str:
    return f"_row_{index}"
