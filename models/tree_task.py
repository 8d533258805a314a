"""Boosted trees of many folds and grid points, over rows that one task holds.

Rows are binned once for all models that agree on the bins. Rows outside a fold's training part have weight 0, which equals training on
the part alone with the same cuts: cuts are made without weights, for weights would move them. Where all models train on the same rows the
matrix holds no others. XGBoost uses one thread a model, so that sums do not depend on the number of cores.

Models that stop early are judged after each round on training rows that are set aside: these have weight 0, too, and are a second matrix
with the cuts of the first.
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

Array = npt.NDArray[Any]
# `ASIDE` marks rows that tell when to stop, by the name that `xgboost.spark` gives the column.
ORDINAL, CELL, ASIDE = "ordinal", "cell", "validationIndicator"
ANSWER = pa.schema(
    [
        ("number", pa.int32()),
        ("value", pa.float64()),
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
        of_one_fold: whether all models train on the same rows, so that the matrix holds no others.
        keep: whether models come back, and not their values alone.
        gpu: whether they are trained on a GPU, one after the other.
    """

    trains: Array
    validates: Array
    measure: Measure
    classifies: bool
    of_one_fold: bool
    keep: bool
    gpu: bool = False

    def run(self, batches: Iterable[pa.RecordBatch], requests: Sequence[Request]) -> Iterator[pa.RecordBatch]:
        """Train and judge; one row of ANSWER a model."""
        with devices.let_go(self.gpu):
            yield from self._run(batches, requests)

    def _run(self, batches: Iterable[pa.RecordBatch], requests: Sequence[Request]) -> Iterator[pa.RecordBatch]:
        rows = columns(batches)
        cell = rows.pop(CELL)
        if self.gpu:
            device = moved(rows)
            requests = [replace(each, booster={**each.booster, **device}) for each in requests]
        ordered = sorted(requests, key=lambda request: request.bins)
        for _, alike in groupby(ordered, key=lambda request: request.bins):
            members = list(alike)
            only = self.trains[members[0].fold][cell] if self.of_one_fold else None
            matrices = Matrices.of(rows, members[0], only=only, weighted=self.of_one_fold)
            for request in members:
                if not self.of_one_fold:
                    matrices.weigh(self.trains[request.fold][cell])
                yield self._trained(rows, cell, matrices, request)

    def _trained(self, rows: Mapping[str, Any], cell: Array, matrices: Matrices, request: Request) -> pa.RecordBatch:
        started = time.monotonic()
        found: dict[str, Any] = {"value": None, "rounds": None, "error": None, "config": None, "model": None}
        try:
            model = boosters.train(request, matrices.trained, matrices.judged)
            found["rounds"] = model.num_boosted_rounds()
            valid = np.flatnonzero(self.validates[request.fold][cell])
            said: Any = boosters.said(model, rows["values"][valid], request, classifies=self.classifies)
            if self.gpu:
                said = said.get()
            weight = rows["weight"][valid] if "weight" in rows else np.ones(len(valid))
            found["value"] = self.measure.value(said, rows["label"][valid], weight)
            if self.keep:
                found |= boosters.kept(model)
        except (ValueError, TypeError) as error:  # XGBoostError is a ValueError
            found["error"] = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        whole = {"number": request.number, "seconds": time.monotonic() - started, **found}
        return pa.RecordBatch.from_pylist([whole], ANSWER)


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
    """What models of equal bins are trained on.

    Attributes:
        weight: (n) of all rows.
        aside: (n) whether a row only tells when to stop.
        trained: matrix of the rows that train; of all rows where `weigh` chooses among them.
        judged: matrix of the rows aside, None where there are none.
    """

    weight: Array
    aside: Array
    trained: Any
    judged: Any | None

    @classmethod
    def of(cls, rows: Mapping[str, Any], request: Request, *, only: Array | None = None, weighted: bool) -> Matrices:
        """The matrices of rows, or of those in `only`; with their weights, or to be weighed before each model."""
        weight = rows.get("weight", np.ones(len(rows["label"])))
        if ASIDE not in rows:
            return cls(weight, np.zeros(len(weight), dtype=bool), _matrix(rows, request, only, weighted=weighted), None)
        aside = rows[ASIDE]
        here = np.ones(len(aside), dtype=bool) if only is None else only
        trained = _matrix(rows, request, here & ~aside if weighted else only, weighted=weighted)
        return cls(weight, aside, trained, _matrix(rows, request, here & aside, weighted=weighted, cuts=trained))

    def weigh(self, trains: Array) -> None:
        """Let (n) those rows alone count, in both matrices."""
        weight = np.where(trains, self.weight, 0.0)
        self.trained.set_weight(np.where(self.aside, 0.0, weight))
        if self.judged is not None:
            self.judged.set_weight(weight[self.aside])


def _matrix(
    rows: Mapping[str, Any], request: Request, only: Array | None, *, weighted: bool, cuts: Any | None = None
) -> Any:
    """The matrix of all rows, or of those in `only`; binned where the trees are grown on bins."""
    import xgboost

    names = ["values", "label"] + ["weight"] * (weighted and "weight" in rows)
    chosen = {name: rows[name] if only is None else rows[name][only] for name in names}
    if not boosters.is_binned(request.booster):
        return xgboost.DMatrix(chosen.pop("values"), **chosen, **request.matrix)
    return xgboost.QuantileDMatrix(chosen.pop("values"), **chosen, **request.quantiles, ref=cuts)


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
