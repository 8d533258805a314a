"""Boosted trees of rows that lie on several workers: each bins its own, and all train each model together.

XGBoost adds up the histograms of its workers, which its tracker, on the driver, brings together. Quantiles are merged when rows are binned, once
for all models that agree on the bins. Workers are told apart by their numbers, so that sums come in the same order each time.

A cell has two numbers: `2 c` for rows of the driver's cell c, `2 c + 1` for those of them that are set aside to tell when to stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import boosters
from models.boosters import Request
from models.exact.worker.blocks import Array, Blocks, Cell

_MATRICES = "matrices"
# What XGBoost takes with rows where they come cell by cell.
OF_FEATURES = ("feature_names", "feature_types", "feature_weights")


@dataclass(frozen=True)
class _Matrices:
    """Those of a worker: of the rows that train, and of those aside; `bins` says what they are binned for."""

    bins: str
    trained: Any
    judged: Any | None


def boost(
    blocks: Blocks,
    *,
    request: Request,
    trains: Array,
    validates: Array,
    features: int,
    aside: bool,
    of_one_fold: bool,
    classifies: bool,
    group: Mapping[str, Any],
) -> dict[str, Any]:
    """One model, trained together with the other workers.

    Args:
        trains, validates: (C), whether the rows of a cell of the driver's do.
        features: how many there are, for a worker without rows.
        aside: whether rows are set aside.
        of_one_fold: whether all models train on the same rows, so that the matrix holds no others.
        group: arguments of XGBoost's communicator.

    Returns:
        said, label, weight: of this worker's validation rows, in the order of its cells.
        model, config: of the first worker alone; the others have the same.
        rounds: of the model.
    """
    from xgboost import collective

    with collective.CommunicatorContext(**group, dmlc_task_id=f"{blocks.worker:08d}"):
        # Taken out until the model is there: whoever fails forgets them, and so do the others, who fail with it. Else it would bin while they train.
        matrices = blocks.made.pop(_MATRICES, None)
        held = [cell for cell in blocks.cells if not of_one_fold or trains[cell.number // 2]]
        if matrices is None or matrices.bins != request.bins:
            matrices = _made(held, request, features, aside=aside, weighted=of_one_fold)
        if not of_one_fold:
            _weigh(matrices, held, trains)
        model = boosters.train(request, matrices.trained, matrices.judged)
        blocks.made[_MATRICES] = matrices
    valid = [cell for cell in blocks.cells if validates[cell.number // 2]]
    said = [np.asarray(boosters.said(model, cell.dense, request, classifies=classifies)) for cell in valid]
    found = {
        "said": np.concatenate(said) if said else None,
        "label": np.concatenate([np.empty(0), *(cell.label for cell in valid)]),
        "weight": np.concatenate([np.empty(0), *(cell.weight for cell in valid)]),
        "rounds": int(model.num_boosted_rounds()),
    }
    return found | (boosters.kept(model) if blocks.worker == 0 else {})


def _made(cells: Sequence[Cell], request: Request, features: int, *, aside: bool, weighted: bool) -> _Matrices:
    """Binned rows. All that are held train where weights choose among them; else those that are not aside."""
    first = [cell for cell in cells if not (aside and weighted and cell.number % 2)]
    trained = _matrix(first, request, features, weighted=weighted)
    if not aside:
        return _Matrices(request.bins, trained, None)
    second = [cell for cell in cells if cell.number % 2]
    return _Matrices(request.bins, trained, _matrix(second, request, features, weighted=weighted, cuts=trained))


def _weigh(matrices: _Matrices, cells: Sequence[Cell], trains: Array) -> None:
    """Let rows of cells that train count alone, and those aside tell when to stop."""

    def of(cell: Cell, *, counts: bool) -> Array:
        return cell.weight if counts and trains[cell.number // 2] else np.zeros(len(cell.weight))

    if matrices.judged is None:
        _set_weight(matrices.trained, [of(cell, counts=True) for cell in cells])
        return
    _set_weight(matrices.trained, [of(cell, counts=not cell.number % 2) for cell in cells])
    _set_weight(matrices.judged, [of(cell, counts=True) for cell in cells if cell.number % 2])


def _set_weight(matrix: Any, weights: Sequence[Array]) -> None:
    matrix.set_weight(np.concatenate([np.empty(0), *weights]))


def _matrix(cells: Sequence[Cell], request: Request, features: int, *, weighted: bool, cuts: Any | None = None) -> Any:
    """Rows of cells one after the other, read cell by cell: they are never held twice."""
    import xgboost

    nothing = np.empty(0)
    of_features = {name: value for name, value in request.matrix.items() if name in OF_FEATURES}
    several = list(cells) or [Cell(0, np.empty((0, features)), nothing, nothing, nothing)]

    class OneByOne(xgboost.DataIter):
        def __init__(self) -> None:
            super().__init__(release_data=True)
            self._at = 0

        def next(self, input_data: Any) -> bool:
            if self._at == len(several):
                return False
            cell = several[self._at]
            weight = {"weight": cell.weight} if weighted else {}
            input_data(data=cell.dense, label=cell.label, **of_features, **weight)
            self._at += 1
            return True

        def reset(self) -> None:
            self._at = 0

    arguments = {name: value for name, value in request.quantiles.items() if name not in OF_FEATURES}
    return xgboost.QuantileDMatrix(OneByOne(), **arguments, ref=cuts)
