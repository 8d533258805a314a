"""The same flights on 1, 2 and 7 input partitions give the same tables and the same linear metrics."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system import deliveries, lakes

ROOT = Path(__file__).resolve().parents[2]
RAW = ROOT / "data" / "raw"
COMPARED = ("silver/", "gold/flights_features", "gold/flights_labels", "ops/flights_membership")

# Several whole runs each: on a busy machine they take longer than the limit of other tests.
pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


def linear_flights(folder: Path, name: str, spark: dict[str, str], settings: tuple[str, ...]) -> dict[str, float]:
    """Run the flights pipeline without its trees; returns the test metrics."""
    environment = deliveries.write_environment(folder, name, spark)
    command = [sys.executable, "-m", "jobs.cli", "run", str(folder / "flights.yaml"), "--env", str(environment)]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout.strip().splitlines()[-1])["evaluate"]["metrics"]
    return {metric: value for metric, value in metrics.items() if isinstance(value, float)}


def test_partitions_do_not_change_tables_or_linear_metrics(tmp_path: Path) -> None:
    """Three months of flights; the split of the input is the only thing that differs."""
    months = ("2013-01.csv", "2013-02.csv", "2013-03.csv")
    (tmp_path / "raw" / "flights").mkdir(parents=True)
    for month in months:
        shutil.copy(RAW / "flights" / month, tmp_path / "raw" / "flights" / month)
    for file in ("weather.csv", "planes.csv"):
        shutil.copy(RAW / file, tmp_path / "raw" / file)
    pipeline = (ROOT / "conf" / "flights.yaml").read_text()
    (tmp_path / "flights.yaml").write_text(pipeline)
    settings = (
        "split.test.from=2013-03-10",
        "score.since=2013-03-20",
        "train.candidates={logistic: {estimator: logistic_regression, grid: {reg_param: [0.001]}}}",
        "evaluate.bootstrap=0",
        "evaluate.floor={area_under_roc: 0.5}",
    )
    runs = {}
    for partitions in (1, 2, 7):
        spark = {
            "spark.sql.shuffle.partitions": str(partitions),
            "spark.default.parallelism": str(partitions),
            "spark.sql.files.minPartitionNum": str(partitions),
            "spark.sql.files.maxPartitionBytes": str(1 << 30 if partitions == 1 else (40 << 20) // partitions),
            # Seven parts cut the files, which are then read line by line; otherwise each is one stream.
            "spark.sql.files.openCostInBytes": str(1 << 16 if partitions == 7 else 4 << 20),
        }
        metrics = linear_flights(tmp_path, f"lake{partitions}", spark, settings)
        runs[partitions] = (metrics, lakes.tables(tmp_path / f"lake{partitions}"))

    metrics, tables = runs[1]
    for partitions in (2, 7):
        others, found = runs[partitions]
        assert others == pytest.approx(metrics, rel=1e-8, abs=1e-8)
        compared = [name for name in tables if name.startswith(COMPARED)]
        assert len(compared) == 6
        for name in compared:
            assert lakes.checksum(found[name]) == lakes.checksum(tables[name]), name
