"""A `features.function` whose tasks fail as often as the environment variable FAILURES says, each on every partition."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame


def twice_the_weight(rows: DataFrame) -> DataFrame:
    """Adds `double_weight`."""
    failures = int(os.environ["FAILURES"])

    def doubled(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        assert context is not None
        if context.attemptNumber() < failures:
            raise OSError("the machine is ill")
        for batch in batches:
            weight = batch.column("weight_kg").to_pandas()
            yield pa.RecordBatch.from_arrays(
                [*batch.columns, pa.array(weight * 2)], [*batch.schema.names, "double_weight"]
            )

    return rows.mapInArrow(doubled, rows.selectExpr("*", "CAST(0 AS DOUBLE) AS double_weight").schema)
