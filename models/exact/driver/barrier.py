"""Passes over workers that wait: one barrier stage loads the rows once and answers over sockets until it is let go.

When a worker dies, Spark starts all tasks of the stage anew; they load again, connect again, and are brought to where the others were.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

from pyspark import inheritable_thread_target
from pyspark.sql import DataFrame

from models.exact import task
from models.exact.driver.passes import Reply
from models.exact.driver.rendezvous import ROUND_SECONDS, Lost, Missing, Rendezvous
from models.exact.worker.answers import Failure
from transforms.errors import ModelError

PORT = "spark.millrace.port"
CONNECT_SECONDS = 15.0
ATTEMPTS = 4  # Spark's own number of attempts at a stage
_END_SECONDS = 5.0
log = logging.getLogger(__name__)


class Unavailable(Exception):
    """There are no workers that wait; the message says why."""


class BarrierPasses:
    """Args:
        rows: the columns that `worker.loading` reads, in no more partitions than there are slots.
        connect_seconds: how long to wait for the workers once their stage could run.
        round_seconds: how long to wait for the answers to a pass.

    Attributes:
        settings: requests to kernels `set_...` so far; whoever takes over repeats them.

    Raises:
        Unavailable: the workers did not come: no port, no slots, no way through.
    """

    def __init__(
        self,
        rows: DataFrame,
        limits: task.Limits,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        round_seconds: float = ROUND_SECONDS,
    ) -> None:
        self.settings: list[tuple[str, Mapping[str, Any]]] = []
        self._context = rows.sparkSession.sparkContext
        self._connect_seconds, self._round_seconds = connect_seconds, round_seconds
        self._tag = f"millrace-{uuid.uuid4().hex}"
        self._ready = False
        self._error: Exception | None = None
        conf = self._context.getConf()
        host = conf.get("spark.driver.host") or "localhost"
        bind, port = conf.get("spark.driver.bindAddress") or host, conf.get(PORT, "0") or "0"
        try:
            self._rendezvous = Rendezvous(bind, host, int(port))
        except OSError as error:
            raise Unavailable(f"the driver cannot listen on {bind}:{port} ({error.strerror or error})") from error
        serve = partial(task.serve, address=self._rendezvous.address, limits=limits)
        stage = rows.mapInArrow(serve, "nothing boolean", barrier=True)
        self._thread = threading.Thread(
            target=inheritable_thread_target(rows.sparkSession)(partial(self._work, stage)), name=self._tag, daemon=True
        )
        self._thread.start()
        try:
            self._gather()
        except BaseException:
            self.close()
            raise

    def run(self, kernel: str, request: Mapping[str, Any]) -> list[Reply]:
        """As `Passes.run`.

        Raises:
            ModelError: a kernel failed, or workers died again and again.
            Unavailable: workers died and not all came back.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._catch_up()
                replies = checked(kernel, self._rendezvous.exchange((kernel, request), self._round_seconds))
            except Lost as error:
                self._ready = False
                log.warning(
                    "Attempt %d of pass '%s' failed: %s. Spark starts the workers anew.", attempt, kernel, error
                )
                lost = error
                continue
            if kernel.startswith("set_"):
                self.settings.append((kernel, request))
            return replies
        raise _died(f"{ATTEMPTS} attempts of pass '{kernel}' failed: {lost}") from lost

    def close(self) -> None:
        """Let the workers go; those that are busy are cancelled. The caller's other jobs go on."""
        if self._thread.is_alive():
            self._rendezvous.dismiss()
            self._thread.join(_END_SECONDS if self._ready else 0.0)
        self._rendezvous.close()
        if self._thread.is_alive() and self._context._jsc is not None:
            self._context.cancelJobsWithTag(self._tag)
            self._thread.join(_END_SECONDS)
        self._ready = False

    def _work(self, stage: DataFrame) -> None:
        """The thread of the stage."""
        self._context.addJobTag(self._tag)
        try:
            stage.collect()
        except Exception as error:
            self._error = error

    def _catch_up(self) -> None:
        if self._ready:
            return
        try:
            self._gather()
        except Unavailable:
            if self._error is not None:
                raise _died(f"Spark gave up: {_first_line(self._error)}") from self._error
            raise
        for kernel, request in self.settings:
            checked(kernel, self._rendezvous.exchange((kernel, request), self._round_seconds))

    def _gather(self) -> None:
        started = time.monotonic()
        try:
            self._rendezvous.gather(self._connect_seconds, self._coming)
        except Missing as error:
            raise Unavailable(str(error)) from error
        self._ready = True
        log.debug("Workers connected after %.2f s.", time.monotonic() - started)

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


def _died(why: str) -> ModelError:
    return ModelError(
        f"The workers of the search died: {why}. A killed worker most often lacks memory: give Python more"
        " (spark.executor.memoryOverhead, spark.executor.pyspark.memory), or use more executors."
    )


def _first_line(error: Exception) -> str:
    java = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    return str(java.getMessage() if java is not None else error).strip().splitlines()[0][:300]
