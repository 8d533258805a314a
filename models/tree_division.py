"""What boosted trees divide among tasks: the models, where a task has room for all rows; else the rows.

With all rows at hand, a task trains its models for itself, at the speed of XGBoost alone. Where rows are divided, the workers add up their histograms
for each level of each tree, and train one model after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from models.exact.driver import workers
from models.exact.worker import memory
from transforms.errors import ModelError

# Any worker has room for so many bytes: it is not asked.
SMALL = 2**28
# A value as it comes, and its bin; label, weight, margin and gradient of a row.
BYTES_A_VALUE, BYTES_A_ROW = 5, 32
WHOLE = "xgboost, a matrix a fold"
DIVIDED = "xgboost, rows divided"
NOT_ON_GPU = "rows that no worker has room for are divided, and workers train on their part of them on processors"
NEVERTHELESS = "One task holds all rows of boosted trees nevertheless (%s), because there are no workers that wait: %s."


@dataclass(frozen=True)
class Division:
    """How it is done, and why so.

    Attributes:
        tasks: how many hold all rows at once, each with a share of the models; 0 where the rows are divided.
        features: of a row.
    """

    tasks: int
    reason: str
    rows: int
    features: int

    @property
    def solver(self) -> str:
        """Its name in trials."""
        return WHOLE if self.tasks else DIVIDED


def of(spark: SparkSession, rows: int, features: int, tasks: int, *, binned: bool = True) -> Division:
    """By the size of the rows and by what a worker has to spare.

    Args:
        tasks: how many may run at once.
        binned: whether all trees are grown on bins; XGBoost grows others on all rows only.
    """
    size = rows * (features * BYTES_A_VALUE + BYTES_A_ROW)

    def found(tasks: int, reason: str) -> Division:
        return Division(tasks, reason, rows, features)

    if size <= SMALL:
        return found(tasks, f"a task has room for all rows ({_mebibytes(size)})")
    has = room(spark)
    here = min(tasks, workers.neighbours(spark))
    held = f"all rows are {_mebibytes(size)}, of {_mebibytes(has)} that an executor has for them"
    if has >= here * size:
        return found(tasks, f"each task has room for all rows ({held})")
    if has >= size:
        return found(has // size, f"{has // size} at once have room for all rows ({held})")
    if not binned:
        return found(
            1, f"trees that are not grown on bins need all rows in one place, whose memory may not do ({held})"
        )
    return found(
        0, f"no task has room for all rows ({held}): each worker has a part, and all train each model together"
    )


def extent() -> tuple[Column, ...]:
    """Aggregates over rows of `trees.inputs`, for `counted`."""
    return F.count(F.lit(1)), F.count("values"), F.min(F.size("values")), F.max(F.size("values"))


def counted(found: Sequence[Any]) -> tuple[int, int]:
    """How many rows there are, and how many features they have, 0 where there are none; of the values of `extent`.

    Raises:
        ModelError: rows have no features, or not the same ones.
    """
    rows, sound, fewest, most = found
    if sound < rows:
        raise ModelError(
            f"{rows - sound} of {rows} rows have null for a vector of features; leave them out or fill them."
        )
    if fewest != most:
        raise ModelError(
            f"The vectors of features have {fewest} to {most} values; expected the same number in all rows."
        )
    return rows, most or 0


def of_inputs(prepared: DataFrame, tasks: int, *, binned: bool = True) -> Division:
    """As `of`, of rows of `trees.inputs`, which are counted.

    Raises:
        ModelError: as `counted`.
    """
    rows, features = counted(prepared.agg(*extent()).collect()[0])
    return of(prepared.sparkSession, rows, features, tasks, binned=binned)


def room(spark: SparkSession) -> int:
    """Bytes of rows that one task of an executor may hold by itself."""
    return int(spark.range(0, 1, 1, 1).mapInArrow(_room, "bytes long").collect()[0][0])


def _room(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _ in batches:
        pass
    yield pa.RecordBatch.from_pydict({"bytes": [memory.budget(1)]})


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
