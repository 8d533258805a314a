"""The job `features` over a real lake: three tables from exact silver versions, once per identity."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from ruamel.yaml import YAML

from conf.schema import Environment, Pipeline
from jobs import features
from jobs.lake import Lake, Transaction
from jobs.runs import Ledger, Outcome, Run, fingerprint, stage
from transforms.contracts import Contract
from transforms.days import Days
from transforms.errors import ContractError
from transforms.expressions import column_schema, with_derived
from transforms.features import Tables, tables

SHOP = """
pipeline: shop
task: binary
timezone: Europe/Berlin
sources:
  orders:
    files: orders.csv
    columns: {id: int!, buyer: int, shop: string, ordered_at: timestamp!, returned: boolean}
    derive: {due_at: ordered_at + INTERVAL 2 DAYS}
    key: [id]
    at: ordered_at
    outcomes: [{columns: [returned], known_at: due_at}]
  shops: {files: shops.csv, static: true, key: [name], columns: {name: string!, size: int}}
features:
  spine: orders
  as_of: ordered_at
  label: {name: back, value: CAST(returned AS DOUBLE)}
  joins: [{source: shops, by: {shop: name}, take: [size]}]
  windows: [{of: orders, by: [buyer], over: [9 days], take: {bought: count(*), share_back: avg(back)}}]
  numeric: [size, bought, share_back]
  categorical: [shop]
split: {test: {from: 2024-03-20}, folds: {kind: time, count: 2}}
train: {metric: area_under_roc, candidates: {c: {estimator: logistic_regression}}}
"""
RUN_DATE = date(2024, 3, 29)
START = datetime(2024, 3, 1, tzinfo=UTC)


def pipeline_of(**changes: Any) -> Pipeline:
    return Pipeline.model_validate(YAML(typ="safe").load(SHOP) | changes)


def orders() -> list[tuple[Any, ...]]:
    rng = random.Random(1)
    moments = [START + timedelta(hours=rng.randrange(28 * 24)) for _ in range(300)]
    return [(n, rng.randrange(20), rng.choice(["a", "b", None]), m, rng.random() < 0.3) for n, m in enumerate(moments)]


ROWS: dict[str, list[tuple[Any, ...]]] = {"orders": orders(), "shops": [("a", 3)]}


def new_run(spark: SparkSession, root: str, pipeline: Pipeline, **changes: Any) -> Run:
    lake = Lake(spark, root)
    return Run(
        spark, pipeline, Environment(lake=root), lake, Ledger(lake, "shop"), **{"asked_run_date": RUN_DATE, **changes}
    )


def ingest(run: Run, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    """What ingest leaves: silver tables and a stage per source, recorded for no run date in particular."""
    for name, source in run.pipeline.sources.items():
        table = features.silver(run, name)
        read = run.spark.createDataFrame(run.spark.sparkContext.parallelize(rows[name], 2), column_schema(source))
        frame = with_derived(read, source).withColumns({"_file": F.lit("f"), "_delivery": F.lit("d")})
        if source.at:
            frame = frame.withColumn("event_date", F.to_date(source.at))
        made = run.lake.replace(frame, table, Transaction(fingerprint(name, str(rows[name])), 1))
        outcome = Outcome(f"ingest.{name}", outputs={table.table: made.version})
        stage(
            replace(run, asked_run_date=None),
            outcome.job,
            specs=[rows[name]],
            inputs={},
            body=lambda _, done=outcome: done,
        )


@pytest.fixture(scope="module")
def ingested(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake with the silver tables of `ROWS` and the stages of their ingest; tests work on copies."""
    root = str(tmp_path_factory.mktemp("ingested") / "lake")
    ingest(new_run(spark, root, pipeline_of()), ROWS)
    return root


@pytest.fixture
def root(ingested: str, tmp_path: Path) -> str:
    return str(shutil.copytree(ingested, tmp_path / "shop"))


def content(run: Run, table: Contract, version: int | None = None) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in run.lake.read(table, version).collect()), key=str)


