"""Trailing windows against a brute-force reading of their definition, and against Spark's own RANGE frames."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from conf.values import Duration
from transforms.errors import ContractError
from transforms.windows import FUNCTIONS, Aggregate, trailing

COUNT = Aggregate("count", None, "rows")


def durations(*texts: str) -> list[Duration]:
    return [Duration.model_validate(text) for text in texts]


def named(name: str, width: Duration) -> str:
    return f"{name}_{width.suffix}"


def at(hour: int, minute: int = 0, day: int = 1) -> dt.datetime:
    return dt.datetime(2013, 1, day, hour, minute, tzinfo=dt.UTC)


EVENTS = "carrier string, number int, known_at timestamp, delay double, seats bigint, status string"


def generated(seed: int, rows: int, start: str, hours: int) -> list[dict[str, Any]]:
    """Rows with ties, gaps, nulls everywhere and two key columns; half of the instants on the hour, so that ends coincide."""
    rng = np.random.default_rng(seed)
    begin = pd.Timestamp(start, tz="America/New_York").tz_convert("UTC").to_pydatetime()

    def row() -> dict[str, Any]:
        hour = int(rng.integers(0, hours))
        if hour > hours * 2 / 3:
            hour = hours * 5 // 6  # a gap, and many rows at its end
        second = int(rng.integers(0, 3600) * rng.integers(0, 2))
        values = {
            "carrier": str(rng.choice(["AA", "B6", ""])),
            "number": int(rng.choice([1, 2, -7])),
            "known_at": begin + dt.timedelta(hours=hour, seconds=second),
            "delay": round(float(rng.normal(1e6, 1.0)), 3),
            "seats": int(rng.integers(-5, 400)),
            "status": str(rng.choice(["late", "on time", "é"])),
        }
        return {name: None if rng.random() < 0.1 else value for name, value in values.items()}

    return [row() for _ in range(rows)]


def brute_force(window: list[dict[str, Any]], aggregate: Aggregate) -> Any:
    """One aggregate of the events of one window, as SQL defines it."""
    if aggregate.column is None:
        return len(window)
    known = [(event["known_at"], event[aggregate.column]) for event in window if event[aggregate.column] is not None]
    values = [value for _, value in known]
    if aggregate.function == "count":
        return len(values)
    if len(values) < (2 if aggregate.function in ("variance", "stddev") else 1):
        return None
    compute: dict[str, Callable[[list[Any]], Any]] = {
        "sum": sum,
        "avg": np.mean,
        "min": min,
        "max": max,
        "variance": lambda x: np.var(x, ddof=1),
        "stddev": lambda x: np.std(x, ddof=1),
        "last": lambda _: max(known)[1],
    }
    return compute[aggregate.function](values)


@pytest.mark.parametrize(
    ("seed", "start"),
    [(0, "2013-03-09 12:00"), (1, "2013-11-02 12:00"), (2, "1969-12-31 12:00")],
    ids=["clocks go forward", "clocks go back", "across the epoch"],
)
def test_every_window_holds_what_its_definition_says(spark: SparkSession, seed: int, start: str) -> None:
    """On generated rows with ties, gaps, nulls and a change of clocks, each value equals the brute-force one."""
    events = generated(seed, 400, start, 60)
    queries = [(row["carrier"], row["number"], row["known_at"]) for row in generated(seed + 10, 120, start, 70)]
    columns = {"delay": FUNCTIONS, "seats": FUNCTIONS, "status": ("count", "min", "max", "last")}
    aggregates = [COUNT, *(Aggregate(f, c, f"{f}_{c}") for c, functions in columns.items() for f in functions)]
    widths = durations("1 hour", "7 hours", "2 days")

    found = trailing(
        spark.createDataFrame(queries, "airline string, flight smallint, as_of timestamp").repartition(2),
        spark.createDataFrame([tuple(event.values()) for event in events], EVENTS).repartition(3),
        by={"airline": "carrier", "flight": "number"},
        as_of="as_of",
        known_at="known_at",
        widths=widths,
        aggregates=aggregates,
        name=named,
    ).collect()

    assert len(found) == len(queries)
    assert sum(row["rows_7_hours"] > 3 for row in found) > 20
    for row in found:
        moment = row.as_of and row.as_of.replace(tzinfo=dt.UTC)
        for width in widths:
            window = [
                event
                for event in events
                if None not in (moment, row.airline, row.flight, event["known_at"])
                and (event["carrier"], event["number"]) == (row.airline, row.flight)
                and moment - width.length <= event["known_at"] < moment
            ]
            expected = {a.name: brute_force(window, a) for a in aggregates}
            assert {a.name: row[named(a.name, width)] for a in aggregates} == {
                name: pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
                for name, value in expected.items()
            }


@pytest.mark.quick
def test_a_window_is_closed_where_it_starts_and_open_where_it_ends(spark: SparkSession) -> None:
    """An event exactly one width before counts, one at the very moment does not; nothing found is a count of 0 and nulls."""
    queries = spark.createDataFrame(
        [("a", at(12)), ("a", at(14)), ("b", at(12)), (None, at(12)), ("a", None)], "k string, as_of timestamp"
    )
    events = spark.createDataFrame(
        [("a", at(10), 1.0), ("a", at(9, 59), 2.0), ("a", at(12), 4.0), ("a", None, 8.0), (None, at(11), 16.0)],
        "k string, known_at timestamp, x double",
    )
    found = trailing(
        queries,
        events,
        by={"k": "k"},
        as_of="as_of",
        known_at="known_at",
        widths=durations("2 hours"),
        aggregates=[COUNT, Aggregate("sum", "x", "x")],
        name=lambda name, _: name,
    )
    none = {"rows": 0, "x": None}
    assert sorted((row.asDict() for row in found.collect()), key=str) == sorted(
        [
            {"k": "a", "as_of": dt.datetime(2013, 1, 1, 12), "rows": 1, "x": 1.0},
            {"k": "a", "as_of": dt.datetime(2013, 1, 1, 14), "rows": 1, "x": 4.0},
            {"k": "b", "as_of": dt.datetime(2013, 1, 1, 12), **none},
            {"k": None, "as_of": dt.datetime(2013, 1, 1, 12), **none},
            {"k": "a", "as_of": None, **none},
        ],
        key=str,
    )


def test_windows_agree_with_range_frames(spark: SparkSession) -> None:
    """NaN, infinities, decimals, floats and small integers give what Spark's own frames give, types included."""
    rng = np.random.default_rng(3)
    special = [float("nan"), float("inf"), float("-inf"), 0.5, -2.25, 1e300, 3.0]
    rows = [
        (
            i,
            int(rng.integers(0, 2)),
            at(0) + dt.timedelta(minutes=int(m)),
            float(rng.choice(special)),
            float(np.float32(rng.normal())),
            int(rng.integers(-9, 9)),
            Decimal(int(rng.integers(-999, 999))) / 100,
        )
        for i, m in enumerate(rng.choice(6000, 250, replace=False))
    ]
    frame = spark.createDataFrame(
        rows, "id int, k int, at timestamp, special double, small float, tiny smallint, money decimal(9,2)"
    ).repartition(3)
    functions = [f for f in FUNCTIONS if f != "last"]
    aggregates = [
        Aggregate(f, c, f"{f}_{c}")
        for c in ("special", "small", "tiny", "money")
        for f in functions
        if (f, c) not in {("variance", "special"), ("stddev", "special")}
    ]
    widths = durations("30 minutes", "8 hours")

    found = trailing(
        frame, frame, by={"k": "k"}, as_of="at", known_at="at", widths=widths, aggregates=aggregates, name=named
    )

    expected = frame.withColumn("micros", F.unix_micros("at"))
    for width in widths:
        before = Window.partitionBy("k").orderBy("micros").rangeBetween(-width.seconds * 1_000_000, -1)
        for a in aggregates:
            as_double = a.column == "money" and a.function in ("sum", "avg", "variance", "stddev")
            column = F.col(str(a.column)).cast("double") if as_double else F.col(str(a.column))
            expected = expected.withColumn(named(a.name, width), getattr(F, a.function)(column).over(before))
    expected = expected.drop("micros").select(*found.columns)
    assert [(f.name, f.dataType) for f in found.schema] == [(f.name, f.dataType) for f in expected.schema]
    pd.testing.assert_frame_equal(by_id(found), by_id(expected), rtol=1e-12, atol=1e-12)


