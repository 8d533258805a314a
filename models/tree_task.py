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

from models import gpu_task
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
class Request:
    """One model to be trained.

    Attributes:
        number: which model, as the driver counts them.
        fold: whose rows train and validate.
        booster, rounds, matrix: arguments of `xgboost.train` and of the matrix, as `xgboost.spark` makes them of an estimator.
        begun: the model as it was left, whose boosting goes on; None for a new one.
    """

    number: int
    fold: int
    booster: Mapping[str, Any]
    rounds: Mapping[str, Any]
    matrix: Mapping[str, Any]
    begun: bytes | None = None

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
            matrices = Matrices.of(rows, members[0], only=only, weighted=self.of_one_fold)
            for request in members:
                if not self.of_one_fold:
                    matrices.weigh(self.trains[request.fold][cell])
                yield self._trained(rows, cell, matrices, request)

    def _trained(self, rows: Mapping[str, Any], cell: Array, matrices: Matrices, request: Request) -> pa.RecordBatch:
        started = time.monotonic()
        found: dict[str, Any] = {"value": None, "rounds": None, "error": None, "config": None, "model": None}
        try:
            model = matrices.train(request)
            found["rounds"] = model.num_boosted_rounds()
            valid = np.flatnonzero(self.validates[request.fold][cell])
            said: Any = model.inplace_predict(
                rows["values"][valid],
                iteration_range=(0, best_rounds(model)),
                predict_type="margin" if self.classifies else "value",
                missing=request.matrix.get("missing", np.nan),
            )
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

    def train(self, request: Request) -> Any:
        """The booster of a request."""
        import xgboost

        rounds = dict(request.rounds)
        if self.judged is not None:
            rounds |= {"evals": [(self.judged, "validation")], "verbose_eval": False}
        begun = None
        if request.begun is not None:
            begun = xgboost.Booster(dict(request.booster), model_file=bytearray(request.begun))
        patience = rounds.pop("early_stopping_rounds", None)
        if patience is not None:
            if begun is not None and _without_better(begun) >= patience:
                return begun
            rounds["callbacks"] = [*(rounds.get("callbacks") or ()), _early_stopping(patience, begun)]
        return xgboost.train(dict(request.booster), self.trained, **rounds, xgb_model=begun)


def _early_stopping(patience: int, begun: Any | None) -> Any:
    """XGBoost's early stopping, which goes on where it was with a model that has been begun."""
    from xgboost.callback import EarlyStopping

    if begun is None:
        return EarlyStopping(patience)
    # Now: training changes the model.
    best_score, without_better = float(begun.attr("best_score")), _without_better(begun)

    class GoesOn(EarlyStopping):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            if not self.stopping_history:
                (name, metrics), *_ = evals_log.items()
                metric = list(metrics)[-1]
                self.stopping_history = {name: {metric: []}}
                self.best_scores = {name: {metric: [best_score]}}
                self.current_rounds = without_better
            return super().after_iteration(model, epoch, evals_log)

    return GoesOn(patience)


def _without_better(begun: Any) -> int:
    """For how many rounds a model was not judged better than before."""
    return int(begun.num_boosted_rounds()) - best_rounds(begun)


def best_rounds(model: Any) -> int:
    """Rounds of the model that predict: all, or those to the best one where it may have been stopped early."""
    best = model.attr("best_iteration")
    return int(model.num_boosted_rounds()) if best is None else int(best) + 1


def _matrix(
    rows: Mapping[str, Any], request: Request, only: Array | None, *, weighted: bool, cuts: Any | None = None
) -> Any:
    """The matrix of all rows, or of those in `only`; binned where the trees are grown on bins."""
    import xgboost

    names = ["values", "label"] + ["weight"] * (weighted and "weight" in rows)
    chosen = {name: rows[name] if only is None else rows[name][only] for name in names}
    if not is_binned(request.booster):
        return xgboost.DMatrix(chosen.pop("values"), **chosen, **request.matrix)
    bins = {"max_bin": request.booster["max_bin"]} if "max_bin" in request.booster else {}
    return xgboost.QuantileDMatrix(chosen.pop("values"), **chosen, **request.matrix, **bins, ref=cuts)


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
