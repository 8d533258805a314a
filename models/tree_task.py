"""Boosted trees of many folds and grid points, over rows that one task holds.

The rows that a fold trains on are binned once for all its models that agree on the bins: each model is the one that XGBoost makes of these rows alone.
XGBoost uses one thread a model, so that sums do not depend on the number of cores.

Models that stop early are judged after each round on training rows that are set aside, which are a second matrix with the cuts of the first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models import boosters, gpu_task
from models.boosters import Request
from models.exact.worker import devices
from models.exact.worker.devices import Gpu
from models.margins import Measure
from transforms.errors import ModelError

Array = npt.NDArray[Any]
# `ASIDE` marks rows that tell when to stop, by the name that `xgboost.spark` gives the column.
ORDINAL, CELL, ASIDE = "ordinal", "cell", "validationIndicator"
# What XGBoost raises of rows or parameters (its own error is a ValueError), and we of rows that are too many or have no weight.
REFUSALS = (ValueError, TypeError)
# So many values are copied at once to be binned.
PART = 2**23
# `half` is the value by the first half of the rounds.
ANSWER = pa.schema(
    [
        ("number", pa.int32()),
        ("value", pa.float64()),
        ("half", pa.float64()),
        ("seconds", pa.float64()),
        ("rounds", pa.int32()),
        ("error", pa.string()),
        ("config", pa.string()),
        ("model", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Training:
    """What a task needs to know besides its rows.

    Attributes:
        trains, validates: (K, C), whether a fold trains or validates on the rows of a cell.
        classifies: whether predictions are margins of classes.
        keep: whether models come back, and not their values alone.
        halves: whether their first half of rounds is judged, too.
        gpu: whether they are trained on a GPU, one after the other.
    """

    trains: Array
    validates: Array
    measure: Measure
    classifies: bool
    keep: bool
    halves: bool = False
    gpu: bool = False

    def run(self, batches: Iterable[pa.RecordBatch], requests: Sequence[Request]) -> Iterator[pa.RecordBatch]:
        """Train and judge; one row of ANSWER a model."""
        with devices.let_go(self.gpu):
            yield from self._run(batches, requests)

    def _run(self, batches: Iterable[pa.RecordBatch], requests: Sequence[Request]) -> Iterator[pa.RecordBatch]:
        rows = columns(batches)
        cell = rows.pop(CELL)
        if self.gpu:
            try:
                device = moved(rows)
            except ModelError as error:
                yield pa.RecordBatch.from_pylist(failed(requests, 0.0, first_line(error)), ANSWER)
                return
            requests = [replace(each, booster={**each.booster, **device}) for each in requests]
        for (_, fold), alike in groupby(
            sorted(requests, key=lambda each: each.served_by), key=lambda each: each.served_by
        ):
            yield from self._of_fold(rows, cell, fold, list(alike))

    def _of_fold(
        self, rows: Mapping[str, Any], cell: Array, fold: int, requests: Sequence[Request]
    ) -> Iterator[pa.RecordBatch]:
        """Models that the same matrix serves, which is let go before the next one is made."""
        started = time.monotonic()
        try:
            matrices = Matrices.of(rows, requests[0], self.trains[fold][cell])
        except REFUSALS as error:
            told = failed(requests, time.monotonic() - started, first_line(error))
            yield pa.RecordBatch.from_pylist(told, ANSWER)
            return
        for request in requests:
            yield self._trained(rows, cell, matrices, request)

    def _trained(self, rows: Mapping[str, Any], cell: Array, matrices: Matrices, request: Request) -> pa.RecordBatch:
        started = time.monotonic()
        found: dict[str, Any] = {}
        try:
            model = boosters.train(request, matrices.trained, matrices.judged)
            found["rounds"] = model.num_boosted_rounds()
            valid = np.flatnonzero(self.validates[request.fold][cell])
            values, label = rows["values"][valid], rows["label"][valid]
            weight = rows["weight"][valid] if "weight" in rows else np.ones(len(valid))
            for name in ("value", "half") if self.halves else ("value",):
                said: Any = boosters.said(model, values, request, classifies=self.classifies, half=name == "half")
                found[name] = self.measure.value(said.get() if self.gpu else said, label, weight)
            if self.keep:
                found |= boosters.kept(model)
        except REFUSALS as error:
            found["error"] = first_line(error)
        return pa.RecordBatch.from_pylist([answer(request, time.monotonic() - started, **found)], ANSWER)


def answer(request: Request, seconds: float, **found: Any) -> dict[str, Any]:
    """A row of ANSWER, null where nothing was found."""
    return {**dict.fromkeys(ANSWER.names), "number": request.number, "seconds": seconds, **found}


def failed(requests: Sequence[Request], seconds: float, error: str) -> list[dict[str, Any]]:
    """Rows of ANSWER of models that one error kept from being trained, and that share the time that it took."""
    return [answer(request, seconds / len(requests), error=error) for request in requests]


def first_line(error: Exception) -> str:
    """What is told of an error; ours are sentences."""
    return (str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}").strip().splitlines()[0]


def columns(batches: Iterable[pa.RecordBatch]) -> dict[str, Any]:
    """The columns of all rows in the order of ORDINAL: `values` (n, p) float32, others (n).

    A partition may be fetched before the one that it follows: rows are put back in order.
    """
    parts: dict[str, list[Array]] = {}
    for batch in batches:
        for name in batch.schema.names if batch.num_rows else ():
            parts.setdefault(name, []).append(_array(batch, name))
    whole = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
    order = np.argsort(whole.pop(ORDINAL))
    if (order[1:] > order[:-1]).all():
        return whole
    return {name: array[order] for name, array in whole.items()}


@dataclass(frozen=True)
class Matrices:
    """What models are trained on.

    Attributes:
        trained: matrix of the rows that train.
        judged: matrix of the rows that only tell when to stop, None where none are set aside.
    """

    trained: Any
    judged: Any | None

    @classmethod
    def of(cls, rows: Mapping[str, Any], request: Request, trains: Array) -> Matrices:
        """The matrices of those rows that `trains` (n) holds for."""
        if ASIDE not in rows:
            return cls(_matrix(rows, request, trains), None)
        trained = _matrix(rows, request, trains & ~rows[ASIDE])
        return cls(trained, _matrix(rows, request, trains & rows[ASIDE], cuts=trained))


def _matrix(rows: Mapping[str, Any], request: Request, only: Array, *, cuts: Any | None = None) -> Any:
    """The matrix of those rows that `only` (n) holds for; binned where the trees are grown on bins."""
    import xgboost

    names = {"values": "data", "label": "label"} | ({"weight": "weight"} if "weight" in rows else {})
    chosen = np.flatnonzero(only)
    if not boosters.is_binned(request.booster):
        return xgboost.DMatrix(**{to: rows[name][chosen] for name, to in names.items()}, **request.matrix)
    step = max(1, PART // max(1, rows["values"].shape[1]))

    def parts() -> Iterator[dict[str, Any]]:
        # Without rows there is one part, too: it tells how many features there are.
        for start in range(0, max(1, len(chosen)), step):
            part = chosen[start : start + step]
            yield {to: rows[name][part] for name, to in names.items()}

    return boosters.binned(parts, request, cuts=cuts)


def moved(rows: dict[str, Any]) -> dict[str, str]:
    """Put the values on the task's GPU, where rows are binned and predicted; returns what tells XGBoost which one that is.

    Raises:
        ModelError: they are too many for its memory.
    """
    number, _ = gpu_task.own()
    gpu = Gpu(number)
    gpu.require_room(rows["values"].nbytes)
    rows["values"] = gpu.there(rows["values"])
    return {"device": f"cuda:{number}"}


def _array(batch: pa.RecordBatch, name: str) -> Array:
    column = batch.column(name)
    if name != "values":
        return np.asarray(column)
    return np.asarray(column.flatten(), dtype=np.float32).reshape(batch.num_rows, -1)
