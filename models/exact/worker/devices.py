"""Where the arrays of a worker lie: in the memory of its machine, or on a GPU, to which its rows are moved once.

CuPy is imported when a worker moves to a GPU: a driver may have none, and most machines have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from models.exact.worker.blocks import Array, Blocks, Cell
from models.exact.worker.loading import TYPES
from transforms.errors import ModelError

# Rows travel through memory that the driver of the GPU may read at any time (page-locked), this much at a time.
CHUNK_BYTES = 64 * 2**20
# Of a GPU's free memory, what rows may take: passes need room for their tiles and sums.
FOR_ROWS = 0.7


class Device(Protocol):
    """A place for arrays."""

    def moved(self, blocks: Blocks) -> Blocks:
        """The rows there."""
        ...

    def there(self, array: Array) -> Array:
        """A small array of a request, there."""
        ...

    def back(self, array: Array) -> Array:
        """An array of a reply as NumPy's."""
        ...


class Host:
    """The memory of the machine: nothing is moved."""

    def moved(self, blocks: Blocks) -> Blocks:
        """The same."""
        return blocks

    def there(self, array: Array) -> Array:
        """The same."""
        return array

    def back(self, array: Array) -> Array:
        """The same."""
        return array


class Gpu:
    """One GPU, which other workers may share.

    Args:
        number: as CUDA counts the GPUs that this process may use.
        neighbours: workers that share it, this one included.
    """

    def __init__(self, number: int, neighbours: int = 1) -> None:
        import cupy

        self._cupy, self._number, self._neighbours = cupy, number, neighbours
        cupy.cuda.Device(number).use()

    def moved(self, blocks: Blocks) -> Blocks:
        """The rows on the GPU.

        Raises:
            ModelError: they are too many for its memory.
        """
        self.require_room(sum(array.nbytes for cell in blocks.cells for array in _arrays(cell).values()))
        cells = [
            replace(cell, **{name: self._sent(array) for name, array in _arrays(cell).items()}) for cell in blocks.cells
        ]
        return replace(blocks, cells=cells)

    def require_room(self, wanted: int) -> None:
        """Make sure that so many bytes of rows fit, with room for what is made of them.

        Raises:
            ModelError: they do not.
        """
        free, whole = self._cupy.cuda.Device(self._number).mem_info
        if wanted > FOR_ROWS * whole / self._neighbours or wanted > free:
            raise ModelError(
                f"GPU {self._number} has {free >> 20} MiB free of {whole >> 20}, shared by {self._neighbours} worker(s) of this search:"
                f" expected room for {wanted >> 20} MiB of rows and for sums over them. Use more GPUs, end what else runs on this one,"
                " or set gpu to never."
            )

    def there(self, array: Array) -> Array:
        """On the GPU."""
        return self._cupy.asarray(array)

    def back(self, array: Array) -> Array:
        """As NumPy's."""
        return self._cupy.asnumpy(array)

    def _sent(self, array: Array) -> Array:
        import cupyx

        target = self._cupy.empty(array.shape, array.dtype)
        step = max(1, CHUNK_BYTES // max(1, array.nbytes // max(1, len(array))))
        locked = cupyx.empty_pinned((min(step, len(array)), *array.shape[1:]), array.dtype)
        for start in range(0, len(array), step):
            part = array[start : start + step]
            locked[: len(part)] = part
            target[start : start + step].set(locked[: len(part)])
            self._cupy.cuda.get_current_stream().synchronize()  # the locked memory is used again
        return target


@contextmanager
def let_go(gpu: bool) -> Iterator[None]:
    """At the end, give back what arrays of this process had of a GPU: CuPy keeps it for the next, and Spark keeps the process."""
    try:
        yield
    finally:
        if gpu:
            import cupy

            cupy.get_default_memory_pool().free_all_blocks()
            cupy.get_default_pinned_memory_pool().free_all_blocks()


def requested(device: Device, request: Mapping[str, Any]) -> dict[str, Any]:
    """A request whose arrays lie on the device."""
    return {name: device.there(value) if isinstance(value, np.ndarray) else value for name, value in request.items()}


def replied(device: Device, reply: Mapping[str, Any]) -> dict[str, Any]:
    """A reply whose arrays are NumPy's."""
    return {name: device.back(value) if hasattr(value, "dtype") else value for name, value in reply.items()}


def _arrays(cell: Cell) -> dict[str, Array]:
    return {name: getattr(cell, name) for name in TYPES}
