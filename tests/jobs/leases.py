"""A run of another machine that holds a pipeline's lease, for tests of those that find it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from jobs.lease import Lease, Pace
from jobs.storage import Storage


@contextmanager
def kept_elsewhere(spark: SparkSession, lake_root: str, pace: Pace) -> Iterator[None]:
    """The first lease of the pipeline `shop`, whose holder gives signs of life while the block runs."""
    theirs = Lease(Storage(spark), f"{lake_root}/ops/leases/shop", 1, pace)
    theirs._holder.update({"machine": "another", "host": "elsewhere", "process": 17})
    assert theirs.take()
    keeper = threading.Thread(target=theirs.keep)
    keeper.start()
    try:
        yield
    finally:
        theirs.release()
        keeper.join()
