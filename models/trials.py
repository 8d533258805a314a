"""Trials of a search, and what they decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.ml import Model

from transforms.errors import ModelError

_DEATH = "Python worker exited unexpectedly"
_TRACEBACK = "Traceback (most recent call last):"
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """One model of one fold: what was fitted, how well it did on the validation rows, or why it failed.

    `point` is the index in the candidate's grid; `value` is None exactly when `error` says why. `rounds` are those of boosted trees, None for
    other models; `share` is the part of them after which better points kept this one from the rest, 1 where none did.
    """

    candidate: str
    point: int
    parameters: Mapping[str, Any]
    fold: int
    metric: str
    value: float | None
    seconds: float
    solver: str
    error: str | None = None
    rounds: int | None = None
    share: float = 1.0


@dataclass(frozen=True)
class TuningResult:
    """The outcome of one search.

    Attributes:
        scores: metric on the validation rows, shape (points, folds); NaN where the fit failed. Of a point that was stopped by
            better ones it is that of its last model.
        models: (point, fold) -> what makes the fitted model, of the trials fitted now whose models were to be kept.
        whole: the best point's model on all rows, if it was asked for and its solver had them at hand.
    """

    trials: tuple[Trial, ...]
    scores: Scores
    larger_is_better: bool
    models: Mapping[tuple[int, int], Callable[[], Model]] = field(default_factory=dict)
    whole: Model | None = None

    @property
    def mean(self) -> Scores:
        """Mean over the folds, shape (points,); NaN for a point that failed in any fold."""
        return np.asarray(np.mean(self.scores, axis=1), dtype=np.float64)

    @property
    def std(self) -> Scores:
        """Population standard deviation over the folds, shape (points,), as stock CrossValidator has it."""
        return np.asarray(np.std(self.scores, axis=1), dtype=np.float64)

    def share(self, point: int) -> float:
        """The part of its rounds after which a point was stopped, 1 where it was not."""
        return min((trial.share for trial in self.trials if trial.point == point), default=1.0)

    @property
    def best(self) -> int | None:
        """Index of the best point that succeeded in every fold and was not stopped, the first of equals; None when there is none."""
        mean = self.mean.copy()
        mean[[trial.point for trial in self.trials if trial.share < 1]] = np.nan
        if np.isnan(mean).all():
            return None
        return int(np.nanargmax(mean) if self.larger_is_better else np.nanargmin(mean))

    def require_best(self) -> int:
        """As `best`.

        Raises:
            ModelError: every point failed in some fold; the different errors are listed.
        """
        if self.best is None:
            raise ModelError(failures(self.trials))
        return self.best


def describe_error(error: Exception) -> str:
    """First line of what went wrong, the innermost cause of a failed Spark job; rows that Spark prints after it are left out, and so is the
    traceback of a worker."""
    java = getattr(error, "java_exception", None)
    if java is not None:
        # What lies under a worker's death is no more than the end of its answer.
        while java.getCause() is not None and _DEATH not in str(java.toString()):
            java = java.getCause()
        text = str(java.toString())
    else:
        text = f"{type(error).__name__}: {error}"
    first = text.strip().splitlines()[0]
    _, traceback, after = text.rpartition(_TRACEBACK)
    if traceback:
        # What a worker raised is the first line after the indented ones; it may have more of its own.
        raised = next((line for line in after.splitlines() if line.strip() and not line.startswith(" ")), first)
        kind, colon, said = raised.partition(": ")
        first = kind.rpartition(".")[2] + colon + said
    return first[:300]


def finite(value: float | None) -> tuple[float | None, str | None]:
    """A metric's value and no error, or no value and why it counts for nothing."""
    if value is None or np.isfinite(value):
        return value, None
    return None, f"the metric is {value}, expected a finite number"


def failures(trials: tuple[Trial, ...]) -> list[str]:
    """Why no point came through: a sentence that says so, and those of `failed`."""
    return [
        "No grid point could be fitted in every fold; correct the candidates or the data that these errors name.",
        *failed(trials),
    ]


def failed(trials: tuple[Trial, ...]) -> list[str]:
    """One sentence for each different error of the trials, and how many trials met it."""
    errors: dict[tuple[str, str], int] = {}
    for trial in trials:
        if trial.error:
            errors[trial.candidate, trial.error] = errors.get((trial.candidate, trial.error), 0) + 1
    sentences = []
    for (candidate, error), count in errors.items():
        where = f"candidate '{candidate}', " if candidate else ""
        sentences.append(f"{where}{count} trial(s): {error}")
    return sentences
