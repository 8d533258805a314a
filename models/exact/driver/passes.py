"""A pass: one kernel, run by every worker on its own rows, and the replies added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from models.exact.worker.blocks import Blocks
from models.exact.worker.kernels import KERNELS

Reply = dict[str, Any]


class Passes(Protocol):
    """The workers of one search. A context manager where workers wait between passes; `close` lets them go."""

    def run(self, kernel: str, request: Mapping[str, Any]) -> list[Reply]:
        """Run `KERNELS[kernel](blocks, **request)` in every worker; the replies in the order of workers.

        Requests and replies hold arrays and plain values. A kernel may change its worker's blocks (to centre them, say): a
        kernel whose name begins with `set_` returns new blocks instead of a reply.
        """
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


class InProcess:
    """Workers that are objects of this process: for tests, and for what is too small to ask Spark."""

    def __init__(self, blocks: Sequence[Blocks]) -> None:
        self._blocks = list(blocks)

    def run(self, kernel: str, request: Mapping[str, Any]) -> list[Reply]:
        replies = [KERNELS[kernel](blocks, **request) for blocks in self._blocks]
        if kernel.startswith("set_"):
            self._blocks = replies
            return [{} for _ in replies]
        return replies

    def close(self) -> None:
        self._blocks = []
