"""One writer per pipeline: a second run finds the first one's lease and stops; a dead run's lease ends.

Delta orders the commits of one table, but a pipeline writes many tables that belong together, and on an object store Delta
promises nothing for two drivers. The lease is the file `ops/leases/<pipeline>/<number>.json` with the highest number. A number
is taken by creating its file where there is none, so that of several runs that want it exactly one gets it.

The holder writes a sign of life into its file every few seconds. Clocks of two machines are never compared: a run that finds a
lease watches it, and takes the next number once nothing has changed for `Pace.term` of its own seconds. A holder that could not
write for nearly as long, or finds a higher number, has lost its lease and stops before its next commit.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from jobs.storage import Storage
from transforms.errors import RefusedError

# Goes on while a laptop sleeps, where the system has such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """Seconds between two signs of life, and without one until the holder counts as dead."""

    beat: float = 10.0
    term: float = 60.0


class Lease:
    """A number that this process has taken."""

    def __init__(self, storage: Storage, folder: str, number: int, pace: Pace) -> None:
        self.path = _path(folder, number)
        self._storage, self._next, self._pace = storage, _path(folder, number + 1), pace
        self._holder = {
            "machine": _machine(),
            "process": os.getpid(),
            "born": _born(os.getpid()),
            "host": socket.gethostname(),
            "token": uuid.uuid4().hex,
        }
        self._signs, self._last = 0, _now()
        self._ended = threading.Event()

    def take(self) -> bool:
        """Create the file; False when the number is taken."""
        return self._storage.create(self.path, self._text())

    def require(self) -> None:
        """Refuse to go on without the lease.

        Raises:
            RefusedError: another run may hold it by now.
        """
        silent = _now() - self._last
        if silent > self._pace.term - self._pace.beat:
            raise RefusedError(
                f"{self.path}: expected a sign of life of this run every {self._pace.beat:g} s, and none could be written for"
                f" {silent:.0f} s, so that another run may have started. Nothing more is written; run again."
            )
        if self._storage.read(self._next) is not None:
            raise RefusedError(
                f"{self._next}: another run has taken this pipeline over, since this one gave no sign of life for"
                f" {self._pace.term:g} s. Nothing more is written; run again when that one has ended."
            )

    def keep(self) -> None:
        """Give signs of life until `release`, in a thread of its own."""
        while not self._ended.wait(self._pace.beat):
            try:
                self.require()
                began = _now()
                self._signs += 1
                self._storage.write(self.path, self._text())
                self._last = began
            except RefusedError:
                return  # whoever commits next says so
            except Exception as error:  # the store may answer next time; `require` counts the seconds
                log.warning("%s: no sign of life could be written: %s", self.path, error)

    def release(self) -> None:
        self._ended.set()

    def _text(self) -> str:
        return json.dumps({**self._holder, "signs": self._signs})


@contextmanager
def held(spark: SparkSession, lake_root: str, pipeline: str, pace: Pace = Pace()) -> Iterator[Lease]:
    """Hold the pipeline's lease while the block runs.

    Raises:
        RefusedError: another run holds it.
    """
    storage, folder = Storage(spark), f"{lake_root}/ops/leases/{pipeline}"
    lease = _taken(storage, folder, pipeline, pace)
    keeper = threading.Thread(target=lease.keep, name=f"lease of {pipeline}", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        lease.release()
        keeper.join()
        storage.delete(lease.path)


def _taken(storage: Storage, folder: str, pipeline: str, pace: Pace) -> Lease:
    before = max(_numbers(storage, folder), default=0)
    content = storage.read(_path(folder, before)) if before else None
    holder = _holder(content)
    if content is not None and _is_alive(holder, storage, _path(folder, before), content, pace):
        raise RefusedError(
            f"{_path(folder, before)}: process {holder.get('process')} on {holder.get('host')} is running pipeline {pipeline}."
            " Expected no other run. Wait for it to end."
        )
    lease = Lease(storage, folder, before + 1, pace)
    is_mine = lease.take()
    if is_mine and before and storage.read(_path(folder, before)) not in (content, None):
        # The dead holder's number was taken anew while it was watched: that run goes on.
        storage.delete(lease.path)
        is_mine = False
    if not is_mine:
        raise RefusedError(
            f"{lease.path}: another run of pipeline {pipeline} has started just now. Wait for it to end."
        )
    for number in _numbers(storage, folder):
        if number <= before:
            storage.delete(_path(folder, number))
    return lease


def _is_alive(holder: dict[str, Any], storage: Storage, path: str, content: str, pace: Pace) -> bool:
    """Known at once of a process on this machine; else seen from a sign of life within the term."""
    if holder.get("machine") == _machine() != "":
        return bool(_born(int(holder["process"])) == holder["born"])
    log.info("%s: watching for %g s whether its holder is alive", path, pace.term)
    until = _now() + pace.term
    while _now() < until:
        time.sleep(pace.beat / 2)
        found = storage.read(path)
        if found != content:
            return found is not None
    return False


def _holder(content: str | None) -> dict[str, Any]:
    """Nothing is known of one whose file is still being written, or was cut off."""
    try:
        found = json.loads(content or "{}")
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _numbers(storage: Storage, folder: str) -> list[int]:
    names = (name.removesuffix(".json") for name in storage.names(folder))
    return [int(name) for name in names if name.isdigit()]


def _path(folder: str, number: int) -> str:
    return f"{folder}/{number}.json"


def _now() -> float:
    return time.clock_gettime(_CLOCK)


def _machine() -> str:
    """This boot of this machine as seen from this container, empty where the system does not say: names of hosts are not unique."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Start time of a process in clock ticks, empty when there is none: numbers are reused, start times are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""
