"""Which way the passes of a search take: workers that wait in a barrier stage, or a job a pass."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from py4j.java_gateway import JavaObject
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from models import gpus
from models.exact.driver.barrier import CONNECT_SECONDS, BarrierPasses, Unavailable
from models.exact.driver.cells import Cells
from models.exact.driver.jobs import JobPasses
from models.exact.driver.passes import Reply
from models.exact.driver.rendezvous import ROUND_SECONDS
from models.exact.task import Limits

ENCRYPTION = ("spark.network.crypto.enabled", "spark.ssl.rpc.enabled", "spark.io.encryption.enabled")
REPLIES_PER_SLOT = 4  # partitions beyond this many a slot are read together: each sends sums to the driver
# A reply beyond this comes over a socket: in the result of a job it would lie in the driver's JVM several times.
LARGE_REPLY = 16 * 2**20
REPLIES = 2**29  # bytes of all replies to a pass: partitions beyond this are read together as well
_DENSE = 1  # kind of a vector, as VectorUDT stores it
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Design:
    """Columns of the raw design.

    Attributes:
        dense: array of double, as many in each row.
        label: double.
        weight: double; None for 1 in each row.
        codes: array of int, the level of each of the categorical columns or -1; None where there are none.
        levels: number of levels of each categorical column.
    """

    dense: Column
    label: Column
    weight: Column | None = None
    codes: Column | None = None
    levels: tuple[int, ...] = ()


def vector_values(vector: Column) -> Column:
    """An MLlib vector as array of double. Dense ones hand over what they hold, which takes a fifth less time in all."""
    stored = F.unwrap_udt(vector)
    return F.when(stored["type"] == _DENSE, stored["values"]).otherwise(vector_to_array(vector))


class Workers:
    """The passes of one search: a context manager that lets its workers go at the end.

    Args:
        rows: what `worker.loading` reads.
        several: whether there will be more than one pass.
        reply: bytes of the largest reply, as far as it is known.
        connect_seconds: how long workers may take to connect before passes become jobs.
    """

    def __init__(self, rows: DataFrame, limits: Limits, *, several: bool, reply: int, connect_seconds: float) -> None:
        self._rows, self._limits, self._several = rows, limits, several
        self._most = max(1, REPLIES // max(1, reply))
        self._passes: BarrierPasses | JobPasses
        if not several and reply <= LARGE_REPLY:
            self._passes = JobPasses(_few(rows, self._most), limits, persist=False)
            return
        try:
            self._passes = waiting(rows, limits, most=self._most, connect_seconds=connect_seconds)
        except Unavailable as error:
            self._passes = self._jobs(str(error))

    def run(self, kernel: str, request: Mapping[str, Any]) -> list[Reply]:
        """As `Passes.run`."""
        try:
            return self._passes.run(kernel, request)
        except Unavailable as error:
            assert isinstance(self._passes, BarrierPasses)
            self._passes.close()
            self._passes = self._jobs(str(error), self._passes)
            return self._passes.run(kernel, request)

    def close(self) -> None:
        """Let the workers go."""
        self._passes.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _jobs(self, reason: str, before: BarrierPasses | None = None) -> JobPasses:
        if self._several:
            log.warning("Each pass over the data is a Spark job of its own, which is slower, because %s.", reason)
        settings = before.settings if before else ()
        return JobPasses(_few(self._rows, self._most), self._limits, persist=self._several, settings=settings)


def waiting(
    rows: DataFrame,
    limits: Limits,
    *,
    most: int = sys.maxsize,
    connect_seconds: float = CONNECT_SECONDS,
    round_seconds: float = ROUND_SECONDS,
) -> BarrierPasses:
    """Workers that wait between passes, as many as can run at once and no more than `most`; times as of `BarrierPasses`.

    Raises:
        Unavailable: there can be none.
    """
    reason = _obstacle(rows)
    if reason is not None:
        raise Unavailable(reason)
    rows_of_stage = partial(_fitted, rows, most)
    return BarrierPasses(rows_of_stage, limits, connect_seconds=connect_seconds, round_seconds=round_seconds)


def open_passes(
    frame: DataFrame,
    cells: Cells,
    design: Design,
    *,
    several: bool = True,
    reply: int = 0,
    memory: int | None = None,
    connect_seconds: float = CONNECT_SECONDS,
) -> Workers:
    """Workers over the rows of a frame that has the fold columns.

    Args:
        several: whether there will be more than one pass; for one with small replies, rows are neither kept nor moved.
        reply: bytes of the largest reply of a worker, where it may be large.
        memory: bytes of rows that a worker may hold; None for half of what its machine or container has to spare.
        connect_seconds: how long workers may take to connect, once they could run, before each pass becomes a job.

    Raises:
        NoGpu: GPUs are required and cannot be used.
    """
    weight = F.lit(1.0) if design.weight is None else design.weight
    codes = F.array() if design.codes is None else design.codes
    rows = frame.select(
        cells.column.cast("int").alias("cell"),
        design.dense.cast("array<double>").alias("dense"),
        codes.cast("array<int>").alias("codes"),
        design.label.cast("double").alias("label"),
        weight.cast("double").alias("weight"),
    )
    conf = frame.sparkSession.sparkContext.getConf()
    spill = conf.get("spark.io.encryption.enabled", "false") != "true"
    gpu = gpus.take(frame.sparkSession, "arrays", passes=None if several else 1)
    limits = Limits(design.levels, neighbours(frame.sparkSession), spill, memory, gpu)
    return Workers(rows, limits, several=several, reply=reply, connect_seconds=connect_seconds)


def neighbours(spark: SparkSession) -> int:
    """Tasks that may run beside each other in one executor."""
    return max(1, _slots(spark) // _executors(spark))


def _obstacle(rows: DataFrame) -> str | None:
    """Why there can be no barrier stage, known before it is tried."""
    context = _context(rows.sparkSession)
    if rows.sparkSession._jvm.org.apache.spark.util.Utils.isDynamicAllocationEnabled(context.conf()):  # type: ignore[union-attr]
        return "dynamic allocation is on (spark.dynamicAllocation.enabled), under which Spark refuses barrier stages"
    conf = rows.sparkSession.sparkContext.getConf()
    for name in ENCRYPTION:
        if conf.get(name, "false") == "true":
            return f"{name} is on, and the connections of waiting workers are not encrypted"
    if _slots(rows.sparkSession) < 1:
        return "no executor has spark.task.cpus cores free for a task"
    return None


def _fitted(rows: DataFrame, most: int) -> DataFrame:
    """The rows in as many partitions as can run at once, and no more than `most`: as they are where they fit, else dealt out evenly.

    A stage cannot coalesce before a barrier (SPARK-24820), hence the shuffle; ids need no sort as round robin does.
    """
    slots, count = min(most, max(1, _slots(rows.sparkSession))), _partitions(rows)
    if count is not None and count <= slots:
        return rows
    return rows.repartitionById(slots, F.pmod(F.monotonically_increasing_id(), F.lit(slots)).cast("int"))


def _few(rows: DataFrame, most: int) -> DataFrame:
    slots = max(_slots(rows.sparkSession), rows.sparkSession.sparkContext.defaultParallelism)
    return rows.coalesce(min(most, REPLIES_PER_SLOT * slots))


def _partitions(rows: DataFrame) -> int | None:
    """None where Spark would have to shuffle to know."""
    execution = rows._jdf.queryExecution()
    if execution.executedPlan().nodeName() == "AdaptiveSparkPlan" and rows.storageLevel == StorageLevel.NONE:
        return None
    return int(execution.toRdd().getNumPartitions())


def _slots(spark: SparkSession) -> int:
    """Tasks that can run at once, as Spark counts them for barrier stages."""
    context = _context(spark)
    return int(context.maxNumConcurrentTasks(context.resourceProfileManager().defaultResourceProfile()))


def _executors(spark: SparkSession) -> int:
    """In local mode the driver is the only one."""
    return max(1, int(_context(spark).getExecutorMemoryStatus().size()) - 1)


def _context(spark: SparkSession) -> JavaObject:
    return spark.sparkContext._jsc.sc()
