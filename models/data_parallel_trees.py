"""Boosted trees of rows that no single worker has room for: workers that wait hold a part of the rows each, and all train each model together,
by XGBoost's own collective. Its tracker runs here, on the driver; Spark's barrier calls take about a second each and are not used.

The trees are those of one worker but for the places of the cuts, whose quantiles are merged, and for the last digits of sums, which depend on how many
workers there are and in which order their rows arrive; so do the rows that `subsample` draws. A metric of XGBoost
that is no sum over rows, such as the area that tells when to stop, is the mean of the workers' own, as in `xgboost.spark`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from models.boosters import Request
from models.exact.driver import workers
from models.exact.driver.barrier import BarrierPasses, Unavailable
from models.exact.task import Limits
from models.tree_task import ASIDE, CELL, Training, answer, failed
from transforms.errors import ModelError

Array = npt.NDArray[Any]
# A model may train for days; that a worker is gone is noticed much earlier.
MODEL_SECONDS = 7 * 86_400.0


@dataclass(frozen=True)
class Trained:
    """A model and what it says.

    Attributes:
        said, label, weight: of the rows that validate, as `margins.Measure` takes them; empty where there are none.
        half: as `said`, by the first half of the rounds; empty where it was not asked for.
        config, model: of the booster.
    """

    said: Array
    half: Array
    label: Array
    weight: Array
    rounds: int
    config: str
    model: bytes


class Together:
    """Workers that hold the rows and wait.

    Args:
        features: of a row.
        classifies: whether predictions are margins of classes.
    """

    def __init__(self, passes: BarrierPasses, features: int, *, aside: bool, classifies: bool, host: str) -> None:
        self._passes, self._host = passes, host
        self._settings = {"features": features, "aside": aside, "classifies": classifies}

    def train(self, request: Request, trains: Array, validates: Array, *, halves: bool = False) -> Trained:
        """One model.

        Args:
            trains, validates: (C), whether the rows of a cell do.
            halves: whether it also says what its first half of rounds would.

        Raises:
            ModelError: XGBoost refused, or workers died again and again.
        """
        meeting = _Meeting(self._host)
        fixed = {**self._settings, "request": request, "trains": trains, "validates": validates, "halves": halves}
        try:
            replies = self._passes.run_together("boost", lambda count: {**fixed, "group": meeting.of(count)})
        finally:
            meeting.end()
        label, weight = (np.concatenate([reply[name] for reply in replies]) for name in ("label", "weight"))
        first = next(reply for reply in replies if "model" in reply)

        def whole(name: str) -> Array:
            parts = [reply[name] for reply in replies if reply[name] is not None]
            return np.concatenate(parts) if parts else np.empty(0)

        return Trained(whole("said"), whole("half"), label, weight, first["rounds"], first["config"], first["model"])


@contextmanager
def together(rows: DataFrame, features: int, *, classifies: bool) -> Iterator[Together]:
    """Workers over rows of `trees.inputs` with a column CELL, let go at the end.

    Raises:
        Unavailable: there can be none.
    """
    spark = rows.sparkSession
    aside = ASIDE in rows.columns
    loaded = rows.select(
        (F.col(CELL) * 2 + F.col(ASIDE).cast("int") if aside else F.col(CELL) * 2).cast("int").alias("cell"),
        F.col("values").cast("array<double>").alias("dense"),
        F.array().cast("array<int>").alias("codes"),
        F.col("label").cast("double").alias("label"),
        (F.col("weight") if "weight" in rows.columns else F.lit(1.0)).cast("double").alias("weight"),
    )
    limits = Limits(neighbours=workers.neighbours(spark), missing=True)
    passes = workers.waiting(loaded, limits, round_seconds=MODEL_SECONDS)
    host = spark.sparkContext.getConf().get("spark.driver.host") or "localhost"
    try:
        # Whoever cannot load its rows says so now: in a model the others would wait for it.
        passes.run("count", {})
        yield Together(passes, features, aside=aside, classifies=classifies, host=host)
    finally:
        passes.close()


def answers(
    rows: DataFrame, features: int, requests: Sequence[Request], training: Training
) -> Iterator[dict[str, Any]]:
    """What tasks with all rows would answer, a row of `tree_task.ANSWER` for each model; those that the same matrix serves come one after the other.

    Raises:
        Unavailable: there are no workers that wait.
    """
    with ExitStack() as stack:
        try:
            trees = stack.enter_context(together(rows, features, classifies=training.classifies))
        except ModelError as error:
            yield from failed(requests, 0.0, str(error))
            return
        for request in sorted(requests, key=lambda request: request.served_by):
            started = time.monotonic()
            found: dict[str, Any] = {}
            try:
                cells = training.trains[request.fold], training.validates[request.fold]
                made = trees.train(request, *cells, halves=training.halves)
                found["rounds"] = made.rounds
                found["value"] = training.measure.value(made.said, made.label, made.weight)
                if training.halves:
                    found["half"] = training.measure.value(made.half, made.label, made.weight)
                if training.keep:
                    found |= {"config": made.config, "model": made.model}
            except ModelError as error:
                found["error"] = str(error)
            yield answer(request, time.monotonic() - started, **found)


class _Meeting:
    """XGBoost's tracker of one model's workers; another takes its place when workers died and others come."""

    def __init__(self, host: str) -> None:
        # XGBoost takes addresses only.
        self._address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
        self._tracker: Any = None

    def of(self, count: int) -> Mapping[str, Any]:
        """What `count` workers need to know to meet."""
        from xgboost.tracker import RabitTracker

        self.end()
        try:
            self._tracker = RabitTracker(n_workers=count, host_ip=str(self._address), sortby="task")
            self._tracker.start()
        except ValueError as error:
            reason = str(error).strip().partition("\n")[0]
            raise Unavailable(f"XGBoost's tracker cannot listen on {self._address} ({reason})") from error
        found: Mapping[str, Any] = self._tracker.worker_args()
        return found

    def end(self) -> None:
        """Let the tracker go, whether or not its workers have parted."""
        if self._tracker is None:
            return
        # It complains of the workers that it has waited for in vain.
        with suppress(ValueError):
            self._tracker.free()
        self._tracker = None
