"""`millrace gpu-parity`: on a machine without a GPU it says so; what it compares, it compares."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import gpu_parity
from jobs.gpu_parity import Distance

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed: there may be a GPU")
def test_without_a_gpu_it_stops_with_one_sentence() -> None:
    """And exit code 2: what was asked for cannot be had here."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "gpu-parity"], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        "A GPU is required (spark.millrace.gpu), and there is none to use for arrays: Python of the workers cannot import cupy: install"
        " the extra gpu of millrace there."
    )


@pytest.mark.slow
def test_the_same_device_twice_is_no_distance(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the order in which two workers' sums arrive."""
    monkeypatch.setattr(gpu_parity, "ROWS", 3_000)
    found = gpu_parity.distances(spark, "never", "never")
    assert [(each.search, each.what) for each in found] == [
        ("linear regression", "metrics"), ("linear regression", "coefficients"), ("linear regression", "predictions"),
        ("logistic regression", "metrics"), ("logistic regression", "coefficients"), ("logistic regression", "predictions"),
        ("boosted trees", "metrics"), ("boosted trees", "predictions"),
    ]  # fmt: skip
    assert [each for each in found if each.apart > 1e-12] == []


def test_a_distance_beyond_what_is_allowed_is_told() -> None:
    """One decides, and the table shows, by the same rule."""
    assert Distance("linear regression", "metrics", 1e-8, 1e-8).ok
    assert not Distance("linear regression", "metrics", 2e-8, 1e-8).ok
