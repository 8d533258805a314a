"""Boosted trees of many folds and grid points, over rows that one task holds.

Rows are binned once for all models that agree on the bins. Rows outside a fold's training part have weight 0, which equals training on
the part alone with the same cuts: cuts are made without weights, for weights would move them. Where all models train on the same rows the
matrix holds no others. XGBoost uses one thread a model, so that sums do not depend on the number of cores.
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

from models import gpu_task
from models.exact.worker import devices
from models.exact.worker.devices import Gpu
from models.margins import Measure

Array = npt.NDArray[Any]
ORDINAL, CELL = "ordinal", "cell"
ANSWER = pa.schema(
    [
        ("number", pa.int32()),
        ("value", pa.float64()),
        ("seconds", pa.float64()),
        ("error", pa.string()),
        ("config", pa.string()),
        ("model", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Request:
    """One model to be trained.

    Attributes:
        number: which model, as the driver counts them.
        fold: whose rows train and validate.
        booster, rounds, matrix: arguments of `xgboost.train` and of the matrix, as `xgboost.spark` makes them of an estimator.
    """

    number: int
    fold: int
    booster: Mapping[str, Any]
    rounds: Mapping[str, Any]
    matrix: Mapping[str, Any]

    @property
    def work(self) -> float:
        """About how long it takes, in no unit."""
        return float(self.rounds.get("num_boost_round", 10)) * max(int(self.booster.get("max_depth") or 6), 1)

    @property
    def bins(self) -> str:
        """Equal for models that the same matrix serves."""
        return repr((is_binned(self.booster), self.booster.get("max_bin"), sorted(self.matrix.items())))


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
            matrix = made(rows, members[0].booster, members[0].matrix, only=only, weighted=self.of_one_fold)
            for request in members:
                if not self.of_one_fold:
                    weight = rows.get("weight", np.ones(len(cell)))
                    matrix.set_weight(np.where(self.trains[request.fold][cell], weight, 0.0))
                yield self._trained(rows, cell, matrix, request)

    def _trained(self, rows: Mapping[str, Any], cell: Array, matrix: Any, request: Request) -> pa.RecordBatch:
        import xgboost

        started = time.monotonic()
        found: dict[str, Any] = {"value": None, "error": None, "config": None, "model": None}
        try:
            model = xgboost.train(dict(request.booster), matrix, **request.rounds)
            valid = np.flatnonzero(self.validates[request.fold][cell])
            kind = "margin" if self.classifies else "value"
            missing = request.matrix.get("missing", np.nan)
            said: Any = model.inplace_predict(rows["values"][valid], predict_type=kind, missing=missing)
            if self.gpu:
                said = said.get()
            weight = rows["weight"][valid] if "weight" in rows else np.ones(len(valid))
            found["value"] = self.measure.value(said, rows["label"][valid], weight)
            if self.keep:
                found |= kept(model)
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


def made(
    rows: Mapping[str, Any],
    booster: Mapping[str, Any],
    matrix: Mapping[str, Any],
    *,
    only: Array | None = None,
    weighted: bool = True,
) -> Any:
    """The matrix of all rows, or of those in `only`; binned where the trees are grown on bins."""
    import xgboost

    names = [name for name in rows if name not in ("values", "weight")] + ["weight"] * (weighted and "weight" in rows)
    chosen = {name: rows[name] if only is None else rows[name][only] for name in ("values", *names)}
    binned = is_binned(booster)
    bins = {"max_bin": booster["max_bin"]} if binned and "max_bin" in booster else {}
    kind = xgboost.QuantileDMatrix if binned else xgboost.DMatrix
    return kind(chosen.pop("values"), **chosen, **matrix, **bins)


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


def kept(model: Any) -> dict[str, Any]:
    """A booster as columns of ANSWER; it says nothing of the GPU that it was trained on, for it must load where there is none."""
    model.set_param({"device": "cpu"})
    return {"config": model.save_config(), "model": bytes(model.save_raw("ubj"))}


def is_binned(booster: Mapping[str, Any]) -> bool:
    """Whether trees are grown on bins of the features."""
    return booster.get("tree_method") in (None, "auto", "hist")


def _array(batch: pa.RecordBatch, name: str) -> Array:
    column = batch.column(name)
    if name != "values":
        return np.asarray(column)
    return np.asarray(column.flatten(), dtype=np.float32).reshape(batch.num_rows, -1)
