"""The rows of one worker, and what it answers: replies of kernels, or what went wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.exact.worker import devices
from models.exact.worker.blocks import Blocks
from models.exact.worker.devices import Device, Host
from models.exact.worker.kernels import KERNELS
from models.exact.worker.loading import InputFailed


@dataclass(frozen=True)
class Failure:
    """An error of a worker, as text: its class may be unknown to the driver.

    Attributes:
        kind: name of the error's class.
        trace: the worker's traceback.
    """

    kind: str
    message: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        return cls(type(error).__name__, str(error), "".join(traceback.format_exception(error)))


class Rows:
    """Loaded once. What fails is told to whoever asks, not raised: Spark would start the worker anew for the same error.

    Args:
        device: makes the place where they lie.

    Raises:
        InputFailed: Spark failed to compute the rows; Spark's own error is the better one.
    """

    def __init__(self, load: Callable[[], Blocks], device: Callable[[], Device] = Host) -> None:
        self._blocks: Blocks | Failure
        try:
            self._device = device()
            self._blocks = self._device.moved(load())
        except InputFailed:
            raise
        except Exception as error:
            self._blocks = Failure.of(error)

    def answer(self, kernel: str, request: Mapping[str, Any]) -> dict[str, Any] | Failure:
        """The reply of a kernel; {} from a kernel `set_...`, whose blocks take the place of the old."""
        if isinstance(self._blocks, Failure):
            return self._blocks
        try:
            reply = KERNELS[kernel](self._blocks, **devices.requested(self._device, request))
            if not kernel.startswith("set_"):
                return devices.replied(self._device, reply)
        except Exception as error:
            return Failure.of(error)
        self._blocks = reply
        return {}
