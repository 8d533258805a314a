"""Rows of a whole table that a job reads several times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import StorageLevel
from pyspark.sql import DataFrame


@contextmanager
def kept(frame: DataFrame) -> Iterator[DataFrame]:
    """The frame on the executors' disks from its first use to the end of the block.

    Memory would be no faster, since the system keeps in memory what fits of these files. Rows in the heap of an executor crowd out the
    shuffles beside them: with 67 million training rows, executors of 2 GB ran out of it.
    """
    rows = frame.persist(StorageLevel.DISK_ONLY)
    try:
        yield rows
    finally:
        rows.unpersist()
