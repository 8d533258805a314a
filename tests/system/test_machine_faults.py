"""What a machine does to a run: full disks, damaged tables, a clock that is off, two runs at once. Each ends as an undisturbed run does, or
with a sentence, and then the next run does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs import jars
from tests.system import deliveries, lakes

ROOT = Path(__file__).resolve().parents[2]
Checksums = dict[str, tuple[int, str]]

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline file and raw files, and `lake` as ingest and features leave it."""
    folder = tmp_path_factory.mktemp("parcels")
    deliveries.write(folder / "raw", rows=1_500)
    (folder / "parcels.yaml").write_text(deliveries.PIPELINE)
    for job in ("ingest", "features"):
        done = millrace(job, folder, deliveries.write_environment(folder, "lake"))
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> Checksums:
    return checksums(folder / "lake")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """An environment file for a copy of the lake."""
    shutil.copytree(folder / "lake", tmp_path / "lake")
    return environment(folder, tmp_path / "lake")


def environment(folder: Path, lake: Path, spark: dict[str, str] | None = None) -> Path:
    return deliveries.write_environment(lake.parent, lake.name, spark, raw=f"{folder}/raw")


def command(job: str, folder: Path, settings: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", job, str(folder / "parcels.yaml"), "--env", str(settings), *options]


def millrace(
    job: str, folder: Path, settings: Path, *options: str, before: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, *command(job, folder, settings, *options)], cwd=ROOT, capture_output=True, text=True, timeout=400,
        env={**os.environ, **variables},
    )  # fmt: skip


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def checksums(lake: Path) -> Checksums:
    """By table. A stage's fingerprint has the versions of its tables in it, which tell how often it was tried."""
    left_out = (*lakes.CLOCKS, "fingerprint")
    return {name: lakes.checksum(table, left_out) for name, table in lakes.tables(lake).items()}


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[None]:
    """A file system of so many bytes at a folder, while the block runs."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@as_root
def test_a_full_disk_of_the_lake(folder: Path, expected: Checksums, tmp_path: Path) -> None:
    """The run ends with a sentence; with room made, the same commands end with the tables of any other run."""
    disk = tmp_path / "disk"
    with small_disk(disk, "600k"):
        settings = environment(folder, disk / "lake")
        full = millrace("ingest", folder, settings)
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        again = [millrace(job, folder, settings).returncode for job in ("ingest", "features")]
        found = checksums(disk / "lake")

    assert (full.returncode, again) == (1, [0, 0]), full.stderr
    assert summary(full)["error"] == (
        "A disk is full (of the lake, or of spark.local.dir, which shuffles write to). Make room. The same command goes on from what was"
        " committed."
    )
    assert "Traceback" not in full.stderr
    assert found == expected


@as_root
def test_a_full_disk_of_shuffles(folder: Path, expected: Checksums, tmp_path: Path) -> None:
    """The lake is as before the stage; elsewhere the stage succeeds."""
    disk, lake = tmp_path / "disk", tmp_path / "lake"
    assert millrace("ingest", folder, environment(folder, lake)).returncode == 0
    before = checksums(lake)
    # Spark copies its jars there when it starts.
    room = sum(jar.stat().st_size for jar in jars.ensure("delta")) + 100_000
    with small_disk(disk, str(room)):
        full = millrace("features", folder, environment(folder, lake, {"spark.local.dir": str(disk)}))
    after = checksums(lake)
    again = millrace("features", folder, environment(folder, lake))

    assert (full.returncode, again.returncode) == (1, 0), full.stderr
    assert summary(full)["error"].startswith("A disk is full")
    assert "Traceback" not in full.stderr
    assert {name: after[name] for name in before} == before
    assert checksums(lake) == expected


def test_a_data_file_that_is_gone(folder: Path, copied: Path, tmp_path: Path) -> None:
    """The sentence names the file; nothing is written."""
    (file,) = (tmp_path / "lake/silver/parcels_depots").glob("*.parquet")
    file.unlink()

    done = millrace("features", folder, copied, "--force")

    assert done.returncode == 1
    assert re.fullmatch(
        rf"\S*{re.escape(str(file))}: a file of a table is gone\. Restore it, or run the job that wrote the table with --force\.",
        summary(done)["error"],
    ), done.stderr
    assert "Traceback" not in done.stderr


def test_a_commit_that_is_cut_short(folder: Path, copied: Path, tmp_path: Path) -> None:
    """No older version is read in silence: the sentence names the table."""
    log = tmp_path / "lake/silver/parcels_depots/_delta_log"
    last = sorted(log.glob("*.json"))[-1]
    last.write_bytes(last.read_bytes()[:40])
    for checksum in log.glob("*.crc"):
        checksum.unlink()
    for hidden in log.glob(".*.crc"):
        hidden.unlink()

    done = millrace("features", folder, copied, "--force")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.fullmatch(
        r"\S*parcels_depots/_delta_log\S*: the log of a table is damaged\. Restore it from a copy; what was committed before it stays"
        r" readable by version\.",
        summary(done)["error"],
    ), done.stderr


def test_a_clock_that_is_off(folder: Path, copied: Path, expected: Checksums, tmp_path: Path) -> None:
    """A year and more ahead: the same run date finds all done, and a forced run writes the same rows; only the run date touches data."""
    if shutil.which("faketime") is None:
        pytest.skip("no faketime on this machine; on Debian: apt-get install faketime")
    ahead = ("faketime", "-f", "+400d")

    again = millrace("features", folder, copied, before=ahead)
    forced = millrace("features", folder, copied, "--force", before=ahead)

    assert (again.returncode, forced.returncode) == (0, 0), again.stderr + forced.stderr
    assert (summary(again)["outcome"], summary(forced)["outcome"]) == ("unchanged", "done")
    found = checksums(tmp_path / "lake")
    gold = [name for name in expected if not name.startswith("ops/parcels_stages")]
    assert {name: found[name] for name in gold} == {name: expected[name] for name in gold}


def test_two_runs_at_once(folder: Path, expected: Checksums, tmp_path: Path) -> None:
    """One runs to its end, the other is told who holds the pipeline."""
    settings = environment(folder, tmp_path / "lake")
    both = [
        subprocess.Popen(
            command("ingest", folder, settings), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=400) for process in both]
    codes = [process.returncode for process in both]
    assert millrace("features", folder, settings).returncode == 0

    # The second may have come when the first was done: then it found nothing to do.
    assert sorted(codes) in ([0, 5], [0, 0]), said
    if 5 in codes:
        refused = json.loads(said[codes.index(5)][0].splitlines()[-1])["error"]
        assert re.fullmatch(
            r"\S+/ops/leases/parcels/\d+\.json: (process \d+ on \S+ is running pipeline parcels\. Expected no other run\. Wait for it to"
            r" end\.|another run of pipeline parcels has started just now\. Wait for it to end\.)",
            refused,
        )
    assert checksums(tmp_path / "lake") == expected


def test_tasks_that_fail(folder: Path, copied: Path, tmp_path: Path) -> None:
    """Of three attempts at each task the last one succeeds: nothing is lost. When it does not, nothing is written, and the next run is whole."""
    text = copied.read_text().replace("local[2]", "local[2,3]")
    copied.write_text(text)
    function = ("--set", "features.function=tests.system.flaky.twice_the_weight")
    numeric = ("--set", "features.numeric=[weight_kg, double_weight]")

    ill = millrace("features", folder, copied, *function, *numeric, FAILURES="3")
    tables = lakes.tables(tmp_path / "lake")
    recovering = millrace("features", folder, copied, *function, *numeric, FAILURES="2")

    assert (ill.returncode, recovering.returncode) == (1, 0), recovering.stderr
    assert "the machine is ill" in ill.stderr
    made = lakes.tables(tmp_path / "lake")
    (name,) = (
        name for name in made if name.startswith("gold/parcels_features") and "double_weight" in made[name].column_names
    )
    assert tables.get(name) is None or tables[name].num_rows == 0
    weights = made[name].select(["weight_kg", "double_weight"]).to_pylist()
    assert len(weights) == summary(recovering)["rows_out"] > 1_000
    assert all(row["double_weight"] == 2 * row["weight_kg"] for row in weights if row["weight_kg"] is not None)
