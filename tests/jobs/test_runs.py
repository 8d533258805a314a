"""Stages are done once per identity; the ledger survives the process."""

from __future__ import annotations

import dataclasses
import json
import logging
from datetime import date, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.schema import Environment, Pipeline
from conf.values import Duration
from jobs.lake import Lake, Transaction
from jobs.runs import Attempt, Ledger, Outcome, Run, default_run_date, fingerprint, stage
from jobs.usage import Meter, Usage
from transforms import contracts
from transforms.errors import ContractError

PIPELINE = Pipeline.model_validate(
    {
        "pipeline": "shop",
        "task": "binary",
        "timezone": "America/New_York",
        "sources": {"orders": {"files": "orders/*.csv", "columns": {"order": "int!"}, "key": ["order"]}},
        "features": {"spine": "orders", "label": {"name": "late", "value": "1.0"}},
        "split": {"test": {"share": 0.2}},
        "train": {"metric": "area_under_roc", "candidates": {"a": {"estimator": "logistic_regression"}}},
    }
)


def new_run(spark: SparkSession, root: str, **changes: object) -> Run:
    lake = Lake(spark, str(root))
    values = {"asked_run_date": date(2024, 5, 1), **changes}
    return Run(spark, PIPELINE, Environment(lake=str(root)), lake, Ledger(lake, "shop"), **values)  # type: ignore[arg-type]


@pytest.mark.quick
def test_a_stage_runs_once_per_identity_and_the_ledger_remembers(spark: SparkSession, lake_root: str) -> None:
    """Same specs and inputs: the recorded outcome comes back; another input version, or --force, is new work."""
    attempts: list[Attempt] = []

    def body(attempt: Attempt) -> Outcome:
        attempts.append(attempt)
        return Outcome("features", 10, 9, {"silver/shop_orders": 1}, {"gold/shop_features": 4}, {"worst": 0.25})

    def once(run: Run, version: int) -> Outcome:
        return stage(run, "features", specs=[PIPELINE.features], inputs={"silver/shop_orders": version}, body=body)

    first = once(new_run(spark, lake_root), 1)
    again = once(new_run(spark, lake_root), 1)
    other = once(new_run(spark, lake_root), 2)
    forced = once(new_run(spark, lake_root, force=True), 1)

    assert [a.number for a in attempts] == [1, 1, 2]
    assert (first.unchanged, again.unchanged, other.unchanged, forced.unchanged) == (False, True, False, False)
    assert (again.rows_in, again.rows_out, again.inputs, again.outputs, again.details) == (
        (10, 9, {"silver/shop_orders": 1}, {"gold/shop_features": 4}, {"worst": 0.25})
    )
    assert attempts[0].transaction(_table()).app_id == attempts[2].transaction(_table()).app_id
    assert (attempts[0].transaction(_table()).version, attempts[2].transaction(_table()).version) == (1, 2)


def test_a_stage_that_fails_is_not_recorded(spark: SparkSession, lake_root: str) -> None:
    def body(attempt: Attempt) -> Outcome:
        raise ContractError("no")

    with pytest.raises(ContractError):
        stage(new_run(spark, lake_root), "features", specs=[], inputs={}, body=body)
    assert new_run(spark, lake_root).ledger.stages() == []