def test_a_table_that_others_wrote_is_computed_as_a_whole(spark: SparkSession, root: str) -> None:
    """The ledger's last version is not the table's: nobody knows what lies in it."""
    run = new_run(spark, root, pipeline_of())
    features.run(run)
    made = tables(spark, run.pipeline)
    run.lake.delete(made.features, "id < 10", Transaction("somebody", 1))
    later = new_run(spark, root, run.pipeline)
    ingest(later, ROWS | {"orders": [*ROWS["orders"], (1000, 1, "a", START, True)]})

    outcome = features.run(later)

    assert (outcome.details["days_computed"], outcome.rows_out) == ("all", 301)


def versions(run: Run, made: Tables) -> list[int | None]:
    return [run.lake.version(table) for table in (made.features, made.labels, made.membership)]


def test_the_job_writes_three_tables_and_says_what_is_in_them(spark: SparkSession, root: str) -> None:
    """Rows, label rate, parts, folds, boundaries and lookups in the ledger; a second run writes nothing."""
    run = new_run(spark, root, pipeline_of())
    outcome = features.run(run)

    made = tables(spark, run.pipeline)
    assert outcome.outputs == {
        table.table: run.lake.version(table) for table in (made.features, made.labels, made.membership)
    }
    assert (outcome.rows_in, outcome.rows_out) == (300, 300)
    known = [row for row in ROWS["orders"] if row[3] + timedelta(days=2) < datetime(2024, 3, 28, 23, tzinfo=UTC)]
    details = outcome.details
    assert details["label"] == {
        "name": "back",
        "labelled": len(known),
        "rate": sum(row[4] for row in known) / len(known),
    }
    assert details["static_lookups"] == ["shops"]
    assert details["test_start"] == "2024-03-19T23:00:00+00:00"
    membership = content(run, made.membership)
    assert details["parts"] == {part: sum(row[2] == part for row in membership) for part in ("train", "test", "purged")}
    assert [fold["validation"] for fold in details["folds"]] == [
        sum(row[3] == fold for row in membership) for fold in range(2)
    ]
    assert len(membership) == len(known)
    assert Counter(row[2] for row in content(run, made.labels)) == Counter(
        float(row[4]) if row in known else None for row in ROWS["orders"]
    )

    before = versions(run, made)
    again = features.run(new_run(spark, root, run.pipeline))
    assert again.unchanged
    assert again.details == details
    assert versions(run, made) == before


def test_a_killed_job_writes_only_what_is_missing(spark: SparkSession, root: str) -> None:
    """Features and labels were committed, the membership and the ledger row were not: only those follow; --force writes all again."""
    run = new_run(spark, root, pipeline_of())
    made = tables(spark, run.pipeline)

    class Killed(Lake):
        def replace(self, frame: Any, contract: Contract, *rest: Any, **named: Any) -> Any:
            if contract == made.membership:
                raise KeyboardInterrupt
            return super().replace(frame, contract, *rest, **named)

    with pytest.raises(KeyboardInterrupt):
        features.run(replace(run, lake=Killed(spark, root)))
    features_before, labels_before, membership_before = versions(run, made)
    assert membership_before is None
    outcome = features.run(new_run(spark, root, run.pipeline))
    assert not outcome.unchanged
    assert versions(run, made)[:2] == [features_before, labels_before]
    first = [content(run, table) for table in (made.features, made.labels, made.membership)]

    forced = features.run(new_run(spark, root, run.pipeline, force=True))
    assert [new > old for new, old in zip(versions(run, made)[:2], (features_before, labels_before), strict=True)] == [
        True,
        True,
    ]  # type: ignore[operator]
    assert forced.outputs != outcome.outputs
    assert [content(run, table) for table in (made.features, made.labels, made.membership)] == first


