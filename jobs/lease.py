"""One writer per pipeline: a lease file in the lake that a second run finds and respects.

Delta orders commits of one table, but a pipeline writes many tables that belong together. The lease is created with the file
system's own create-if-absent; a run that was killed leaves it behind, and the next run on the same machine takes it over when
that process is gone. From another machine nobody can tell, so the message says what to delete.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from jobs.storage import Storage
from transforms.errors import RefusedError


@contextmanager
def held(spark: SparkSession, lake_root: str, pipeline: str) -> Iterator[None]:
    """Hold the pipeline's lease while the block runs.

    Raises:
        RefusedError: another run holds it.
    """
    storage = Storage(spark)
    path = f"{lake_root}/ops/leases/{pipeline}.json"
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())})
    if not storage.create(path, mine):
        holder = json.loads(storage.read(path) or "{}")
        if not _is_gone(holder):
            raise RefusedError(
                f"{path}: process {holder.get('pid')} on {holder.get('host')} is running pipeline {pipeline}. Expected no other run."
                " Wait for it to end; if that machine or process is gone, delete this file."
            )
        storage.write(path, mine)
    try:
        yield
    finally:
        storage.delete(path)


def _is_gone(holder: dict[str, Any]) -> bool:
    """True when the holder ran on this machine and its process no longer exists (same number, same start)."""
    if not holder:
        return True
    return holder.get("host") == socket.gethostname() and _born(int(holder["pid"])) != holder.get("born")


def _born(pid: int) -> str:
    """Start time of a process in clock ticks, empty when there is none: numbers are reused, start times are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""
