"""Passes as jobs: each loads the rows again. For one pass, and where no stage can wait for the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from pyspark.sql import DataFrame
from pyspark.storagelevel import StorageLevel

from models.exact import task
from models.exact.driver.barrier import checked
from models.exact.driver.passes import Reply
from models.exact.worker import wire


class JobPasses:
    """Args:
    rows: the columns that `worker.loading` reads.
    persist: keep them between passes, until `close`.
    settings: requests to kernels `set_...` that others have made before.
    """

    def __init__(
        self,
        rows: DataFrame,
        limits: task.Limits,
        *,
        persist: bool,
        settings: Sequence[tuple[str, Mapping[str, Any]]] = (),
    ) -> None:
        self._persisted = rows.persist(StorageLevel.MEMORY_AND_DISK) if persist else None
        self._rows, self._limits, self._settings = rows, limits, list(settings)

    def run(self, kernel: str, request: Mapping[str, Any]) -> list[Reply]:
        """As `Passes.run`. A kernel `set_...` runs with the next pass, and again with each after it.

        Raises:
            ModelError: a kernel failed, or there are no rows.
        """
        if kernel.startswith("set_"):
            self._settings.append((kernel, request))
            return []
        answer = partial(task.answer, requests=[*self._settings, (kernel, request)], limits=self._limits)
        rows = self._rows.mapInArrow(answer, "worker long, part long, answer binary").collect()
        ordered = sorted(rows, key=lambda row: (row["worker"], row["part"]))
        replies = (b"".join(row["answer"] for row in parts) for _, parts in groupby(ordered, lambda row: row["worker"]))
        return checked(kernel, [wire.unpack(reply) for reply in replies])

    def close(self) -> None:
        """Let the rows go."""
        if self._persisted is not None:
            self._persisted.unpersist()
