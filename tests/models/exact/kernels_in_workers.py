"""Kernels for tests. Worker processes know them once they have unpickled `ARM`, so send it with a request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.exact.worker import kernels
from models.exact.worker.blocks import Blocks


def set_weights(blocks: Blocks, arm: object, factor: float) -> Blocks:
    """Weights times a factor."""
    return replace(blocks, cells=[replace(cell, weight=cell.weight * factor) for cell in blocks.cells])


def sums(blocks: Blocks, arm: object) -> dict[str, Any]:
    """By cell: rows, and the weighted sums of all features, of the codes and of the label."""
    return {
        "by_cell": {
            cell.number: (
                len(cell.label),
                (cell.weight @ cell.dense).tolist(),
                (cell.weight @ cell.codes).tolist(),
                float(cell.weight @ cell.label),
            )
            for cell in blocks.cells
        }
    }


def refuse(blocks: Blocks, arm: object) -> dict[str, Any]:
    """An error of a kernel."""
    raise ZeroDivisionError("seven by nothing")


def die(blocks: Blocks, arm: object, folder: str, times: int, who: str) -> dict[str, Any]:
    """The first worker to come, `times` times, dies in the middle of the pass: by `exit` or SIGKILL, or with its `executor`."""
    for time_ in range(times):
        try:
            (Path(folder) / f"death-{time_}").touch(exist_ok=False)
        except FileExistsError:
            continue
        if who == "exit":
            os._exit(9)
        daemon = os.getppid()
        executor = int(Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(executor if who == "executor" else os.getpid(), signal.SIGKILL)
        time.sleep(30)
    return {"rows": sum(len(cell.label) for cell in blocks.cells)}


def rest(blocks: Blocks, arm: object, seconds: float) -> dict[str, Any]:
    """A slow pass."""
    time.sleep(seconds)
    return {}


def long(blocks: Blocks, arm: object, count: int) -> dict[str, Any]:
    """A reply of many numbers."""
    return {"numbers": np.arange(count, dtype=float), "rows": sum(len(cell.label) for cell in blocks.cells)}


FOR_TESTS: dict[str, Callable[..., Any]] = {
    "set_weights": set_weights,
    "sums": sums,
    "refuse": refuse,
    "die": die,
    "rest": rest,
    "long": long,
}


def arm() -> str:
    """Add the kernels for tests to those of this process."""
    kernels.KERNELS.update(FOR_TESTS)  # type: ignore[attr-defined]
    return "armed"


class _Arm:
    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return arm, ()


ARM = _Arm()