def test_new_silver_rows_make_a_new_version_and_the_old_one_stays(spark: SparkSession, root: str) -> None:
    """The same table, one version on: what a model was trained on can still be read."""
    run = new_run(spark, root, pipeline_of())
    first = features.run(run)
    made = tables(spark, run.pipeline)
    old = content(run, made.features)
    more = new_run(spark, root, run.pipeline)
    ingest(more, ROWS | {"orders": [*ROWS["orders"], (1000, 1, "a", START, True)]})
    second = features.run(more)
    assert (first.rows_out, second.rows_out) == (300, 301)
    assert content(run, made.features, first.outputs[made.features.table]) == old
    assert len(content(run, made.features)) == 301


def test_only_the_days_that_a_late_change_touches_are_computed_anew(
    spark: SparkSession, root: str, lake_root: str
) -> None:
    """One order changed after the fact: the tables equal those made from scratch, and rows of other days are those of before."""
    run = new_run(spark, root, pipeline_of())
    made = tables(spark, run.pipeline)
    first = features.run(run)
    number, buyer, shop, at, back = ROWS["orders"][7]
    orders = [row if row[0] != number else (number, buyer, shop, at, not back) for row in ROWS["orders"]]
    later, fresh = new_run(spark, root, run.pipeline), new_run(spark, lake_root, run.pipeline)
    for changed in (later, fresh):
        ingest(changed, ROWS | {"orders": orders})

    second, whole = features.run(later), features.run(fresh)

    # The order's own day, and nine days from when it was known whether it came back.
    known = (at + timedelta(days=2)).date()
    touched = Days.of([at.date(), *(known + timedelta(days=n) for n in range(10))])
    assert [made.details["days_computed"] for made in (first, second, whole)] == ["all", str(touched), "all"]
    assert (second.rows_in, second.rows_out) == (300, 300)
    for table in (made.features, made.labels, made.membership):
        assert content(later, table) == content(fresh, table)
    computed = [row for row in orders if any(begin <= row[3].date() <= end for begin, end in touched.runs)]
    (commit,) = spark.sql(f"DESCRIBE HISTORY delta.`{later.lake.path(made.features)}` LIMIT 1").collect()
    assert commit["version"] == second.outputs[made.features.table]
    assert int(commit["operationMetrics"]["numOutputRows"]) - int(
        commit["operationMetrics"].get("numCopiedRows", 0)
    ) == len(computed)


def test_parts_may_group_by_columns_that_are_no_features(spark: SparkSession, root: str) -> None:
    """`by: [buyer]`, a column of the spine source alone, and a fold by a feature: no group is torn apart."""
    split = {"test": {"share": 0.3, "by": ["buyer"]}, "folds": {"kind": "grouped", "by": ["size", "buyer"], "count": 2}}
    run = new_run(spark, root, pipeline_of(split=split))
    features.run(run)
    membership = {row[0]: row[2:4] for row in content(run, tables(spark, run.pipeline).membership)}
    groups: dict[Any, set[Any]] = {}
    for number, buyer, shop, *_ in ROWS["orders"]:
        if number in membership:
            groups.setdefault(("part", buyer), set()).add(membership[number][0])
            groups.setdefault(("fold", buyer, shop == "a"), set()).add(membership[number])
    assert all(len(places) == 1 for places in groups.values())
    assert {place for group in groups.values() for place in group} >= {"train", "test"}


def test_the_job_needs_ingest_and_refuses_what_cannot_be_split(spark: SparkSession, root: str, lake_root: str) -> None:
    """Sentences, and nothing recorded."""
    pipeline = pipeline_of(split={"test": {"from": date(2024, 5, 1)}, "folds": {"kind": "time", "count": 2}})
    with pytest.raises(ContractError) as error:
        features.run(new_run(spark, f"{lake_root}/empty", pipeline))
    assert str(error.value) == "The ledger has no `ingest.orders`. Run `millrace ingest` first."
    run = new_run(spark, root, pipeline)
    with pytest.raises(
        ContractError, match=r"^split.test: expected labelled rows to test on, found .* Start it earlier"
    ):
        features.run(run)
    assert run.ledger.last("features") is None
