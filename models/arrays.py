"""Which library an array belongs to: kernels do their arithmetic through it and so run on NumPy, CuPy and others alike."""

from __future__ import annotations

from typing import Any

from transforms.errors import ModelError


def namespace(*arrays: Any) -> Any:
    """The functions of the arrays' library, as the Python array API standard (2024.12) names them.

    Arguments without a library of their own, plain numbers and None, are passed over.

    Raises:
        ModelError: no argument is an array of the standard, or they belong to different libraries.
    """
    found = {id(own): own for own in (_own(array) for array in arrays) if own is not None}
    if len(found) == 1:
        return next(iter(found.values()))
    kinds = ", ".join(sorted({f"{type(array).__module__}.{type(array).__name__}" for array in arrays})) or "nothing"
    if not found:
        raise ModelError(
            f"models.arrays.namespace: expected arrays of the Python array API standard, found {kinds}. Install NumPy 2.3 or newer."
        )
    raise ModelError(
        f"models.arrays.namespace: expected arrays of one library, found {kinds}. Move all of them to the same one first."
    )


def on_gpu(array: Any) -> bool:
    """Whether an array lies on a GPU: kernels take more rows at a time there."""
    return type(array).__module__.partition(".")[0] == "cupy"


def _own(array: Any) -> Any:
    if on_gpu(array):
        # CuPy's arrays do not name their library, and its functions differ from the standard's in places.
        from array_api_compat import cupy

        return cupy
    lookup = getattr(array, "__array_namespace__", None)
    return None if lookup is None else lookup()
