"""A run that is killed between any two jobs, started again with the same command, ends as an unbroken run does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.system import deliveries, lakes

ROOT = Path(__file__).resolve().parents[2]
JOBS = ("ingest.parcels", "features", "train", "evaluate", "promote", "score")

# Several whole runs each: on a busy machine they take longer than the limit of other tests.
pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


@contextmanager
def millrace(folder: Path, environment: Path) -> Iterator[subprocess.Popen[str]]:
    """`millrace run` in a process group of its own (driver, JVM, workers), of which nothing is left behind."""
    command = [sys.executable, "-m", "jobs.cli", "run", str(folder / "parcels.yaml"), "--env", str(environment)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish(folder: Path, environment: Path) -> str:
    with millrace(folder, environment) as process:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        return output


def kill_after(folder: Path, environment: Path, pattern: str) -> None:
    """Start the run and SIGKILL its whole process group once it has logged a line with `pattern`."""
    with millrace(folder, environment) as process:
        seen = await_line(process, pattern)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, seen


def await_line(process: subprocess.Popen[str], pattern: str) -> str:
    """What the process has logged up to the first line with a regular expression."""
    assert process.stderr is not None
    seen = ""
    for text in process.stderr:
        seen += text
        if re.search(pattern, text):
            break
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    deliveries.write(tmp_path / "raw")
    (tmp_path / "parcels.yaml").write_text(deliveries.PIPELINE)
    return tmp_path


def same_lakes(left: Path, right: Path) -> None:
    ours, theirs = lakes.tables(left), lakes.tables(right)
    assert sorted(ours) == sorted(theirs)
    for name, table in ours.items():
        assert lakes.checksum(table, lakes.CLOCKS) == lakes.checksum(theirs[name], lakes.CLOCKS), name


def test_killed_between_all_jobs(folder: Path) -> None:
    """One lake survives a SIGKILL at every boundary in turn; it then equals the lake of an unbroken run, and a further run writes nothing."""
    whole = deliveries.write_environment(folder, "whole")
    finish(folder, whole)

    broken = deliveries.write_environment(folder, "broken")
    for job in JOBS:
        kill_after(folder, broken, rf"{job}: .* s of cpu")
    finish(folder, broken)
    same_lakes(folder / "whole", folder / "broken")

    before = lakes.versions(folder / "broken")
    assert '"outcome": "unchanged"' in finish(folder, broken).splitlines()[-1]
    assert lakes.versions(folder / "broken") == before


@pytest.mark.parametrize("job", JOBS)
def test_killed_inside_a_job(folder: Path, job: str) -> None:
    """Killed as soon as a job has started, whatever it had written by then."""
    whole, broken = deliveries.write_environment(folder, "whole"), deliveries.write_environment(folder, "broken")
    finish(folder, whole)
    kill_after(folder, broken, f"{job}: started")
    finish(folder, broken)
    same_lakes(folder / "whole", folder / "broken")


@pytest.mark.parametrize("job", ["ingest.parcels", "features", "train"])
def test_ended_by_a_scheduler(folder: Path, job: str) -> None:
    """SIGTERM while a job works: one sentence, exit 1, no lease left behind; the same command goes on from there."""
    whole, broken = deliveries.write_environment(folder, "whole"), deliveries.write_environment(folder, "broken")
    finish(folder, whole)
    with millrace(folder, broken) as process:
        await_line(process, f"{job}: started")
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=100)
    summary = json.loads(output.splitlines()[-1])
    assert (process.returncode, summary["exit_code"], summary["outcome"]) == (1, 1, "failed"), errors
    assert summary["error"] == "Ended by SIGTERM. What was committed stays; the same command goes on from there."
    assert "Traceback" not in errors
    assert list((folder / "broken/ops/leases/parcels").iterdir()) == []

    finish(folder, broken)
    same_lakes(folder / "whole", folder / "broken")


def test_the_jvm_is_killed(folder: Path) -> None:
    """As the system does when memory runs out: one sentence, the line of JSON, exit 1; the same command goes on from there."""
    whole, broken = deliveries.write_environment(folder, "whole"), deliveries.write_environment(folder, "broken")
    finish(folder, whole)
    with millrace(folder, broken) as process:
        await_line(process, "train: started")
        (jvm,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(jvm), signal.SIGKILL)
        output, errors = process.communicate(timeout=100)
    summary = json.loads(output.splitlines()[-1])
    assert (process.returncode, summary["exit_code"], summary["outcome"]) == (1, 1, "failed"), errors
    assert summary["error"] == (
        "Spark's own process on this machine (the driver's JVM) ended while the job ran. Most often it was killed because memory ran out:"
        " leave more to it and to Python on this machine, or give it less (`driver_memory`). A file hs_err_pid*.log tells of a crash. The"
        " same command goes on from what was committed."
    )
    # A thread of PySpark's own may print a traceback before it.
    told, not_kept = errors.splitlines()[-2:]
    assert told == summary["error"]
    assert not_kept.endswith(f"/none-run.json: the outcome could not be written: {told}")

    finish(folder, broken)
    same_lakes(folder / "whole", folder / "broken")
