"""A process of its own that does two stages with Spark's event log on, then a search with more Spark stages than are kept.

Prints one line of JSON: what each of the three took.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from pyspark import TaskContext
from pyspark.sql import SparkSession

from conf.schema import Environment, Pipeline
from jobs import session
from jobs.lake import Lake
from jobs.runs import Attempt, Ledger, Outcome, Run, stage
from jobs.usage import Meter, Usage
from tests.jobs.test_runs import PIPELINE

STAGE = "test.stage"  # a local property, which the event log writes down with each job
PRICE = 0.05
MEASURED = {
    "spark.eventLog.enabled": "true",
    "spark.eventLog.compress": "false",
    "spark.eventLog.rolling.enabled": "false",
    "spark.shuffle.spill.numElementsForceSpillThreshold": "3000",
    "spark.sql.adaptive.coalescePartitions.enabled": "false",
}
KEPT, JOBS = 5, 20


def environment(folder: Path, spark: dict[str, str]) -> Environment:
    """Two cores; a task may fail three times."""
    own = {"spark.sql.warehouse.dir": str(folder / "warehouse"), "spark.local.dir": str(folder / "local")}
    return Environment(
        name="measured",
        lake=str(folder / "lake"),
        master="local[2,4]",
        driver_memory="1g",
        price_per_core_hour=PRICE,
        spark={**own, **spark},
    )


def search(spark: SparkSession, folder: Path) -> None:
    """What a search does: several threads, each with jobs of its own; sorts that spill, files, and a task that fails once."""
    rows = spark.range(40_000).selectExpr("id", "hash(id) AS mixed", "id % 7 AS kind")
    rows.write.parquet(str(folder / "rows"))

    def point(kind: int) -> int:
        spark.sparkContext.setLocalProperty(STAGE, name)
        read = spark.read.parquet(str(folder / "rows"))
        joined = read.join(read.groupBy("kind").count(), "kind").where(f"kind >= {kind}")
        joined.repartition(3).sortWithinPartitions("mixed").write.parquet(str(folder / f"sorted {kind}"))
        return int(joined.distinct().count())

    def failing(rows: Iterator[int]) -> Iterator[int]:
        context = TaskContext.get()
        assert context is not None
        if context.partitionId() == 1 and context.attemptNumber() == 0:
            raise RuntimeError("the first try of one task")
        return rows

    name = spark.sparkContext.getLocalProperty(STAGE)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(point, range(3)))
    spark.sparkContext.parallelize(range(100), 4).mapPartitions(failing).count()


def stages(folder: Path) -> dict[str, Any]:
    """Two stages of a ledger in one session, jobs of nobody before, between and after them."""
    (folder / "events").mkdir()
    surroundings = environment(folder, {**MEASURED, "spark.eventLog.dir": (folder / "events").as_uri()})
    spark = session.build(surroundings, app="measured")
    lake = Lake(spark, surroundings.lake)
    pipeline: Pipeline = PIPELINE
    run = Run(spark, pipeline, surroundings, lake, Ledger(lake, "shop"), asked_run_date=date(2024, 5, 1))

    def search_of(name: str) -> None:
        spark.sparkContext.setLocalProperty(STAGE, name)
        search(spark, folder / name)
        spark.sparkContext.setLocalProperty(STAGE, None)

    def count_of(name: str) -> None:
        spark.sparkContext.setLocalProperty(STAGE, name)
        spark.range(10).count()
        spark.sparkContext.setLocalProperty(STAGE, None)

    for job, work in (("features", search_of), ("train", count_of)):

        def body(attempt: Attempt, job: str = job, work: Any = work) -> Outcome:
            work(job)
            return Outcome(job)

        spark.range(1_000).repartition(3).count()
        stage(run, job, specs=[], inputs={}, body=body)
    spark.range(1_000).repartition(3).count()
    spark.stop()
    return {done.job: {**_taken(done.usage), "seconds": done.seconds} for done in run.ledger.recorded}


def dropped(folder: Path) -> dict[str, Any]:
    """Twenty jobs of one Spark stage each in a session that keeps five. It drops them in a thread of its own."""
    spark = session.build(environment(folder, {"spark.ui.retainedStages": str(KEPT)}), app="dropping")
    spark.sparkContext.parallelize([0], 1).count()
    meter = Meter(spark)
    for _ in range(JOBS):
        spark.sparkContext.parallelize([0], 1).count()
    for _ in range(100):
        usage = meter.read()
        if usage.dropped_tasks:
            break
    spark.stop()
    return _taken(usage)


def _taken(usage: Usage | None) -> dict[str, Any]:
    assert usage is not None
    return asdict(usage)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    place = Path(sys.argv[1])
    sys.stdout.write(json.dumps({**stages(place), "dropped": dropped(place)}) + "\n")
