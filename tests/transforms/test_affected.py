"""The days that a change of sources touches: whatever else the full computation says of a row, it lies in one of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from ruamel.yaml import YAML

from conf.schema import Pipeline
from transforms import affected, features
from transforms.days import Days
from transforms.expressions import column_schema, with_derived

SPEC = """
pipeline: shop
task: binary
timezone: Europe/Berlin
sources:
  orders:
    files: orders.csv
    columns: {id: int!, buyer: int, shop: string, ordered_at: timestamp!, hours: int, price: double}
    derive: {back_at: "ordered_at + make_dt_interval(0, hours)", back: CAST(hours < 30 AS DOUBLE)}
    key: [id]
    at: ordered_at
    known_at: ordered_at - INTERVAL 90 DAYS
    outcomes: [{columns: [hours, back_at, back], known_at: back_at}]
  visits: {files: visits.csv, key: [id], at: seen_at, columns: {id: int!, buyer: int, seen_at: timestamp!, pages: double}}
  prices: {files: prices.csv, key: [id], at: set_at, columns: {id: int!, shop: string, set_at: timestamp!, price: double}}
  shops: {files: shops.csv, static: true, key: [name], columns: {name: string!, size: int}}
  notes: {files: notes.csv, key: [id], at: at, columns: {id: int!, buyer: int, at: timestamp!}}
features:
  spine: orders
  as_of: ordered_at - INTERVAL 2 HOURS
  label: {name: came_back, value: back}
  joins:
    - {source: prices, by: [shop], within: 20 hours, take: {list_price: price}}
    - {source: shops, by: {shop: name}, take: [size]}
  windows:
    - {of: orders, by: [buyer], over: [2 days], take: {came: avg(came_back)}}
    - {of: visits, by: [buyer], over: [6 hours, 3 days], take: {pages: sum(pages), spread: stddev(pages)}}
  numeric: [price, list_price, size, came, pages_6_hours, pages_3_days, spread_6_hours, spread_3_days]
  categorical: [shop]
