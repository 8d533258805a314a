"""XGBoost's boosters: what is to be trained, early stopping that goes on where it was, and what is kept of a model. No Spark.

XGBoost itself is imported where it is used: only workers train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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

    @property
    def quantiles(self) -> dict[str, Any]:
        """Arguments of a matrix that is binned."""
        bins = {"max_bin": self.booster["max_bin"]} if "max_bin" in self.booster else {}
        return {**self.matrix, **bins}


def is_binned(booster: Mapping[str, Any]) -> bool:
    """Whether trees are grown on bins of the features."""
    return booster.get("tree_method") in (None, "auto", "hist")


def train(request: Request, trained: Any, judged: Any | None) -> Any:
    """The booster of a request.

    Args:
        trained: matrix with the weights of the rows that train.
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


def said(model: Any, values: Any, request: Request, *, classifies: bool) -> Any:
    """Margins of classes, or predicted values, of rows; a model that may have been stopped early says them by its best round."""
    return model.inplace_predict(
        values,
        iteration_range=(0, best_rounds(model)),
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
