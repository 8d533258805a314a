"""One Spark session a test process; a lake folder a test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.schema import Environment
from jobs import session


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Two cores, two shuffle partitions, UTC; every file that Spark writes by itself goes to this process's temporary folder."""
    folder = tmp_path_factory.mktemp("spark")
    environment = Environment(
        name="test",
        master="local[2]",
        driver_memory="2g",
        spark={
            "spark.sql.shuffle.partitions": "2",
            "spark.default.parallelism": "2",
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
            "spark.local.dir": str(folder / "local"),
        },
    )
    spark = session.build(environment, app="tests")
    yield spark
    spark.stop()


@pytest.fixture
def lake_root(tmp_path: Path) -> str:
    """An empty folder for the tables of one test."""
    folder = tmp_path / "lake"
    folder.mkdir()
    return str(folder)


@pytest.fixture(autouse=True, scope="session")
def _quiet_query_context() -> None:
    """Spark's query-context loggers print row values whatever the level; py4j logs each broken callback at INFO."""
    for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("py4j").setLevel(logging.ERROR)
