"""What a task finds of GPUs, and which one is its own. CuPy and XGBoost are imported in the worker: a driver may have no GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pyarrow as pa
from pyspark import TaskContext

FOUND = pa.schema(
    [("gpus", pa.list_(pa.string())), *((stage, pa.string()) for stage in ("arrays", "trees", "estimators"))]
)


def own() -> tuple[int, int]:
    """Number of the GPU of the task that runs, and among how many GPUs tasks beside it are dealt out.

    Spark gives a task its GPU where it keeps books of them (`spark.task.resource.gpu.amount`); else, as in local mode, those of the
    machine are dealt out.
    """
    import cupy

    context = TaskContext.get()
    given = None if context is None else context.resources().get("gpu")
    if given is not None:
        return int(given.addresses[0]), 1
    count = int(cupy.cuda.runtime.getDeviceCount())
    return (0 if context is None else context.partitionId() % count), count


def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """One row: the GPUs by name and memory, and what keeps arrays, boosted trees and estimators off them, empty for nothing."""
    for _ in batches:
        pass
    gpus, arrays = _gpus()
    found = {"gpus": gpus, "arrays": arrays, "trees": arrays or _trees(), "estimators": arrays or _estimators()}
    yield pa.RecordBatch.from_pylist([found], FOUND)


def _gpus() -> tuple[list[str], str]:
    try:
        import cupy
        from array_api_compat import cupy as _  # noqa: F401
    except ImportError as error:
        return [], f"Python of the workers cannot import {error.name or error}: install the extra gpu of millrace there"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return [], f"CUDA finds no GPU on a worker ({error}): run `nvidia-smi` there"
    found = []
    try:
        for number in range(count):
            free, whole = cupy.cuda.Device(number).mem_info
            name = cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()
            found.append(f"{name}, {free / 2**30:.0f} of {whole / 2**30:.0f} GiB free")
        cupy.matmul(cupy.ones((2, 2)), cupy.ones((2, 2))).sum().item()
    except Exception as error:  # whatever CUDA's libraries raise where one of them is missing or too old
        problem = f"CuPy cannot multiply on the GPU of a worker ({type(error).__name__}: {error})"
        cure = "end what else runs on it, and install CUDA's libraries there (pip install 'cupy-cuda13x[ctk]')"
        return found, f"{problem}: {cure}"
    return found, ""


def _trees() -> str:
    import xgboost

    if xgboost.build_info().get("USE_CUDA"):
        return ""
    return "XGBoost of the workers was built without CUDA: replace xgboost-cpu by xgboost there, as `millrace doctor --gpu` says"


def _estimators() -> str:
    missing = [name for name in ("cuml", "spark_rapids_ml") if importlib.util.find_spec(name) is None]
    return (
        f"Python of the workers cannot import {missing[0]}: install the extra rapids-ml of millrace there"
        if missing
        else ""
    )
