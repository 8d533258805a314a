"""What stages take: held against the event log that Spark writes by another way, and in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.status_store import Executor, StatusStore
from jobs.usage import Meter, Usage, core_seconds, size
from tests.jobs import measured

ROOT = Path(__file__).resolve().parents[2]
USAGE = Usage(
    spark_stages=12,
    dropped_tasks=0,
    tasks=24,
    failed_tasks=0,
    task_seconds=22.0,
    cpu_seconds=20.14,
    gc_seconds=0.36,
    bytes_read=31_000_000,
    bytes_written=4_560,
    shuffle_read_bytes=119_000_000,
    shuffle_written_bytes=120_000_000,
    spilled_bytes=0,
    peak_memory_bytes=67_108_864,
    core_seconds=24.6,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `measured` printed, and the events that its first session logged."""
    folder = tmp_path_factory.mktemp("measured")
    done = subprocess.run(
        [sys.executable, "-m", "tests.jobs.measured", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = min((folder / "events").iterdir())  # the later session of the process logs its own
    return json.loads(done.stdout.splitlines()[-1]), [json.loads(line) for line in log.read_text().splitlines()]


def logged(events: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The figures of one stage from the event log: of the tasks of the jobs that carry its name."""
    jobs = [e for e in events if e["Event"] == "SparkListenerJobStart"]
    numbers = {n for e in jobs if e["Properties"].get(measured.STAGE) == name for n in e["Stage IDs"]}
    sums: dict[str, int] = defaultdict(int)
    for event in events:
        if event["Event"] == "SparkListenerStageCompleted":
            sums["spark_stages"] += event["Stage Info"]["Stage ID"] in numbers
        if event["Event"] != "SparkListenerTaskEnd" or event["Stage ID"] not in numbers:
            continue
        reason, metrics = event["Task End Reason"]["Reason"], event.get("Task Metrics")
        sums["tasks"] += reason == "Success"
        sums["failed_tasks"] += reason == "ExceptionFailure"
        if metrics is None:
            continue
        sums["run"] += metrics["Executor Run Time"]
        sums["cpu"] += metrics["Executor CPU Time"]
        sums["gc"] += metrics["JVM GC Time"]
        sums["read"] += metrics["Input Metrics"]["Bytes Read"]
        sums["written"] += metrics["Output Metrics"]["Bytes Written"]
        shuffle = metrics["Shuffle Read Metrics"]
        sums["shuffle_read"] += shuffle["Local Bytes Read"] + shuffle["Remote Bytes Read"]
        sums["shuffle_written"] += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
        sums["spilled"] += metrics["Disk Bytes Spilled"]
        sums["peak"] = max(sums["peak"], metrics["Peak Execution Memory"])
    return {
        "spark_stages": sums["spark_stages"],
        "dropped_tasks": 0,
        "tasks": sums["tasks"],
        "failed_tasks": sums["failed_tasks"],
        "task_seconds": sums["run"] / 1e3,
        "cpu_seconds": sums["cpu"] / 1e9,
        "gc_seconds": sums["gc"] / 1e3,
        "bytes_read": sums["read"],
        "bytes_written": sums["written"],
        "shuffle_read_bytes": sums["shuffle_read"],
        "shuffle_written_bytes": sums["shuffle_written"],
        "spilled_bytes": sums["spilled"],
        "peak_memory_bytes": sums["peak"],
    }


@pytest.mark.slow
def test_a_stage_takes_what_the_event_log_says(run: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """Jobs of several threads count, and neither those before nor those after it; failed tries count too."""
    found, events = run
    for name in ("features", "train"):
        taken = {key: value for key, value in found[name].items() if key not in ("core_seconds", "cost", "seconds")}
        assert taken == logged(events, name)
    # All of it is put to the test: nothing is zero but what should be.
    zero = {key for key, value in logged(events, "features").items() if value == 0}
    assert zero <= {"dropped_tasks", "gc_seconds"}
    assert found["features"]["failed_tasks"] == 1
    assert (found["train"]["spark_stages"], found["train"]["bytes_read"]) == (2, 0)


@pytest.mark.slow
def test_cost_is_cores_held_by_the_time_at_the_environments_price(
    run: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    """Two cores, however busy they are."""
    for name in ("features", "train"):
        found = run[0][name]
        assert found["core_seconds"] == pytest.approx(2 * found["seconds"], abs=2)
        assert found["core_seconds"] >= found["task_seconds"] > 0
        assert found["cost"] == found["core_seconds"] / 3600 * measured.PRICE


@pytest.mark.slow
def test_tasks_that_spark_has_dropped_are_counted(run: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """Of twenty Spark stages with one task each, in a session that keeps five."""
    found = run[0]["dropped"]
    assert found["tasks"] + found["dropped_tasks"] == measured.JOBS
    assert found["tasks"] == found["spark_stages"] < measured.JOBS
    assert found["cost"] is None


@pytest.mark.quick
def test_nothing_that_spark_does_costs_nothing(spark: SparkSession) -> None:
    """The boundary is exact: jobs that ended right before are not in it."""
    spark.range(1_000).repartition(2).count()
    found = Meter(spark).read()
    assert replace(found, core_seconds=0.0) == Usage(*[0] * 4, *[0.0] * 3, *[0] * 6, core_seconds=0.0)


@pytest.mark.quick
def test_the_largest_task_is_found_among_stages_of_many(spark: SparkSession) -> None:
    """Of a stage Spark gives the sum over tasks; two tasks that are alike hold half of it each."""
    store = StatusStore(spark)
    before = store.newest_stage()
    spark.range(0, 20_000, 1, 2).selectExpr("hash(id) AS mixed").sortWithinPartitions("mixed").write.format(
        "noop"
    ).mode("overwrite").save()
    [stage] = store.stages_after(before)
    assert stage["numTasks"] == 2
    assert 0 < store.peak_memory([stage]) < stage["peakExecutionMemory"] <= 2 * store.peak_memory([stage])


@pytest.mark.quick
def test_cores_count_while_they_are_held() -> None:
    """Of executors that came before, went early, came late, left before or come after; the driver of a cluster has none."""
    executors = [
        Executor("1", 0, 2, 0.0, None),
        Executor("2", 0, 4, 90.0, 105.0),
        Executor("3", 0, 8, 108.0, None),
        Executor("4", 0, 16, 50.0, 99.0),
        Executor("5", 0, 32, 120.0, None),
        Executor("driver", 0, 0, 0.0, None),
    ]
    assert core_seconds(executors, 100.0, 110.0) == 2 * 10 + 4 * 5 + 8 * 2
    assert core_seconds([], 100.0, 110.0) == 0


@pytest.mark.quick
def test_words() -> None:
    """What is zero is said, but for failures and a cost that nobody asked for."""
    assert USAGE.words() == ("20.1 s of cpu, 0.4 s of gc, 31 MB read, 4.6 kB written, 120 MB shuffled, none spilled")
    assert replace(USAGE, spilled_bytes=2_500_000_000, failed_tasks=3, cost=0.00345).words() == (
        "20.1 s of cpu, 0.4 s of gc, 31 MB read, 4.6 kB written, 120 MB shuffled, 2.5 GB spilled, 3 failed task(s), cost 0.0034"
    )


@pytest.mark.quick
@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "none"), (1, "1 B"), (999, "999 B"), (1_000, "1.0 kB"), (9_949, "9.9 kB"), (9_951, "10 kB"), (999_499, "999 kB"),
        (999_500, "1.0 MB"), (120_400_000, "120 MB"), (3 * 10**9, "3.0 GB"), (4 * 10**15, "4000 TB"),
    ],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    """No more digits than matter."""
    assert size(count) == text
