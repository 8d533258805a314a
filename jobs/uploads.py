"""Uploads to an object store that were begun and never finished: no listing shows them, and their parts are paid for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pyspark.sql import SparkSession

# No file of a lake takes as long; another pipeline of the same lake may be at work.
STALE_SECONDS = 24 * 3600


def abort_stale(spark: SparkSession, root: str) -> int:
    """Abort the stale uploads below a lake's root; returns their number, 0 where the lake is on no S3A store."""
    aborted = 0
    for system, upload in _stale(spark, root):
        system.abortMultipartUpload(upload)
        aborted += 1
    return aborted


def stale(spark: SparkSession, root: str) -> int:
    """How many `abort_stale` would abort."""
    return sum(1 for _ in _stale(spark, root))


def _stale(spark: SparkSession, root: str) -> Iterator[tuple[Any, Any]]:
    assert spark._jvm is not None and spark._jsc is not None
    path = spark._jvm.org.apache.hadoop.fs.Path(root)
    system: Any = path.getFileSystem(spark._jsc.hadoopConfiguration())
    if str(system.getUri().getScheme()) != "s3a":
        return
    prefix = str(path.toUri().getPath()).strip("/")
    uploads = system.listUploads(f"{prefix}/" if prefix else None)
    begun_before = (time.time() - STALE_SECONDS) * 1000
    while uploads.hasNext():
        upload = uploads.next()
        if upload.initiated().toEpochMilli() < begun_before:
            yield system, upload
