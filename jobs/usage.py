"""What a stage of the ledger took of the machines: in figures, in words, and in money."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from pyspark.sql import SparkSession

from jobs.status_store import Executor, StatusStore

_RAN = ("COMPLETE", "FAILED", "ACTIVE")  # neither skipped nor waiting


@dataclass(frozen=True)
class Usage:
    """What the Spark jobs of one stage of the ledger took, as Spark's tasks report it; failed tasks count as far as they did.

    What the driver does by itself, such as reading Delta's log or fitting in Python, has no tasks and is in `core_seconds` alone.

    Attributes:
        spark_stages: Spark stages, attempts counted each, that the sums are over.
        dropped_tasks: tasks that succeeded in Spark stages that Spark no longer had figures of; the sums are then too low.
        tasks: tasks that succeeded, the dropped ones not in it.
        failed_tasks: tries of tasks that failed; Spark has started most of them again.
        task_seconds: time on a wall clock that tasks took, summed.
        cpu_seconds: processor time of the threads of the tasks in Java; that of Python workers is not in it.
        gc_seconds: garbage collection while tasks ran, counted in each of the tasks that ran at the time.
        bytes_read: from storage, compressed as it lies there.
        bytes_written: to storage.
        shuffle_read_bytes: from shuffles, near or far.
        shuffle_written_bytes: to shuffles.
        spilled_bytes: written to disks for want of memory, as they lie there.
        peak_memory_bytes: most execution memory (sorts, joins, aggregates) that one task held, of the Spark stages that held most.
        core_seconds: cores that executors held, times the time on a wall clock that they held them within the stage, idle or not. In
            local mode these are the cores of the master; elsewhere the driver's own are not in it.
        cost: `core_seconds` times the environment's price, in its currency; None without a price. An estimate: memory, disks, network,
            storage, the driver, and what is held between stages or billed by the started hour are not in it.
    """

    spark_stages: int
    dropped_tasks: int
    tasks: int
    failed_tasks: int
    task_seconds: float
    cpu_seconds: float
    gc_seconds: float
    bytes_read: int
    bytes_written: int
    shuffle_read_bytes: int
    shuffle_written_bytes: int
    spilled_bytes: int
    peak_memory_bytes: int
    core_seconds: float
    cost: float | None = None

    def words(self) -> str:
        """`20.1 s of cpu, 0.4 s of gc, 120 MB shuffled, none spilled`."""
        parts = [
            f"{self.cpu_seconds:.1f} s of cpu",
            f"{self.gc_seconds:.1f} s of gc",
            f"{size(self.bytes_read)} read",
            f"{size(self.bytes_written)} written",
            f"{size(self.shuffle_written_bytes)} shuffled",
            f"{size(self.spilled_bytes)} spilled",
        ]
        if self.failed_tasks:
            parts.append(f"{self.failed_tasks} failed task(s)")
        if self.cost is not None:
            parts.append(f"cost {self.cost:.4f}")
        return ", ".join(parts)


class Meter:
    """Measures from its making on: all Spark jobs that start until `read`, in whatever thread."""

    def __init__(self, spark: SparkSession) -> None:
        self._store = StatusStore(spark)
        self._before = self._store.newest_stage()
        self._tasks = _tasks(self._store.executors())
        self._began = time.time()

    def read(self, price_per_core_hour: float | None = None) -> Usage:
        """What was taken so far."""
        ended = time.time()
        ran = [stage for stage in self._store.stages_after(self._before) if stage["status"] in _RAN]

        def total(figure: str) -> int:
            return sum(int(stage[figure]) for stage in ran)

        executors = self._store.executors()
        ended_tasks = sum(count - self._tasks.get(name, 0) for name, count in _tasks(executors).items())
        held = core_seconds(executors, self._began, ended)
        return Usage(
            spark_stages=len(ran),
            # Executors count the tasks of all stages. Spark drops skipped stages first, so that missing numbers say little.
            dropped_tasks=max(0, ended_tasks - total("numCompleteTasks")),
            tasks=total("numCompleteTasks"),
            failed_tasks=total("numFailedTasks"),
            task_seconds=total("executorRunTime") / 1e3,
            cpu_seconds=total("executorCpuTime") / 1e9,
            gc_seconds=total("jvmGcTime") / 1e3,
            bytes_read=total("inputBytes"),
            bytes_written=total("outputBytes"),
            shuffle_read_bytes=total("shuffleReadBytes"),
            shuffle_written_bytes=total("shuffleWriteBytes"),
            spilled_bytes=total("diskBytesSpilled"),
            peak_memory_bytes=self._store.peak_memory(ran),
            core_seconds=held,
            cost=None if price_per_core_hour is None else held / 3600 * price_per_core_hour,
        )


def core_seconds(executors: Iterable[Executor], began: float, ended: float) -> float:
    """Cores times the seconds between two moments that they were held."""
    spans = ((e.cores, max(e.since, began), ended if e.until is None else min(e.until, ended)) for e in executors)
    return sum(cores * max(0.0, until - since) for cores, since, until in spans)


def _tasks(executors: Iterable[Executor]) -> dict[str, int]:
    return {executor.name: executor.tasks for executor in executors}


def size(count: int) -> str:
    """`none`, 999 B, 1.2 kB, 120 MB: three digits at most."""
    if count == 0:
        return "none"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}" if value < 9.95 and units[0] != "B" else f"{value:.0f} {units[0]}"
