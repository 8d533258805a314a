"""The tuner on a standalone cluster of two workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from tests.models.exact import searches
from tests.models.exact.standalone import found_by


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_cluster_finds_what_one_process_finds(spark: SparkSession, tmp_path: Path) -> None:
    """Sums over rows come from two executors, in another order: metrics agree to 1e-8, weights to 1e-7."""
    on_cluster: searches.Found = found_by(["-m", "tests.models.exact.searches"], tmp_path)

    here = searches.found(searches.rows(spark, 1))

    assert on_cluster.keys() == here.keys() == {"linear", "logistic"}
    for name, expected in here.items():
        np.testing.assert_allclose(on_cluster[name]["metrics"], expected["metrics"], rtol=1e-8)
        np.testing.assert_allclose(on_cluster[name]["weights"], expected["weights"], rtol=1e-7)
