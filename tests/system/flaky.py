"""Functions for `features.function` whose tasks misbehave."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame


def twice_the_weight(rows: DataFrame) -> DataFrame:
    """Adds `double_weight`. Each task fails as often as the environment variable FAILURES says."""
    failures = int(os.environ["FAILURES"])

    def fail(context: TaskContext) -> None:
        if context.attemptNumber() < failures:
            raise OSError("the machine is ill")

    return _doubled(rows, fail)


def twice_the_weight_slowly(rows: DataFrame) -> DataFrame:
    """Adds `double_weight`. The first attempt at the first task takes half a minute, unless it is killed before."""

    def linger(context: TaskContext) -> None:
        if (context.partitionId(), context.attemptNumber()) == (0, 0):
            time.sleep(30)

    return _doubled(rows, linger)


def _doubled(rows: DataFrame, before: Callable[[TaskContext], None]) -> DataFrame:
    def doubled(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        assert context is not None
        before(context)
        for batch in batches:
            weight = batch.column("weight_kg").to_pandas()
            yield pa.RecordBatch.from_arrays(
                [*batch.columns, pa.array(weight * 2)], [*batch.schema.names, "double_weight"]
            )

    return rows.mapInArrow(doubled, rows.selectExpr("*", "CAST(0 AS DOUBLE) AS double_weight").schema)
