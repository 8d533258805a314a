"""Two writers on HDFS, where Delta itself allows them: the lease lets one through, and nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system import deliveries, lakes, places
from tests.system.hadoop import hadoop

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def test_two_runs_at_once_on_hdfs(tmp_path: Path) -> None:
    """Different run dates, the same tables. Whoever comes second is told who runs, or finds the work done."""
    work = places.parcels(tmp_path / "parcels")
    with places.folder_of_this_machine(replace(work, job="ingest"), tmp_path / "here") as run:
        here = run()

    with hadoop(tmp_path / "hadoop") as cluster:
        cluster.upload(work.raw, f"{cluster.root}/raw")
        settings = deliveries.write_environment(
            tmp_path, "there", raw=f"{cluster.root}/raw", lake=f"{cluster.root}/lake"
        )
        environment = {**os.environ, **cluster.environment}

        def ingest(day: str) -> subprocess.Popen[str]:
            words = ["-m", "jobs.cli", "ingest", str(work.pipeline), "--env", str(settings), "--run-date", day]
            return subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

        both = [ingest("2025-03-01"), ingest("2025-03-02")]
        said = [process.communicate(timeout=400) for process in both]
        codes = [process.returncode for process in both]
        cluster.download(f"{cluster.root}/lake", tmp_path / "copy")

    assert sorted(codes) in ([0, 5], [0, 0]), said
    if 5 in codes:
        refused = json.loads(said[codes.index(5)][0].splitlines()[-1])["error"]
        assert re.search(r"ops/leases/parcels/\d+\.json: .* Wait for it to end\.$", refused)
    there = lakes.tables(tmp_path / "copy")
    data = [name for name in here.tables if name.startswith(("silver/", "quarantine/"))]
    assert len(data) == 6
    assert {name: lakes.checksum(there[name], lakes.APART) for name in data} == {
        name: lakes.checksum(here.tables[name], lakes.APART) for name in data
    }
