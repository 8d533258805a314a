"""The README's line of a crontab, as cron runs it: by `sh`, with next to no environment."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts import cluster_package
from tests.system import lakes, places

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]


def test_the_crontab_of_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the options of the line that `scripts/package` prints in the place of the dots, twice: the second run finds nothing new."""
    (entry,) = re.findall(r"^(?:\S+ ){5} *(cd .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    cluster_package.main([str(tmp_path / "package")])
    (printed,) = re.findall(r"^local:\n +(\S+ .*) \S+/millrace.py run", capsys.readouterr().out, re.MULTILINE)
    work = places.parcels(tmp_path / "parcels")
    place = {"name": "place", "raw": str(work.raw), "lake": str(tmp_path / "lake"), "spark": dict(work.spark)}
    (tmp_path / "place.yaml").write_text(yaml.safe_dump(place))
    for old, new in {
        "/srv/millrace": str(ROOT),
        ".../spark-submit ...": f"{printed} --driver-memory 1g",
        "build/package": str(tmp_path / "package"),
        "run flights --env cluster": f"run {work.pipeline} --env {tmp_path}/place.yaml",
    }.items():
        assert entry.count(old) == 1
        entry = entry.replace(old, new)
    environment = {"HOME": str(tmp_path), "LOGNAME": "millrace", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}

    versions = []
    for _ in range(2):
        done = subprocess.run(["/bin/sh", "-c", entry], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
        versions.append(lakes.versions(tmp_path / "lake"))
    assert versions[0] == versions[1]
    assert lakes.tables(tmp_path / "lake")["gold/parcels_predictions"].num_rows > 0