def by_id(frame: DataFrame) -> pd.DataFrame:
    return pd.DataFrame([row.asDict() for row in frame.collect()]).sort_values("id", ignore_index=True)


def test_nothing_depends_on_order_or_partitions(spark: SparkSession) -> None:
    """Sums of floats whose order would show are the same to the bit from 1, 2 and 7 partitions of shuffled rows."""
    rng = np.random.default_rng(4)
    rows = [
        (int(m), at(0) + dt.timedelta(minutes=int(m)), float(x))
        for m, x in zip(
            rng.integers(0, 40, 3000), rng.normal(0, 1, 3000) * 10.0 ** rng.integers(-9, 9, 3000), strict=True
        )
    ]
    aggregates = [Aggregate(f, "x", f) for f in ("sum", "avg", "variance", "stddev", "last")]

    def windows(partitions: int) -> list[Row]:
        order = np.random.default_rng(partitions).permutation(len(rows))
        events = (
            spark.createDataFrame([rows[i] for i in order], "id int, at timestamp, x double")
            .repartition(partitions)
            .withColumn("k", F.lit("one"))
        )
        queries = events.select("id", "k", "at").distinct()
        return (
            trailing(
                queries,
                events,
                by={"k": "k"},
                as_of="at",
                known_at="at",
                widths=durations("5 minutes", "1 hour"),
                aggregates=aggregates,
                name=named,
            )
            .orderBy("id")
            .collect()
        )

    one = windows(1)
    assert len(one) == 40
    assert windows(2) == one
    assert windows(7) == one


