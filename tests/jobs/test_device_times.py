"""Times of stages on processors and on GPUs: what the ledger keeps, and what `gpu: auto` makes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from conf.schema import Environment, Pipeline
from jobs import device_times, rapids
from jobs.device_times import Models
from jobs.lake import Lake
from jobs.runs import Ledger, Outcome, Run, Stage, stage
from models import gpus
from models.gpus import Choice, Found, Measured, NoGpu
from tests.jobs.test_runs import PIPELINE
from tests.jobs.test_train import (
    CANDIDATES,
    RUN_DATE,
    Interrupted,
    KilledAfter,
    World,
    parcels,
    pipeline,
    tracking_uri,
    world,
)
from transforms import contracts

__all__ = ["tracking_uri"]  # a fixture


def row(job: str, minute: int, seconds: float, rows: int | None, details: dict[str, Any]) -> Stage:
    """Of a ledger, after all that is recorded while it is tested."""
    at = datetime(2100, 1, 1, 0, minute, tzinfo=UTC).replace(tzinfo=None)
    return Stage(job, date(2024, 1, 1), f"f{minute}", 1, {}, {}, rows, rows, seconds, details, "c0de", at)


def took(work: str, *each: tuple[str, bool, float, int]) -> dict[str, Any]:
    names = ("stage", "gpu", "seconds", "count")
    return {"models": {"work": work, "took": [dict(zip(names, one, strict=True)) for one in each]}}


@pytest.mark.quick
def test_models_of_the_same_work_are_compared_by_rows() -> None:
    """The last of either side; other jobs, other work and stages that one side alone has done tell nothing."""
    stages = [
        row("train", 1, 9.0, 1_000, took("a", ("trees", False, 99.0, 10), ("arrays", False, 1.0, 10))),
        row("train", 2, 9.0, 1_000, took("a", ("trees", False, 8.0, 10))),
        row("train", 3, 9.0, 2_000, took("a", ("trees", True, 2.0, 5))),
        row("train", 4, 9.0, 1_000, took("b", ("trees", False, 0.1, 10))),
        row("score", 5, 9.0, 1_000, took("a", ("trees", False, 0.1, 10))),
        row("train", 6, 9.0, None, {}),
    ]
    assert device_times.of_models(stages, "train", "a") == {
        "trees": Measured("a model of a million rows", cpu=800.0, gpu=200.0)
    }
    assert device_times.of_models(stages, "train", "b") == {}


@pytest.mark.quick
def test_sql_of_a_job_is_compared_by_rows() -> None:
    stages = [
        row("features", 1, 50.0, 1_000_000, {}),
        row("features", 2, 40.0, 2_000_000, {"sql": {"gpu": False, "reason": "r"}}),
        row("score", 3, 10.0, 1_000_000, {}),
    ]
    assert device_times.of_sql(stages, "features") is None
    some_days = {"sql": {"gpu": True, "reason": "r"}, "days_computed": "2024-01-01"}
    stages.append(row("features", 3, 1.0, 1_000_000, some_days))
    assert device_times.of_sql(stages, "features") is None
    stages.append(row("features", 4, 5.0, 1_000_000, {"sql": {"gpu": True, "reason": "r"}, "days_computed": "all"}))
    assert device_times.of_sql(stages, "features") == Measured("a million rows of `features`", cpu=20.0, gpu=5.0)


def test_times_are_those_of_one_stage(spark: SparkSession) -> None:
    """A search that takes several cannot be told apart."""
    gpus.take(spark, "trees")
    models = Models(spark, "w")
    assert models.details() == {}
    for seconds, stages in (
        (1.0, ["trees"]),
        (2.0, ["trees"]),
        (4.0, ["arrays", "trees"]),
        (8.0, []),
        (16.0, ["arrays"]),
    ):
        for each in stages:
            gpus.take(spark, each)  # type: ignore[arg-type]
        models.add(seconds, 5)
    assert models.details() == took("w", ("trees", False, 3.0, 10), ("arrays", False, 16.0, 5))


@pytest.fixture
def made_for(spark: SparkSession, tmp_path: Path, tracking_uri: str) -> Callable[[Pipeline], World]:
    """Makes what a pipeline trains on."""
    return lambda spec: world(spark, tmp_path, tracking_uri, spec, parcels())


@pytest.fixture
def mode(spark: SparkSession) -> Iterator[Callable[[str], None]]:
    """Sets whether GPUs are used, for one test."""
    gpus.taken(spark)
    yield partial(spark.conf.set, gpus.SETTING)
    spark.conf.unset(gpus.SETTING)


@pytest.mark.slow
def test_a_search_goes_where_it_was_faster(
    made_for: Callable[[Pipeline], World], monkeypatch: pytest.MonkeyPatch, mode: Callable[[str], None]
) -> None:
    """What workers have, and what a GPU took, is made up; the processors are measured, win, and train."""
    spec = pipeline("timed")
    made = made_for(spec)
    first = made.train(spec)
    times = first.details["models"]
    assert [(each["stage"], each["gpu"], each["count"]) for each in times["took"]] == [
        ("arrays", False, 4),
        ("trees", False, 2),
    ]
    assert all(0 < each["seconds"] < first.seconds for each in times["took"])
    assert "devices" not in first.details

    slow = [{**each, "gpu": True, "seconds": each["seconds"] * 1e3} for each in times["took"]]
    on_gpu = row("train", 1, 1.0, first.rows_in, {"models": {**times, "took": slow}})
    Ledger(made.lake, "timed").record(Stage(**{**on_gpu.__dict__, "run_date": RUN_DATE}))
    monkeypatch.setattr(gpus, "found", lambda spark: Found(("a GPU",), "", ""))
    mode("auto")

    again = made.train(spec, force=True)

    devices = again.details["devices"]
    assert sorted(devices) == ["arrays", "trees"]
    for stage_, each in zip(("arrays", "trees"), times["took"], strict=True):
        rate = each["seconds"] / each["count"] / first.rows_in * 1e6
        assert devices[stage_] == (
            f"CPU: a model of a million rows took {rate * 1e3:.3g} s on GPUs and {rate:.3g} s on processors when they were last"
            " measured"
        )
    assert {each["gpu"] for each in again.details["models"]["took"]} == {False}


def test_what_cannot_be_fitted_on_a_gpu_is_said_before_the_first_trial(
    made_for: Callable[[Pipeline], World], monkeypatch: pytest.MonkeyPatch, mode: Callable[[str], None]
) -> None:
    """Not when its turn comes, after hours of the others."""
    forest = {"estimator": "random_forest", "params": {"subsampling_rate": 0.5}}
    spec = pipeline("required", train={"metric": "log_loss", "candidates": {**CANDIDATES, "forest": forest}})
    made = made_for(spec)
    monkeypatch.setattr(gpus, "found", lambda spark: Found(("a GPU",), "", ""))
    mode("require")
    with pytest.raises(NoGpu, match=r"fits RandomForestClassifier without .*subsamplingRate=0\.5"):
        made.train(spec)
    assert made.table(contracts.trials("required")).empty


@pytest.mark.slow
def test_a_search_that_goes_on_without_its_gpu_begins_anew(
    made_for: Callable[[Pipeline], World], monkeypatch: pytest.MonkeyPatch, mode: Callable[[str], None]
) -> None:
    """Boosted trees of a GPU are others; here there is none, and it is killed when they are tried."""
    spec = pipeline("moved")
    made = made_for(spec)
    made = replace(made, environment=made.environment.model_copy(update={"gpu": "auto"}))
    mode("auto")
    with monkeypatch.context() as patched:
        patched.setattr(gpus, "found", lambda spark: Found(("a GPU",), "no CuPy", ""))
        with pytest.raises(Interrupted):
            made.train(spec, KilledAfter(trials=4))

    outcome = made.train(spec)

    assert made.table(contracts.trials("moved")).groupby("search").size().sort_values().tolist() == [4, 6]
    assert outcome.details["failed"] == 0


def test_spark_sql_goes_where_it_was_faster(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A session that has the plugin is made up: the setting that the plugin reads is real, and so is the ledger."""
    lake = Lake(spark, str(tmp_path / "lake"))
    seen: list[str | None] = []

    def once(version: int, **changes: Any) -> Outcome:
        place = Environment(lake=lake.root, gpu="auto", **changes)
        run = Run(spark, PIPELINE, place, lake, Ledger(lake, PIPELINE.pipeline), date(2024, 1, 1))

        def body(_: object) -> Outcome:
            seen.append(spark.conf.get(rapids.ENABLED, None))
            return Outcome("features", rows_in=1_000)

        return stage(run, "features", specs=[], inputs={"silver/shop_orders": version}, body=body, read=0)

    try:
        once(1)
        monkeypatch.setattr(rapids, "is_loaded", lambda spark: True)
        once(2)
        slow = row("features", 1, 1e6, 1_000, {"sql": {"gpu": True, "reason": "r"}})
        Ledger(lake, PIPELINE.pipeline).record(slow)
        with caplog.at_level(logging.INFO, logger="jobs.rapids"):
            once(3)
        details = [each.details for each in Ledger(lake, PIPELINE.pipeline).stages() if each.recorded_at.year < 2100]
    finally:
        spark.conf.unset(rapids.ENABLED)

    assert seen == [None, "true", "false"]
    assert details[0] == {}
    assert details[1] == {"sql": {"gpu": True, "reason": "spark.plugins names NVIDIA's plugin"}}
    reason = details[2]["sql"]["reason"]
    assert details[2]["sql"] == {"gpu": False, "reason": reason}
    assert reason.startswith("a million rows of `features` took 1e+09 s on GPUs and ")
    assert caplog.messages == [f"Spark SQL on {Choice(False, reason)}"]
