"""Machines of a cluster die while a pipeline runs on it: the tables are those of a run in which nothing happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.system import places
from tests.system.places import Ran, Workload
from tests.system.test_places import assert_same

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
