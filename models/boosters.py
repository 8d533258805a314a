"""XGBoost's boosters: what is to be trained, early stopping that goes on where it was, and what is kept of a model. No Spark.

XGBoost itself is imported where it is used: only workers train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# What XGBoost takes with rows where they come part by part.
_OF_FEATURES = ("feature_names", "feature_types", "feature_weights")


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
    def served_by(self) -> tuple[str, int]:
        """Equal for models that the same matrix serves: they agree on the bins and train on the rows of the same fold."""
        return repr((is_binned(self.booster), self.booster.get("max_bin"), sorted(self.matrix.items()))), self.fold


def is_binned(booster: Mapping[str, Any]) -> bool:
    """Whether trees are grown on bins of the features."""
    return booster.get("tree_method") in (None, "auto", "hist")


def binned(parts: Callable[[], Iterator[Mapping[str, Any]]], request: Request, *, cuts: Any | None = None) -> Any:
    """A matrix of rows in bins. They are read part by part, so that they are never held twice.

    Args:
        parts: begins anew with each call; a part is `data` (m, p), `label` (m) and, where rows have one, `weight` (m).
        cuts: a matrix whose cuts between bins are taken; None for cuts of these rows, by their weights.
    """
    import xgboost

    of_features = {name: value for name, value in request.matrix.items() if name in _OF_FEATURES}
    arguments = {name: value for name, value in request.matrix.items() if name not in _OF_FEATURES}
    if "max_bin" in request.booster:
        arguments["max_bin"] = request.booster["max_bin"]

    class Parts(xgboost.DataIter):
        def __init__(self) -> None:
            super().__init__(release_data=True)
            self._left = parts()

        def next(self, input_data: Any) -> bool:
            part = next(self._left, None)
            if part is None:
                return False
            input_data(**part, **of_features)
            return True

        def reset(self) -> None:
            self._left = parts()

    return xgboost.QuantileDMatrix(Parts(), **arguments, ref=cuts)


def train(request: Request, trained: Any, judged: Any | None) -> Any:
    """The booster of a request.

    Args:
        trained: matrix of the rows that train.
        judged: matrix of the rows that tell when to stop, None where there are none.
    """
    import xgboost

    rounds = dict(request.rounds)
    if judged is not None:
        rounds |= {"evals": [(judged, "validation")], "verbose_eval": False}
    begun = None
    if request.begun is not None:
        begun = xgboost.Booster(dict(request.booster), model_file=bytearray(request.begun))
    patience = rounds.pop("early_stopping_rounds", None)
    if patience is not None:
        if begun is not None and _without_better(begun) >= patience:
            return begun
        rounds["callbacks"] = [*(rounds.get("callbacks") or ()), _early_stopping(patience, begun)]
    return xgboost.train(dict(request.booster), trained, **rounds, xgb_model=begun)


def said(model: Any, values: Any, request: Request, *, classifies: bool, half: bool = False) -> Any:
    """Margins of classes, or predicted values, of rows; a model that may have been stopped early says them by its best round.

    Args:
        half: by the first half of these rounds.
    """
    rounds = best_rounds(model)
    return model.inplace_predict(
        values,
        iteration_range=(0, (rounds + 1) // 2 if half else rounds),
        predict_type="margin" if classifies else "value",
        missing=request.matrix.get("missing", float("nan")),
    )


def best_rounds(model: Any) -> int:
    """Rounds of the model that predict: all, or those to the best one where it may have been stopped early."""
    best = model.attr("best_iteration")
    return int(model.num_boosted_rounds()) if best is None else int(best) + 1


def kept(model: Any) -> dict[str, Any]:
    """A booster as plain values; it says nothing of the GPU that it was trained on, for it must load where there is none."""
    model.set_param({"device": "cpu"})
    return {"config": model.save_config(), "model": bytes(model.save_raw("ubj"))}


def _early_stopping(patience: int, begun: Any | None) -> Any:
    """XGBoost's early stopping, which goes on where it was with a model that has been begun."""
    from xgboost.callback import EarlyStopping

    if begun is None:
        return EarlyStopping(rounds=patience)
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

    return GoesOn(rounds=patience)


def _without_better(begun: Any) -> int:
    """For how many rounds a model was not judged better than before."""
    return int(begun.num_boosted_rounds()) - best_rounds(begun)
