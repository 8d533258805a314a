"""Questions one after the other: the rows of one go on to the next without leaving Arrow, and nothing else changes."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.values import Duration
from transforms.point_in_time import as_of_join
from transforms.windows import Aggregate, trailing

TYPES = "id bigint, plane string, port int, as_of timestamp, fare decimal(9,2), tags array<string>, is_new boolean"


def rows(spark: SparkSession) -> DataFrame:
    """Flights of a fortnight, every column null now and then but the id, with ties."""
    random = np.random.default_rng(11)
    start = dt.datetime(2013, 3, 1, tzinfo=dt.UTC)
    made = []
    for number in range(300):
        row = [
            str(random.choice(["N1", "N2", "é"])),
            int(random.integers(3)),
            start + dt.timedelta(minutes=30 * int(random.integers(600))),
            Decimal(int(random.integers(10_000))) / 100,
            [str(number), None],
            bool(random.integers(2)),
        ]
        made.append((number, *(None if random.random() < 0.1 else value for value in row)))
    return spark.createDataFrame(made, TYPES).repartition(3)


def asked(queries: DataFrame, events: DataFrame, *, apart: bool) -> DataFrame:
    """Two windows and an as-of join; `apart` keeps the rows between them, as a user would who needs them twice."""

    def between(frame: DataFrame) -> DataFrame:
        return frame.persist() if apart else frame

    window = {"as_of": "as_of", "known_at": "known_at", "name": lambda name, width: f"{name}_{width.suffix}"}
    found = trailing(
        queries, events, by={"plane": "plane"}, widths=[Duration.model_validate("2 days")],
        aggregates=[Aggregate("count", None, "flights"), Aggregate("max", "fare", "fare")], **window,
    )  # fmt: skip
    found = as_of_join(
        between(found), events, by={"port": "port"}, as_of="as_of", known_at="known_at", at="known_at", key=["id"],
        within=Duration.model_validate("1 day"), take={"last_plane": "plane", "last_tags": "tags"},
    )  # fmt: skip
    return trailing(
        between(found), events, by={"last_plane": "plane", "port": "port"}, widths=[Duration.model_validate("7 days")],
        aggregates=[Aggregate("avg", "fare", "mean_fare"), Aggregate("last", "is_new", "is_new_last")], **window,
    )  # fmt: skip


def test_questions_to_answered_rows_change_nothing_but_the_way(spark: SparkSession) -> None:
    """The same rows as with every step kept; two conversions to rows and back less, one for each step between."""
    queries = rows(spark)
    events = queries.withColumnRenamed("as_of", "known_at")

    straight, kept = asked(queries, events, apart=False), asked(queries, events, apart=True)

    assert straight.schema == kept.schema
    assert sorted(straight.collect(), key=lambda row: row["id"]) == sorted(kept.collect(), key=lambda row: row["id"])
    plan = straight._jdf.queryExecution().optimizedPlan().toString()
    # Queries and events in one pass, events twice more, three answers; two of them make blocks for the next question.
    assert plan.count("MapInArrow") == 6


def test_rows_that_are_asked_about_themselves_are_read_once(spark: SparkSession) -> None:
    """As with events that have a way of their own; rows without a moment or with a null in their key are no events."""
    queries = rows(spark).select("id", "plane", "as_of", (F.col("fare") * 2).alias("twice"))
    selected = queries.select("plane", F.col("as_of").alias("known_at"), "twice", F.length("plane").alias("letters"))
    apart = selected.where("id IS NOT NULL")

    def asked_of(events: DataFrame) -> DataFrame:
        return trailing(
            queries, events, by={"plane": "plane"}, as_of="as_of", known_at="known_at",
            widths=[Duration.model_validate("3 hours"), Duration.model_validate("2 days")],
            aggregates=[Aggregate("count", None, "flights"), Aggregate("sum", "letters", "letters"), Aggregate("max", "twice", "twice")],
            name=lambda name, width: f"{name}_{width.suffix}",
        )  # fmt: skip

    once, twice = asked_of(selected), asked_of(apart)

    assert sorted(once.collect()) == sorted(twice.collect())
    plans = [frame._jdf.queryExecution().optimizedPlan().toString() for frame in (once, twice)]
    assert [plan.count("MapInArrow") for plan in plans] == [2, 3]
