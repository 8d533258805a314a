"""Machines of a cluster die while a pipeline runs on it: the tables are those of a run in which nothing happened."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.system import places
from tests.system.places import Ran, Workload
from tests.system.test_places import assert_same

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def parcels(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return places.parcels(tmp_path_factory.mktemp("parcels"))


@pytest.fixture(scope="module")
def undisturbed(parcels: Workload, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    with places.folder_of_this_machine(parcels, tmp_path_factory.mktemp("here")) as run:
        return run()


def executors(folder: Path) -> list[int]:
    """Process ids of the executors whose work lies below a folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            at = os.readlink(process / "cwd")
            command = (process / "cmdline").read_bytes()
        except OSError:  # no process, or it has ended
            continue
        if at.startswith(f"{folder}/work-") and b"CoarseGrainedExecutorBackend" in command:
            found.append(int(process.name))
    return sorted(found)


@pytest.mark.parametrize("line", ["features: started", "train: started", "train: refitting", "score: started"])
def test_an_executor_that_is_killed_changes_nothing(
    parcels: Workload, undisturbed: Ran, line: str, tmp_path: Path
) -> None:
    """SIGKILL to one of two executors once the driver has logged the line; the worker starts another."""
    killed: list[int] = []

    def kill(said: str) -> None:
        if line in said and not killed:
            killed.append(executors(tmp_path)[0])
            os.kill(killed[0], signal.SIGKILL)

    with places.standalone_cluster(parcels, tmp_path, heard=kill) as run:
        there = run()

    assert killed
    assert there.summary["outcome"] == "done"
    assert_same(there.tables, undisturbed.tables, measured_to=1e-6)


def test_speculative_attempts_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task lingers, a second attempt at it wins, and both have written: each row is there once."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the driver, which the package alone would not lead to the tests
    work = places.parcels(tmp_path / "parcels")
    spec = yaml.safe_load(work.pipeline.read_text())
    spec["features"] |= {
        "function": "tests.system.flaky.twice_the_weight_slowly",
        "numeric": ["weight_kg", "double_weight"],
    }
    work.pipeline.write_text(yaml.safe_dump(spec, sort_keys=False))
    speculation = {
        "spark.speculation": "true", "spark.speculation.interval": "100ms", "spark.speculation.quantile": "0.5",
        "spark.speculation.minTaskRuntime": "1s", "spark.executorEnv.PYTHONPATH": str(ROOT),
        # A stage of one task has no others to be slower than.
        "spark.speculation.task.duration.threshold": "3s",
    }  # fmt: skip

    with places.folder_of_this_machine(work, tmp_path / "here") as run:
        here = run()
    with places.standalone_cluster(replace(work, spark={**work.spark, **speculation}), tmp_path / "there") as run:
        there = run()

    ended = [
        json.loads(line)
        for file in sorted((tmp_path / "there/events").rglob("*"))
        if file.is_file()
        for line in file.read_text().splitlines()
        if '"SparkListenerTaskEnd"' in line
    ]
    assert any(event["Task Info"]["Speculative"] for event in ended)
    assert_same(there.tables, here.tables, measured_to=1e-6)
