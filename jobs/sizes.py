"""Sizes that follow from the bytes that a stage reads: shuffle partitions, which it sets, and memory for Python, which it can but tell."""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import SparkSession

SHUFFLE = "spark.sql.shuffle.partitions"
PARTITION = 128 * 2**20  # bytes of rows in one task, as Spark reads of files at once
MOST = 10_000  # more cost the driver more than they save the executors
PACKED = 4  # bytes of rows for each byte of Parquet, about
INTERPRETER = 512 * 2**20  # Python with its libraries, and a batch of rows
MIB, GIB = 2**20, 2**30


def partitions(read: int, slots: int) -> int:
    """How many partitions a shuffle of so many bytes of rows has: `PARTITION` bytes in each, at least one for each slot, at most `MOST`.

    Adaptive execution joins those that turn out small; it cannot cut those that turn out large.
    """
    return min(MOST, max(slots, -(-read // PARTITION)))


def python_memory(read: int, slots: int, *, holds_rows: bool) -> int:
    """Bytes that the Python worker of one slot takes.

    Args:
        read: bytes of rows that the stage reads.
        slots: tasks that run at once, over all executors.
        holds_rows: it keeps its share of the rows, twice while they are put in order; else it lets each batch go.
    """
    return INTERPRETER + (2 * read // max(1, slots) if holds_rows else 0)


def fit(spark: SparkSession, bytes_of_rows: Callable[[], int], *, holds_rows: bool) -> str | None:
    """Set the session's shuffle partitions for a stage that reads so many bytes of rows, asked for only where they count.

    Returns:
        What was set, and what Python wants, in words. None where the environment or spark-submit names a number, as local mode
        does: then nothing is set.
    """
    context = spark.sparkContext
    if context.getConf().contains(SHUFFLE):
        return None
    read, slots = bytes_of_rows(), context.defaultParallelism
    count = partitions(read, slots)
    spark.conf.set(SHUFFLE, count)
    memory = python_memory(read, slots, holds_rows=holds_rows)
    return (
        f"about {_words(read)} of rows for {slots} slots: {count} shuffle partitions ({SHUFFLE} overrides);"
        f" Python takes about {_words(memory)} a slot: times the cores of an executor, what"
        " spark.executor.memoryOverhead needs"
    )


def _words(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{-(-size // MIB)} MiB"
