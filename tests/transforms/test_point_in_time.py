"""As-of joins against a brute-force reading of their definition, and against pandas' merge_asof."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from conf.values import Duration
from transforms.errors import ContractError
from transforms.point_in_time import as_of_join


def at(hour: int, minute: int = 0) -> dt.datetime:
    return dt.datetime(2013, 1, 1, hour, minute, tzinfo=dt.UTC)


def readings(seed: int, rows: int, start: str) -> list[tuple[object, ...]]:
    """Readings with ties in every column that orders them, with gaps and with nulls."""
    rng = np.random.default_rng(seed)
    begin = pd.Timestamp(start, tz="America/New_York").tz_convert("UTC").to_pydatetime()
    return [
        (
            rng.choice(["EWR", "JFK", None]),
            None if rng.random() < 0.1 else begin + dt.timedelta(minutes=int(rng.integers(0, 60)) * 40),
            None if rng.random() < 0.2 else begin + dt.timedelta(hours=int(rng.integers(0, 3))),
            None if rng.random() < 0.3 else str(rng.choice(["a", "é", "Z"])),
            i,
            None if rng.random() < 0.3 else float(i) / 8,
        )
        for i in range(rows)
    ]


READINGS = "origin string, known_at timestamp, at timestamp, station string, number int, temp double"


@pytest.mark.parametrize(
    ("seed", "start"),
    [(0, "2013-03-09 12:00"), (1, "2013-11-02 12:00"), (2, "1969-12-31 12:00")],
    ids=["clocks go forward", "clocks go back", "across the epoch"],
)
def test_each_query_gets_the_row_that_the_definition_says(spark: SparkSession, seed: int, start: str) -> None:
    """On generated readings the number of the row taken, and its nulls, equal the brute-force ones."""
    rows = readings(seed, 250, start)
    queries = [(row[0], row[1]) for row in readings(seed + 10, 120, start)]
    frame = spark.createDataFrame(rows, READINGS).repartition(3)
    found = as_of_join(
        spark.createDataFrame(queries, "airport string, as_of timestamp").repartition(2),
        frame,
        by={"airport": "origin"},
        as_of="as_of",
        known_at="known_at",
        at="at",
        key=["station", "number"],
        within=Duration.model_validate("3 hours"),
        take={"reading": "number", "temp": "temp", "by_station": "station"},
    ).collect()

    assert len(found) == len(queries)
    assert sum(row.reading is not None for row in found) > 30
    for row in found:
        moment = row.as_of and row.as_of.replace(tzinfo=dt.UTC)
        seen = [
            r
            for r in rows
            if moment and r[0] is not None and r[0] == row.airport and r[1] is not None
            and moment - dt.timedelta(hours=3) <= r[1] < moment
        ]  # fmt: skip
        last = max(
            seen, key=lambda r: (r[1], r[2] is not None, r[2] or 0, r[3] is not None, r[3] or "", r[4]), default=None
        )
        expected = (None, None, None) if last is None else (last[4], last[5], last[3])
        assert (row.reading, row.temp, row.by_station) == expected


def test_without_ties_it_is_pandas_merge_asof(spark: SparkSession) -> None:
    """The tolerance reaches back to and including its end; the moment itself does not count."""
    rng = np.random.default_rng(3)
    start = pd.Timestamp("2013-01-01")
    rows = pd.DataFrame({"at": start + pd.to_timedelta(np.sort(rng.choice(5000, 400, replace=False)), unit="min")})
    rows["k"], rows["x"] = rng.integers(0, 4, 400), np.arange(400)
    queries = pd.DataFrame(
        {"as_of": start + pd.to_timedelta(np.sort(rng.choice(5200, 300, replace=False)), unit="min")}
    )
    queries["k"] = rng.integers(0, 5, 300)
    expected = pd.merge_asof(
        queries,
        rows,
        left_on="as_of",
        right_on="at",
        by="k",
        tolerance=pd.Timedelta(hours=1),
        allow_exact_matches=False,
    )
    found = as_of_join(
        spark.createDataFrame(queries).repartition(3),
        spark.createDataFrame(rows).repartition(3),
        by={"k": "k"},
        as_of="as_of",
        known_at="at",
        at="at",
        key=[],
        within=dt.timedelta(hours=1),
        take={"x": "x"},
    )
    taken = sorted((row.as_of, row.x) for row in found.collect())
    assert taken == [
        (row.as_of.to_pydatetime(), None if pd.isna(row.x) else int(row.x)) for row in expected.itertuples()
    ]


@pytest.mark.quick
def test_a_row_is_taken_as_a_whole(spark: SparkSession) -> None:
    """A null in the last row stays null though an earlier row has a value; too old, too late and unknown rows do not count."""
    queries = spark.createDataFrame(
        [("a", at(12)), ("a", at(12)), ("b", at(12)), (None, at(12)), ("a", None)], "k string, as_of timestamp"
    )
    rows = spark.createDataFrame(
        [("a", at(11), 1, None, "new"), ("a", at(10), 2, 20.0, "old"), ("a", at(12), 3, 30.0, "too late"),
         ("a", None, 4, 40.0, "never"), ("b", at(9, 59), 5, 50.0, "too old"), (None, at(11), 6, 60.0, "nobody's")],
        "k string, at timestamp, id int, temp double, note string",
    )  # fmt: skip
    found = as_of_join(
        queries, rows, by={"k": "k"}, as_of="as_of", known_at="at", at="at", key=["id"],
        within=dt.timedelta(hours=2), take={"temp": "temp", "note": "note"},
    )  # fmt: skip
    noon = dt.datetime(2013, 1, 1, 12)
    assert sorted(map(tuple, found.collect()), key=str) == sorted(
        [("a", noon, None, "new")] * 2 + [("b", noon, None, None), (None, noon, None, None), ("a", None, None, None)],
        key=str,
    )


def test_columns_of_any_kind_can_be_taken(spark: SparkSession) -> None:
    """Nested values, decimals and binary come over with type and value; keys of several columns and types match exactly."""
    rows = spark.sql(
        """SELECT CAST(id AS INT) AS n, CAST(id / 2 AS FLOAT) AS half, timestamp'2013-01-01' AS at, array(id, NULL) AS many,
                  struct(id, 'é' AS text) AS nested, map('id', id) AS pairs, CAST(id AS DECIMAL(30, 5)) AS money, CAST('x' AS BINARY) AS bytes
           FROM range(6)"""
    ).repartition(3)
    queries = spark.sql("SELECT id AS n, id / 2 AS half, timestamp'2013-01-02' AS as_of FROM range(7)").repartition(2)
    found = as_of_join(
        queries, rows, by={"n": "n", "half": "half"}, as_of="as_of", known_at="at", at="at", key=["n"],
        within=dt.timedelta(days=1), take={name: name for name in rows.columns[3:]},
    )  # fmt: skip
    expected = queries.join(rows.withColumn("n", F.col("n").cast("bigint")), ["n", "half"], "left").select(
        found.columns
    )
    assert found.schema == expected.schema
    assert found.orderBy("n").collect() == expected.orderBy("n").collect()


def test_nothing_depends_on_order_or_partitions(spark: SparkSession) -> None:
    """Ties that only the key decides are decided alike from 1, 2 and 7 partitions of shuffled rows."""
    rows = readings(5, 600, "2013-01-01")

    def joined(partitions: int) -> list[Row]:
        order = np.random.default_rng(partitions).permutation(len(rows))
        frame: DataFrame = spark.createDataFrame([rows[i] for i in order], READINGS).repartition(partitions)
        queries = frame.select(
            "number", F.col("origin").alias("k"), (F.col("known_at") + F.expr("INTERVAL 1 HOUR")).alias("as_of")
        )
        return as_of_join(
            queries, frame, by={"k": "origin"}, as_of="as_of", known_at="known_at", at="at", key=["station", "number"],
            within=dt.timedelta(hours=2), take={"taken": "number"},
        ).orderBy("number").collect()  # fmt: skip

    one = joined(1)
    assert len(one) == 600
    assert joined(2) == one
    assert joined(7) == one


def test_all_that_does_not_fit_is_said_at_once(spark: SparkSession) -> None:
    """Absent columns, instants that are no timestamps, orders that are none and taken names are each one sentence."""
    queries = spark.createDataFrame([], "k array<int>, as_of timestamp, n int")
    rows = spark.createDataFrame([], "k array<int>, day date, items array<int>")
    with pytest.raises(ContractError) as raised:
        as_of_join(
            queries, rows, by={"k": "k"}, as_of="as_of", known_at="day", at="items", key=["gone"],
            within=dt.timedelta(hours=1), take={"N": "day"},
        )  # fmt: skip
    assert raised.value.problems == (
        "as-of join: 'day' is date, expected timestamp: cast it, in the time zone meant.",
        "as-of join: key 'k' is array<int>: a key is a plain value.",
        "as-of join: no column 'gone' among the rows.",
        "as-of join: 'items' is array<int>: rows are ordered by plain values.",
        "as-of join: 'N' is already a column: take it under another name.",
    )
    with pytest.raises(ContractError) as raised:
        as_of_join(
            queries,
            rows,
            by={"n": "k"},
            as_of="as_of",
            known_at="day",
            at="day",
            key=[],
            within=dt.timedelta(0),
            take={},
        )
    assert raised.value.problems == (
        "as-of join: a look back of 0:00:00 is not usable: expected more than 0 and at most 100 years.",
        "as-of join: `take` names no column.",
    )
