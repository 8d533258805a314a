"""`candidates: auto`: families and spaces for data that nobody has looked at yet, from their size alone.

A linear family, which is cheap and easy to explain, over a wide grid of penalties: all its points share the passes over the rows. Boosted trees,
which most tables are best predicted by, over the parameters that decide most (Probst, Boulesteix and Bischl, "Tunability", 2019): how
fast and how deep they grow and what a leaf must hold; how many there are is decided by rows that are set aside. No forests: their
trees take longer, and boosted ones are seldom worse.
"""

from __future__ import annotations

from typing import Any

from conf.candidates import Candidate
from models.preprocessing import Profile

PENALTIES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ROUNDS, PATIENCE, HALVING = 300, 15, 2
# Of fewer rows a fold may have none that are set aside to tell when to stop.
FEWEST_TO_STOP = 500
# Beyond this the linear solvers iterate, and each point costs as much as a fit.
MANY_FEATURES = 4096


def candidates(task: str, profile: Profile, rows: int, scale: float) -> dict[str, Candidate]:
    """Candidates by name, the linear one first: of equally good points the simpler wins.

    Args:
        rows: of the training part.
        scale: standard deviation of the label of a regression, whose unit MLlib's penalty of it has; 1 for classes.
    """
    linear = "linear_regression" if task == "regression" else "logistic_regression"
    found = {
        linear: {"estimator": linear, "grid": _penalties(_width(profile), rows, scale)},
        "boosted_trees": {
            "estimator": "boosted_trees",
            "params": {"n_estimators": ROUNDS}
            | ({"early_stopping_rounds": PATIENCE} if rows >= FEWEST_TO_STOP else {}),
            "space": _growth(rows),
            "halving": HALVING,
        },
    }
    return {name: Candidate.model_validate(each) for name, each in found.items()}


def _penalties(width: int, rows: int, scale: float) -> dict[str, list[float]]:
    """With fewer rows than features only a penalty that leaves features out says much; with very many features no more than a few points."""
    strengths = PENALTIES[::3] if width > MANY_FEATURES else PENALTIES
    mixtures = [0.5, 1.0] if width > rows else [0.0, 0.5]
    return {"reg_param": [float(f"{scale * each:.3g}") for each in strengths], "elastic_net_param": mixtures}


def _growth(rows: int) -> dict[str, Any]:
    """A leaf must hold a fiftieth of the rows at most."""
    return {
        "learning_rate": {"from": 0.03, "to": 0.3, "scale": "log"},
        "max_depth": {"from": 3, "to": 8},
        "min_child_weight": {"from": 1.0, "to": float(min(max(rows // 50, 2), 200)), "scale": "log"},
        "subsample": {"from": 0.5, "to": 1.0},
        "colsample_bytree": {"from": 0.4, "to": 1.0},
    }


def _width(profile: Profile) -> int:
    """Columns of the linear design."""
    return len(profile.numeric) + len(profile.missing) + sum(profile.levels.values())