def test_rows_of_the_queries_come_through_unchanged(spark: SparkSession) -> None:
    """Equal rows stay apart, and columns of every kind keep their type and value."""
    columns = """
        SELECT IF(id < 2, 'a', 'b') AS k, timestamp'2013-01-01 10:00:00.123456' + make_dt_interval(0, id DIV 2) AS as_of,
            CAST(id AS DECIMAL(20, 3)) AS money, date'2013-01-01' AS day, id % 2 = 0 AS flag, array(id, NULL) AS many,
            map('id', id) AS pairs, struct(id AS `of`, 'é' AS text) AS nested, CAST('\\0' AS BINARY) AS bytes,
            timestamp_ntz'2013-03-10 02:30:00' AS local, CAST(NULL AS STRING) AS nothing, CAST(1.5 AS FLOAT) AS `_time`
        FROM range(8)"""
    queries = spark.sql(columns).drop("id").union(spark.sql(columns).drop("id")).repartition(3)
    events = queries.select(F.col("k").alias("key_0"), F.col("as_of").alias("time"))
    found = trailing(
        queries,
        events,
        by={"k": "key_0"},
        as_of="as_of",
        known_at="time",
        widths=durations("1 day"),
        aggregates=[COUNT],
        name=lambda name, _: name,
    )
    assert found.drop("rows").schema == queries.schema
    assert sorted(map(str, found.drop("rows").collect())) == sorted(map(str, queries.collect()))
    assert sorted(row.rows for row in found.collect()) == [0] * 8 + [4] * 4 + [8] * 4


