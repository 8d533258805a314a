"""What Spark runs in its tasks: it asks Spark which task this is, and hands over to `worker/`, which knows no Spark."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import BarrierTaskContext, TaskContext
from threadpoolctl import threadpool_limits

from models import gpu_task
from models.exact.worker import devices, memory, peer, wire
from models.exact.worker.answers import Rows
from models.exact.worker.blocks import Blocks
from models.exact.worker.devices import Device, Gpu, Host
from models.exact.worker.loading import load

PART = 4 * 2**20  # bytes of a row: Spark copies rows, and holds a copy twice as long while it grows
Requests = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Limits:
    """What the tasks of one search need to know besides their rows.

    Attributes:
        levels: as in `Blocks`.
        neighbours: tasks that run beside each other in one executor.
        spill: whether rows beyond the memory may lie in files of `spark.local.dir`.
        memory: bytes of rows that a task may hold; None to find out on the executor.
        gpu: whether the rows lie on a GPU.
        missing: whether values of `dense` may be missing.
    """

    levels: tuple[int, ...] = ()
    neighbours: int = 1
    spill: bool = True
    memory: int | None = None
    gpu: bool = False
    missing: bool = False


def serve(batches: Iterator[pa.RecordBatch], *, address: peer.Address, limits: Limits) -> Iterator[pa.RecordBatch]:
    """A task of a barrier stage: answers requests of the driver. Yields nothing."""
    context = BarrierTaskContext.get()
    worker = peer.Worker(context.partitionId(), len(context.getTaskInfos()))
    with threadpool_limits(context.cpus()), devices.let_go(limits.gpu):
        peer.serve(address, worker, lambda: _load(batches, worker.number, limits), device=lambda: _device(limits))
    yield from ()


def answer(batches: Iterator[pa.RecordBatch], *, requests: Requests, limits: Limits) -> Iterator[pa.RecordBatch]:
    """A task of a job of one pass: yields its number and the packed answer to the last request, after those before it, in parts."""
    context = TaskContext.get()
    assert context is not None
    number = context.partitionId()
    with threadpool_limits(context.cpus()), devices.let_go(limits.gpu):
        rows = Rows(lambda: _load(batches, number, limits), lambda: _device(limits))
        *_, last = (rows.answer(kernel, request) for kernel, request in requests)
        del rows
    reply = b"".join(wire.pack(last))
    for part, start in enumerate(range(0, len(reply), PART)):
        yield _row(number, part, reply[start : start + PART])


def _row(number: int, part: int, reply: bytes) -> pa.RecordBatch:
    """One row, from buffers: pyarrow's constructors would import pandas, for which a new worker takes a second."""
    offsets = np.array([0, len(reply)], dtype=np.int32)
    columns = [
        *(pa.Array.from_buffers(pa.int64(), 1, [None, pa.py_buffer(np.array([at]))]) for at in (number, part)),
        pa.Array.from_buffers(pa.binary(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(reply)]),
    ]
    return pa.RecordBatch.from_arrays(columns, ["worker", "part", "answer"])


def _device(limits: Limits) -> Device:
    if not limits.gpu:
        return Host()
    number, count = gpu_task.own()
    return Gpu(number, -(-limits.neighbours // count))


def _load(batches: Iterator[pa.RecordBatch], number: int, limits: Limits) -> Blocks:
    folders = os.environ.get("SPARK_LOCAL_DIRS", tempfile.gettempdir()).split(",")
    budget = memory.budget(limits.neighbours) if limits.memory is None else limits.memory
    folder = folders[number % len(folders)]
    blocks = load(batches, limits.levels, budget if limits.spill else None, folder, missing=limits.missing)
    return replace(blocks, worker=number)