split: {test: {from: 2024-03-20}, folds: {kind: time, count: 2}}
train: {metric: area_under_roc, candidates: {c: {estimator: logistic_regression}}}
"""
START = datetime(2024, 3, 1, tzinfo=UTC)
RUN_DATE = date(2024, 5, 1)
Rows = dict[str, list[tuple[Any, ...]]]


def pipeline_of(**changes: Any) -> Pipeline:
    spec = YAML(typ="safe").load(SPEC)
    spec["features"] |= changes
    return Pipeline.model_validate(spec)


def rows(rng: random.Random) -> Rows:
    """Forty days of a small shop."""

    def moment() -> datetime:
        return START + timedelta(minutes=rng.randrange(40 * 24 * 60))

    shop = ["a", "b", None]
    return {
        "orders": [
            (n, rng.randrange(8), rng.choice(shop), moment(), rng.choice([None, rng.randrange(1, 80)]), rng.random())
            for n in range(150)
        ],
        "visits": [(n, rng.randrange(8), moment(), rng.random()) for n in range(200)],
        "prices": [(n, rng.choice(shop), moment(), rng.random()) for n in range(60)],
        "shops": [("a", 3), ("b", 5)],
        "notes": [],
    }


def changed(rng: random.Random, before: Rows, name: str) -> Rows:
    """The sources after two rows of one were taken out, one was given other values, and one came late."""
    kept = list(before[name])
    for _ in range(2):
        kept.pop(rng.randrange(len(kept)))
    kept[0] = (kept[0][0], *rows(rng)[name][1][1:])
    kept.append((9_999, *rows(rng)[name][2][1:]))
    return before | {name: kept}


def frames(spark: SparkSession, given: Rows, pipeline: Pipeline) -> dict[str, DataFrame]:
    made = {}
    for name, source in pipeline.sources.items():
        read = spark.createDataFrame(spark.sparkContext.parallelize(given[name], 2), column_schema(source))
        made[name] = with_derived(read, source)
    return made


def by_day(frame: DataFrame) -> dict[date, list[str]]:
    """Day of `as_of` in UTC -> its rows, in order."""
    found: dict[date, list[str]] = {}
    for row in frame.selectExpr("date(as_of) AS day", "to_json(struct(*)) AS row").collect():
        found.setdefault(row["day"], []).append(row["row"])
    return {day: sorted(texts) for day, texts in found.items()}


def difference(before: Mapping[str, DataFrame], after: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    return {
        name: before[name].exceptAll(after[name]).unionAll(after[name].exceptAll(before[name]))
        for name in before
        if sorted(map(str, before[name].collect())) != sorted(map(str, after[name].collect()))
    }


@pytest.mark.parametrize("name", ["orders", "visits", "prices"])
def test_days_hold_all_that_differs_and_are_computed_alone(spark: SparkSession, name: str) -> None:
    """Against the whole table computed before and after: no row outside of the days differs, and those inside come out the same."""
    rng, pipeline = random.Random(name), pipeline_of()
    earlier = rows(rng)
    before, after = (frames(spark, given, pipeline) for given in (earlier, changed(rng, earlier, name)))

    found = affected.days(difference(before, after), pipeline)

    assert found is not None
    old, new = (by_day(features.frame(sources, pipeline, run_date=RUN_DATE)) for sources in (before, after))
    differing = {day for day in old.keys() | new.keys() if old.get(day) != new.get(day)}
    expected = {day for first, last in found.runs for day in _between(first, last)}
    assert differing
    assert differing <= expected
    assert len(expected) < 30  # of forty: the change touches a part
    alone = by_day(features.frame(after, pipeline, run_date=RUN_DATE, only=found))
    assert alone == {day: texts for day, texts in new.items() if day in expected}


def _between(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def test_each_use_reaches_as_far_as_it_sees(spark: SparkSession) -> None:
    """One row each: a visit is seen for three days, a price for twenty hours, an order's outcome for two days after it came back."""
    pipeline = pipeline_of()
    late = datetime(2024, 3, 10, 23, tzinfo=UTC)
    given: Rows = {
        "orders": [(1, 1, "a", late, 30, 1.0), (2, 1, "a", late + timedelta(days=20), None, 1.0)],
        "visits": [(1, 1, late, 1.0)],
        "prices": [(1, "a", late, 1.0)],
        "shops": [],
        "notes": [],
    }
    every = frames(spark, given, pipeline)

    assert {name: str(affected.days({name: every[name]}, pipeline)) for name in ("orders", "visits", "prices")} == {
        "orders": "2024-03-10, 2024-03-12 to 2024-03-14, 2024-03-30",
        "visits": "2024-03-10 to 2024-03-13",
        "prices": "2024-03-10 to 2024-03-11",
    }


def test_what_has_no_time_or_no_end_touches_every_day(spark: SparkSession) -> None:
    """A static lookup, children, a function, calendar steps, no `as_of`; sources that nothing uses touch none."""
    pipeline = pipeline_of()
    every = frames(spark, rows(random.Random(1)), pipeline)
    steps = {"entities": "shops", "every": "1 week", "from": date(2024, 3, 1)}
    children = [{"of": "notes", "by": ["buyer"], "take": {"notes": "count(*)"}}]

    assert affected.days({}, pipeline) == Days(())
    assert affected.days({"notes": every["notes"]}, pipeline) == Days(())
    assert affected.days({"shops": every["shops"]}, pipeline) is None
    assert affected.days({"notes": every["notes"]}, pipeline_of(children=children)) is None
    assert affected.days({"visits": every["visits"]}, pipeline_of(function="tests.f.g")) is None
    assert affected.days({"visits": every["visits"]}, pipeline_of(spine=steps, as_of=None)) is None
    assert affected.days({"visits": every["visits"]}, pipeline_of(as_of=None)) is None
