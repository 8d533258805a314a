"""Boosted trees in tasks that hold all rows each: which models a task trains, and in which parts its answers come."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from multiprocessing.pool import ThreadPool
from threading import Event
from typing import Any

from py4j.protocol import Py4JError
from pyspark import inheritable_thread_target
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from models.any_estimator import FIT_ERRORS
from models.boosters import Request
from models.tree_division import Division
from models.tree_task import ANSWER, Training, failed
from models.trials import describe_error

# A part of a share: what a whole search that is killed has lost of each task. Each one reads the rows and bins them anew.
PART_SECONDS = 100.0
# About what a round takes for each value of the rows and each level of its tree (`scripts/bench trees_cv`).
SECONDS_A_VALUE = 1e-9


def answers(
    frame: DataFrame, requests: Sequence[Request], training: Training, division: Division
) -> Iterator[dict[str, Any]]:
    """What tasks answer that hold all rows each, a row of ANSWER for each model; part after part of their share, where that takes long.

    A part whose task dies is an error of its models alone. Tasks that are still at work when nobody asks any more are ended.
    """
    schema, context = from_arrow_schema(ANSWER), frame.sparkSession.sparkContext
    tag, ended = f"trees-{uuid.uuid4().hex}", Event()

    def of_part(part: Sequence[Request]) -> list[dict[str, Any]]:
        if ended.is_set():
            return []
        started = time.monotonic()
        context.addJobTag(tag)
        try:
            rows = frame.coalesce(1).mapInArrow(partial(training.run, requests=part), schema).collect()
        except FIT_ERRORS as error:
            return failed(part, time.monotonic() - started, describe_error(error))
        return [row.asDict() for row in rows]

    # A second task would hold all rows once more, on the same GPU; and each part would move them there anew.
    tasks = 1 if training.gpu else min(division.tasks or 1, len(requests))
    most = math.inf if training.gpu else PART_SECONDS / (SECONDS_A_VALUE * max(division.rows * division.features, 1))
    shares = [parts(share, most) for share in dealt(requests, tasks)]
    in_turn = [part for turn in zip_longest(*shares) for part in turn if part]
    # A job of one task for each part: a union of single partitions would be a single partition again (SPARK-52921).
    with ThreadPool(len(shares)) as pool:
        try:
            for rows in pool.imap_unordered(inheritable_thread_target(frame.sparkSession)(of_part), in_turn):
                yield from rows
        finally:
            ended.set()
            # A session that has ended has no jobs.
            with suppress(Py4JError, AttributeError):
                context.cancelJobsWithTag(tag)


def dealt(requests: Sequence[Request], tasks: int) -> list[list[Request]]:
    """A share for each task, of about equal work. Models that the same matrix serves stay together, for each task makes its own."""
    shares: list[list[Request]] = [[] for _ in range(tasks)]
    whole, before = sum(request.work for request in requests), 0.0
    for request in sorted(requests, key=lambda each: (each.served_by, -each.work)):
        # By the middle of its work among that of all.
        shares[min(int((before + request.work / 2) / whole * tasks), tasks - 1)].append(request)
        before += request.work
    return [share for share in shares if share]


def parts(requests: Sequence[Request], most: float) -> list[list[Request]]:
    """Requests in their order, cut so that each part has not much more work than `most`, or is a single one."""
    cut: list[list[Request]] = []
    work = 0.0
    for request in requests:
        if not cut or work + request.work > most:
            cut.append([])
            work = 0.0
        cut[-1].append(request)
        work += request.work
    return cut
