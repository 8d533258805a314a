"""One Spark session a test process; a lake folder a test."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from conf.schema import Environment
from jobs import session

# Great Expectations looks for Spark Connect, and that takes a main module without a file, as pytest-xdist's workers have, for a run
# of its doctests: without grpc it ends the process.
if not hasattr(sys.modules["__main__"], "__file__"):
    sys.modules["__main__"].__file__ = __file__


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--json", metavar="FILE", help="write the outcome and seconds of every test to this file")


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Write `--json`: {exit, counts, tests: [{test, outcome, seconds, message}]}."""
    target = config.getoption("--json")
    if not target:
        return
    outcomes = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
    tests = [
        {
            "test": report.nodeid,
            "outcome": outcome,
            "seconds": round(report.duration, 2),
            "message": _message(report) if outcome != "passed" else "",
        }
        for outcome in outcomes
        for report in terminalreporter.stats.get(outcome, [])
    ]
    counts = {outcome: len(terminalreporter.stats.get(outcome, [])) for outcome in outcomes}
    summary = {"exit": int(exitstatus), "counts": counts, "tests": sorted(tests, key=lambda test: test["test"])}
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(json.dumps(summary, indent=1) + "\n")


def _message(report: Any) -> str:
    """Why a test did not pass: a skip carries (file, line, reason), a failure its traceback."""
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext)
