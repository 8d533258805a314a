"""Passes over workers that wait: one barrier stage loads the rows once and answers over sockets until it is let go.

When a worker dies, Spark gives up the stage: it retries no barrier stage that ends a job. Another takes its place, loads the rows
again, and is brought to where the first was.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pyspark import inheritable_thread_target
from pyspark.sql import DataFrame

from models.exact import task
from models.exact.driver.passes import Reply
from models.exact.driver.rendezvous import ROUND_SECONDS, Lost, Missing, Rendezvous
from models.exact.worker.answers import Failure
from models.exact.worker.loading import InputFailed
from transforms.errors import ModelError

PORT = "spark.millrace.port"
CONNECT_SECONDS = 15.0
ATTEMPTS = 3
_END_SECONDS = 5.0
log = logging.getLogger(__name__)


class Unavailable(Exception):
    """There are no workers that wait; the message says why."""


class BarrierPasses:
    """Args:
        rows: gives the columns that `worker.loading` reads, in no more partitions than there are slots at that moment.
        connect_seconds: how long to wait for the workers once their stage could run.
        round_seconds: how long to wait for the answers to a pass.

    Attributes:
        settings: requests to kernels `set_...` so far; whoever takes over repeats them.

    Raises:
        Unavailable: the workers did not come: no port, no slots, no way through.
    """

    def __init__(
        self,
        rows: Callable[[], DataFrame],
        limits: task.Limits,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        round_seconds: float = ROUND_SECONDS,
    ) -> None:
        self.settings: list[tuple[str, Mapping[str, Any]]] = []
        self._rows, self._limits = rows, limits
        self._connect_seconds, self._round_seconds = connect_seconds, round_seconds
        self._stage: _Stage | None = self._start()

    def run(self, kernel: str, request: Mapping[str, Any]) -> list[Reply]:
        """As `Passes.run`.

        Raises:
            ModelError: a kernel failed, or workers died again and again.
            Unavailable: workers died and did not come back, or Spark failed to compute their rows.
        """
        return self.run_together(kernel, lambda _: request)

    def run_together(self, kernel: str, request: Callable[[int], Mapping[str, Any]]) -> list[Reply]:
        """As `run`, of a request that is made for each attempt, for so many workers: what they do together they begin together."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self._stage is None:
                    self._stage = self._start()
                    for setting in self.settings:
                        self._ask(self._stage, *setting)
                asked = request(self._stage.rendezvous.count)
                replies = self._ask(self._stage, kernel, asked)
            except Lost as error:
                log.warning("Attempt %d of pass '%s' failed: %s.", attempt, kernel, error)
                self.close()
                lost = error
                continue
            if kernel.startswith("set_"):
                self.settings.append((kernel, asked))
            return replies
        raise ModelError(
            f"Workers died in each of {ATTEMPTS} attempts of pass '{kernel}': {lost}. A killed worker most often lacks memory: give"
            " Python more (spark.executor.memoryOverhead, spark.executor.pyspark.memory), or use more executors."
        ) from lost

    def close(self) -> None:
        """Let the workers go; those that are busy are cancelled. The caller's other jobs go on."""
        if self._stage is not None:
            self._stage.close()
            self._stage = None

    def _start(self) -> _Stage:
        return _Stage(self._rows(), self._limits, self._connect_seconds)

    def _ask(self, stage: _Stage, kernel: str, request: Mapping[str, Any]) -> list[Reply]:
        replies = stage.rendezvous.exchange((kernel, request), self._round_seconds)
        for reply in replies:
            if isinstance(reply, Failure) and reply.kind == InputFailed.__name__:
                raise Unavailable(f"Spark failed to compute the rows ({reply.message})")
        return checked(kernel, replies)


class _Stage:
    """One barrier stage, whose job runs in a thread of its own, and the meeting with its workers."""

    def __init__(self, rows: DataFrame, limits: task.Limits, connect_seconds: float) -> None:
        self._context = rows.sparkSession.sparkContext
        self._tag = f"millrace-{uuid.uuid4().hex}"
        self._error: Exception | None = None
        conf = self._context.getConf()
        host = conf.get("spark.driver.host") or "localhost"
        bind, port = conf.get("spark.driver.bindAddress") or host, conf.get(PORT, "0") or "0"
        try:
            self.rendezvous = Rendezvous(bind, host, int(port))
        except OSError as error:
            raise Unavailable(f"the driver cannot listen on {bind}:{port} ({error.strerror or error})") from error
        serve = partial(task.serve, address=self.rendezvous.address, limits=limits)
        job = partial(self._run, rows.mapInArrow(serve, "nothing boolean", barrier=True))
        self._thread = threading.Thread(
            target=inheritable_thread_target(rows.sparkSession)(job), name=self._tag, daemon=True
        )
        self._thread.start()
        try:
            self.rendezvous.gather(connect_seconds, self._coming)
        except BaseException as error:
            self.close()
            if isinstance(error, Missing):
                raise Unavailable(str(error)) from error
            raise

    def close(self) -> None:
        """Tell the workers to stop. Who is busy, or not yet there, is cancelled."""
        idle = self.rendezvous.dismiss()
        self.rendezvous.close()
        self._thread.join(_END_SECONDS if idle else 0.0)
        if self._thread.is_alive() and self._context._jsc is not None:
            self._context.cancelJobsWithTag(self._tag)
            self._thread.join(_END_SECONDS)

    def _run(self, stage: DataFrame) -> None:
        self._context.addJobTag(self._tag)
        try:
            stage.collect()
        except Exception as error:  # Spark's log has it; that the workers are gone is what matters here
            self._error = error

    def _coming(self) -> bool:
        """Whether Spark is at what comes before the workers: a task of ours runs, and none has failed."""
        if not self._thread.is_alive():
            raise Unavailable(f"their stage ended ({_first_line(self._error) if self._error else 'no partitions'})")
        tracker = self._context._jsc.sc().statusTracker()
        stages = [
            stage.get()
            for job in tracker.getJobIdsForTag(self._tag)
            for number in tracker.getJobInfo(job).get().stageIds()
            if (stage := tracker.getStageInfo(number)).isDefined()
        ]
        return any(s.numActiveTasks() for s in stages) and not any(s.numFailedTasks() for s in stages)


def checked(kernel: str, replies: list[Reply | Failure]) -> list[Reply]:
    """The replies, or the first failure among them as an error.

    Raises:
        ModelError: with the worker's own sentence where it raised one, else with the error's class and message.
    """
    good: list[Reply] = []
    for number, reply in enumerate(replies):
        if not isinstance(reply, Failure):
            good.append(reply)
            continue
        log.debug("Worker %d: %s", number, reply.trace)
        if reply.kind == ModelError.__name__:
            raise ModelError(reply.message)
        raise ModelError(f"Pass '{kernel}' failed in worker {number}: {reply.kind}: {reply.message}")
    if not good:
        raise ModelError(f"Pass '{kernel}' has no rows: the data has no partitions. Check what filters it.")
    return good


def _first_line(error: Exception) -> str:
    java = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    return str(java.getMessage() if java is not None else error).strip().splitlines()[0][:300]
