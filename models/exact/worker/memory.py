"""How many bytes of rows a worker may hold."""

from __future__ import annotations

import os
import resource
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def budget(neighbours: int) -> int:
    """Half of what this process may still take, shared with the other tasks of its executor.

    Half, because rows are held twice for the moment in which they are put in order, and passes need room for their sums.

    Args:
        neighbours: tasks that run beside each other in one executor, this one included.
    """
    return min(_machine(), _container(), _process()) // 2 // neighbours


def _machine() -> int:
    """Memory of the machine that is free or can be freed."""
    information = Path("/proc/meminfo")
    if not information.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    values = dict(line.split(":") for line in information.read_text().splitlines())
    return int(values["MemAvailable"].split()[0]) * 1024


def _container() -> int:
    """Memory that the container (cgroup v2) leaves; pages of files in it can be freed."""
    limit, usage = CGROUP / "memory.max", CGROUP / "memory.stat"
    if not limit.exists() or limit.read_text().strip() == "max":
        return _machine()
    used = dict(line.split() for line in usage.read_text().splitlines())
    return max(0, int(limit.read_text()) - int(used["anon"]))


def _process() -> int:
    """What `spark.executor.pyspark.memory` leaves: Spark sets it as the limit of the address space."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return _machine()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return max(0, limit - taken)