def test_windows_of_a_century_over_many_keys(spark: SparkSession) -> None:
    """Widths and keys whose product exceeds 64 bits of microseconds are worked through in slices."""
    events = spark.range(4000).selectExpr(
        "CAST(id AS STRING) AS k", "timestamp'1950-01-01' + make_dt_interval(CAST(id AS INT)) AS at"
    )
    queries = events.selectExpr("k", "timestamp'2013-01-01' AS as_of", "at")
    found = trailing(
        queries,
        events,
        by={"k": "k"},
        as_of="as_of",
        known_at="at",
        widths=durations("36500 days"),
        aggregates=[COUNT, Aggregate("last", "at", "last_at")],
        name=lambda name, _: name,
    )
    assert found.where("rows = 1 AND last_at = at").count() == 4000


def test_one_hot_key_is_spread_over_tasks(spark: SparkSession) -> None:
    """A single key over half a year, in weekly buckets, is worked on in every partition."""
    frame = spark.range(2000).selectExpr(
        "'hot' AS k", "timestamp'2013-01-01' + make_dt_interval(0, 2 * CAST(id AS INT)) AS at"
    )
    found = trailing(
        frame,
        frame,
        by={"k": "k"},
        as_of="at",
        known_at="at",
        widths=durations("1 day"),
        aggregates=[COUNT],
        name=named,
    )
    # So few rows would be given to one task on purpose.
    spark.conf.set("spark.sql.adaptive.coalescePartitions.enabled", "false")
    try:
        shares = found.groupBy(F.spark_partition_id()).count().collect()
    finally:
        spark.conf.unset("spark.sql.adaptive.coalescePartitions.enabled")
    assert len(shares) == 2
    assert min(row["count"] for row in shares) > 300


def test_all_that_does_not_fit_is_said_at_once(spark: SparkSession) -> None:
    """Absent columns, wrong types, unknown functions and taken names are each one sentence."""
    queries = spark.createDataFrame([], "k string, as_of timestamp, n int")
    events = spark.createDataFrame([], "k int, at timestamp, day date, text string, items array<int>")

    def problems(
        aggregates: Sequence[Aggregate],
        *,
        by: dict[str, str],
        known_at: str = "at",
        widths: Sequence[Duration] = durations("1 day"),
    ) -> list[str]:
        with pytest.raises(ContractError) as raised:
            trailing(
                queries,
                events,
                by=by,
                as_of="as_of",
                known_at=known_at,
                widths=widths,
                aggregates=aggregates,
                name=lambda name, _: name,
            )
        return list(raised.value.problems)

    assert problems(
        [
            Aggregate("sum", "text", "a"),
            Aggregate("median", "k", "b"),
            Aggregate("avg", None, "c"),
            Aggregate("max", "items", "d"),
            Aggregate("count", "gone", "N"),
        ],
        by={"k": "k"},
        known_at="day",
    ) == [
        "trailing windows: 'day' is date, expected timestamp: cast it, in the time zone meant.",
        "trailing windows: key 'k' is string, 'k' is int: cast one to the other's type.",
        "trailing windows: sum(text): 'text' is string, expected a number.",
        "trailing windows: median(k) is not known: expected one of count, sum, avg, min, max, variance, stddev, last.",
        "trailing windows: avg(*) needs a column: only count may do without.",
        "trailing windows: max(items): 'items' is array<int>, expected a plain value that has an order.",
        "trailing windows: count(gone): no column 'gone' among the events.",
        "trailing windows: 'N' is already a column: give the aggregate another name.",
    ]
    assert problems([], by={"x": "y"}, known_at="z") == [
        "trailing windows: no column 'x' among the queries.",
        "trailing windows: no column 'y' among the events.",
        "trailing windows: no column 'z' among the events.",
        "trailing windows: expected at least one width and one aggregate.",
    ]
    assert problems([COUNT], by={}, widths=durations("36601 days")) == [
        "trailing windows: `by` names no column: expected at least one key.",
        "trailing windows: a look back of 36601 days, 0:00:00 is not usable: expected more than 0 and at most 100 years.",
    ]