@pytest.mark.quick
def test_what_a_stage_took_is_kept_and_told(
    spark: SparkSession, lake_root: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the ledger, in one line of the log, and in a line of JSON for each attempt."""

    def body(attempt: Attempt) -> Outcome:
        rows = spark.range(0, 1_000, 1, 2).repartition(2).count()
        return Outcome("features", rows, 9, {}, {"gold/shop_labels": 2, "gold/shop_features": 4}, {"worst": 0.25})

    caplog.set_level(logging.INFO)
    for force in (False, True):
        stage(new_run(spark, lake_root, force=force), "features", specs=[], inputs={}, body=body)

    first, second = new_run(spark, lake_root).ledger.stages()
    assert isinstance(first.usage, Usage)
    assert first.usage.tasks > 2
    assert first.details == {"worst": 0.25}
    assert [record.getMessage() for record in caplog.records if record.name == "jobs.progress"] == [
        message
        for done in (first, second)
        for message in (
            "features: started",
            f"features: 1000 rows in, 9 rows out, {done.seconds:.1f} s, {done.usage.words() if done.usage else ''};"
            " gold/shop_features@4 gold/shop_labels@2",
        )
    ]
    lines = Path(lake_root, "ops/usage/shop/2024-05-01-features.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "pipeline": "shop",
            "job": "features",
            "run_date": "2024-05-01",
            "fingerprint": done.fingerprint,
            "attempt": done.attempt,
            "recorded_at": str(done.recorded_at),
            "rows_in": 1_000,
            "rows_out": 9,
            "seconds": done.seconds,
            **dataclasses.asdict(done.usage),  # type: ignore[arg-type]
        }
        for done in (first, second)
    ]
    assert [done.attempt for done in (first, second)] == [1, 2]


def test_figures_that_spark_has_dropped_are_a_warning(
    spark: SparkSession, lake_root: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record counts them, and the log says how to keep them."""
    none = Usage(*[0] * 4, *[0.0] * 3, *[0] * 6, core_seconds=0.0)
    partial = dataclasses.replace(none, tasks=1_000, dropped_tasks=200)
    monkeypatch.setattr(Meter, "read", lambda self, price: partial)
    stage(new_run(spark, lake_root), "train", specs=[], inputs={}, body=lambda attempt: Outcome("train"))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "train: expected the figures of all its tasks, found those of 1000; Spark had dropped the Spark stages of 200, and what is"
        " recorded of cpu and bytes is too low. Raise spark.ui.retainedStages under `spark` in the environment local."
    ]


def test_ledgers_from_before_usage_was_measured_open(spark: SparkSession, lake_root: str) -> None:
    """Their rows stay as they are, and new ones stand beside them in the same table."""
    run = new_run(spark, lake_root)
    contract = contracts.stages("shop")
    row = ("train", date(2024, 5, 1), "f", 1, {}, {}, 1, 1, 2.5, '{"worst": 0.25}', "c0de", datetime(2024, 5, 2))
    frame = spark.createDataFrame([row], contract.schema).repartition(2)
    run.lake.append(frame, contract, Transaction("earlier", 1))
    stage(run, "score", specs=[], inputs={}, body=lambda attempt: Outcome("score"))

    old, new = new_run(spark, lake_root).ledger.stages()
    assert (old.job, old.details, old.usage) == ("train", {"worst": 0.25}, None)
    assert (new.job, new.details, new.usage is None) == ("score", {}, False)


@pytest.mark.quick
def test_a_missing_stage_names_the_command_that_makes_it(spark: SparkSession, lake_root: str) -> None:
    with pytest.raises(ContractError) as missing:
        new_run(spark, lake_root).ledger.require("ingest.orders")
    assert str(missing.value) == "The ledger has no `ingest.orders`. Run `millrace ingest` first."


def test_the_default_run_date_is_the_day_after_the_latest_event_where_the_pipeline_lives(
    spark: SparkSession, lake_root: str
) -> None:
    """Two in the morning UTC on the second is still the first in New York."""
    run = new_run(spark, lake_root, asked_run_date=None)
    assert run.run_date == date(1970, 1, 1)
    outcome = Outcome("ingest.orders", details={"latest_at": "2024-03-02T02:00:00"})
    stage(run, "ingest.orders", specs=[], inputs={}, body=lambda attempt: outcome)
    assert default_run_date(Ledger(run.lake, "shop"), PIPELINE) == date(2024, 3, 2)
    assert run.run_date == date(2024, 3, 2)


@pytest.mark.quick
def test_fingerprints_depend_on_content_alone() -> None:
    """Order of keys does not matter, any value does."""
    assert fingerprint({"a": 1, "b": [Duration.model_validate("3 hours")]}) == fingerprint(
        {"b": [Duration.model_validate("3 hours")], "a": 1}
    )
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    assert len(fingerprint()) == 16


def _table() -> contracts.Contract:
    return contracts.trials("shop")
