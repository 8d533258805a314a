"""Boosted trees of rows that lie on several workers: each bins its own, and all train each model together.

XGBoost adds up the histograms of its workers, which its tracker, on the driver, brings together. Quantiles are merged when the rows that a fold trains on
are binned, once for all its models that agree on the bins. Workers are told apart by their numbers, so that sums come in the same order each time.

A cell has two numbers: `2 c` for rows of the driver's cell c, `2 c + 1` for those of them that are set aside to tell when to stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import boosters
from models.boosters import Request
from models.exact.worker.blocks import Array, Blocks, Cell

_MATRICES = "matrices"


@dataclass(frozen=True)
class _Matrices:
    """Those of a worker: of the rows that train, and of those aside; `serve` says which models."""

    serve: tuple[str, int]
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
    classifies: bool,
    halves: bool,
    group: Mapping[str, Any],
) -> dict[str, Any]:
    """One model, trained together with the other workers.

    Args:
        trains, validates: (C), whether the rows of a cell of the driver's do.
        features: how many there are, for a worker without rows.
        aside: whether rows are set aside.
        halves: whether the first half of the rounds is judged, too.
        group: arguments of XGBoost's communicator.

    Returns:
        said, label, weight: of this worker's validation rows, in the order of its cells.
        half: what is said by the first half of the rounds; None where it is not asked for, or no row validates.
        model, config: of the first worker alone; the others have the same.
        rounds: of the model.
    """
    from xgboost import collective

    with collective.CommunicatorContext(**group, dmlc_task_id=f"{blocks.worker:08d}"):
        # Taken out until the model is there: whoever fails forgets them, and so do the others, who fail with it. Else it would bin while they train.
        matrices = blocks.made.pop(_MATRICES, None)
        if matrices is None or matrices.serve != request.served_by:
            matrices = None  # let go before the next one is made
            matrices = _made(
                [cell for cell in blocks.cells if trains[cell.number // 2]], request, features, aside=aside
            )
        model = boosters.train(request, matrices.trained, matrices.judged)
        blocks.made[_MATRICES] = matrices
    valid = [cell for cell in blocks.cells if validates[cell.number // 2]]

    def said(*, half: bool) -> Array | None:
        parts = [boosters.said(model, cell.dense, request, classifies=classifies, half=half) for cell in valid]
        return np.concatenate([np.asarray(part) for part in parts]) if parts else None

    found = {
        "said": said(half=False),
        "half": said(half=True) if halves else None,
        "label": np.concatenate([np.empty(0), *(cell.label for cell in valid)]),
        "weight": np.concatenate([np.empty(0), *(cell.weight for cell in valid)]),
        "rounds": int(model.num_boosted_rounds()),
    }
    return found | (boosters.kept(model) if blocks.worker == 0 else {})


def _made(cells: Sequence[Cell], request: Request, features: int, *, aside: bool) -> _Matrices:
    """The rows of some cells in bins; those aside by the cuts of the others."""
    trained = _matrix([cell for cell in cells if not (aside and cell.number % 2)], request, features)
    if not aside:
        return _Matrices(request.served_by, trained, None)
    judged = _matrix([cell for cell in cells if cell.number % 2], request, features, cuts=trained)
    return _Matrices(request.served_by, trained, judged)


def _matrix(cells: Sequence[Cell], request: Request, features: int, *, cuts: Any | None = None) -> Any:
    """Rows of cells one after the other; a worker without rows says how many features there are."""
    nothing = np.empty(0)
    several = list(cells) or [Cell(0, np.empty((0, features)), nothing, nothing, nothing)]

    def parts() -> Iterator[dict[str, Any]]:
        for cell in several:
            yield {"data": cell.dense, "label": cell.label, "weight": cell.weight}

    return boosters.binned(parts, request, cuts=cuts)
