"""Stages are done once per identity; the ledger survives the process."""

from __future__ import annotations

from datetime import date

import pytest
from pyspark.sql import SparkSession

from conf.schema import Environment, Pipeline
from conf.values import Duration
from jobs.lake import Lake
from jobs.runs import Attempt, Ledger, Outcome, Run, default_run_date, fingerprint, stage
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


def _table():  # type: ignore[no-untyped-def]
    from transforms.contracts import trials

    return trials("shop")
