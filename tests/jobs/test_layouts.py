"""In how many tasks files are read."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from jobs import layouts
from jobs.landing import RawFile


@pytest.mark.quick
@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(100, 1_000, 8), (20_000, 20_000, 40), (2_000, 3_500_000, 53), (20, 20_000_000, 100)],
    ids=["four a core", "five hundred files a task", "128 MiB a task", "large files as they are"],
)
def test_small_files_are_read_in_few_tasks(spark: SparkSession, count: int, size: int, expected: int) -> None:
    """Spark would make one of every 32."""
    assert spark.sparkContext.defaultParallelism == 2
    frame = spark.range(0, 100, 1, 100).toDF("id")
    files = [RawFile(f"{number}.csv", "etag", size) for number in range(count)]
    assert layouts.gathered(spark, frame, files).rdd.getNumPartitions() == expected
