"""The tuner on a standalone cluster of two workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from tests.models.exact import searches
from tests.models.exact.standalone import ROOT, standalone


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_cluster_finds_what_one_process_finds(spark: SparkSession, tmp_path: Path) -> None:
    """Sums over rows come from two executors, in another order: metrics agree to 1e-8, weights to 1e-7."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    with standalone(tmp_path) as master:
        done = subprocess.run(
            [sys.executable, "-m", "tests.models.exact.searches", master, str(ROOT)],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    lines = [line.removeprefix("FOUND ") for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-5000:]
    on_cluster: searches.Found = json.loads(lines[0])

    here = searches.found(searches.rows(spark, 1))

    assert on_cluster.keys() == here.keys() == {"linear", "logistic"}
    for name, expected in here.items():
        np.testing.assert_allclose(on_cluster[name]["metrics"], expected["metrics"], rtol=1e-8)
        np.testing.assert_allclose(on_cluster[name]["weights"], expected["weights"], rtol=1e-7)
