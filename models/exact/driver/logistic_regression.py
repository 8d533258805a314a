"""MLlib's LogisticRegression for many folds and parameters at once, to the optimum of its objective.

With margins m of a row's features (binomial: one; multinomial: one per class k) the objective is, over a fold's training rows,

    sum of weight * loss / sum of weight + regParam * (elasticNetParam * |u|_1 + (1 - elasticNetParam) / 2 * |u|_2^2),

loss = log(1 + e^m) - y m, or log(sum_k e^m_k) - m_y. u_j = std_j beta_j with standardization, beta_j without; std is the unbiased
one; intercepts are free. Source: Spark's LogisticRegression.scala, and its aggregators and L2Regularization.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.exact.driver.affine import Affine
from models.exact.driver.likelihood import Likelihood
from models.exact.driver.newton import Iterate, minimise
from models.exact.driver.passes import Passes
from models.exact.driver.penalty import Penalty
from models.exact.driver.scaled import Scaled
from transforms.errors import ModelError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Family = Literal["binomial", "multinomial"]

# The models of each parameter start from a fit to so many rows of all folds, or 20 a coefficient.
SAMPLE = 40_000
SAMPLE_STEP = 1e-2


@dataclass(frozen=True, eq=False)
class Problem:
    """One model to be fitted.

    Attributes:
        trains: (C), the cells whose rows train.
        design: features from the raw design as the workers hold it. Problems of one fold share the object.
        std: (p), features' unbiased standard deviations over the training rows, exactly 0 where a feature is constant.
        class_weights: (classes), weight of the training rows of each class.
        setting: equal for problems whose features are made alike: one starts where another of its setting and penalty ended.
    """

    trains: Flags
    penalty: Penalty
    design: Affine
    std: Floats
    class_weights: Floats
    family: Family = "binomial"
    setting: Hashable = None

    def __post_init__(self) -> None:
        if self.family == "binomial" and len(self.class_weights) > 2:
            raise ModelError(
                f"LogisticRegression: family binomial takes 1 or 2 classes, found {len(self.class_weights)}; use multinomial or auto."
            )

    @property
    def rows(self) -> int:
        """K, rows of coefficients."""
        return 1 if self.family == "binomial" else len(self.class_weights)


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """A fitted model.

    Attributes:
        coefficients: (K, p); intercepts: (K): one row for binomial models, one a class for multinomial ones.
        objective: the value at the last pass.
        passes: over all rows.
        converged: whether the gradient vanished; reason: why it stopped.
    """

    coefficients: Floats
    intercepts: Floats
    objective: float
    passes: int
    converged: bool
    reason: str


def family_of(name: str, classes: int) -> Family:
    """The family that MLlib's parameter `family` (auto, binomial, multinomial) means for so many classes."""
    if name == "auto":
        return "multinomial" if classes > 2 else "binomial"
    return "multinomial" if name == "multinomial" else "binomial"


def fit(
    passes: Passes,
    problems: Sequence[Problem],
    *,
    rows: int,
    on_pass: Callable[[int, int], None] | None = None,
) -> list[LogisticFit]:
    """Fit all problems, in passes that they share.

    Workers' dense columns should be centred and scaled, roughly and once for all folds: float32 does the first passes.

    Args:
        rows: how many the workers hold in all.
        on_pass: called after each pass over all rows with its number and how many models still move.
    """
    fits: dict[int, LogisticFit] = {}
    batches: dict[int, list[int]] = {}
    for number, problem in enumerate(problems):
        constant = _constant_label(problem)
        if constant is not None:
            fits[number] = constant
        else:
            batches.setdefault(problem.rows, []).append(number)
    for numbers in batches.values():
        batch = [problems[number] for number in numbers]
        fits.update(zip(numbers, _fit_batch(passes, batch, rows, on_pass), strict=True))
    return [fits[number] for number in range(len(problems))]


def _fit_batch(
    passes: Passes, problems: Sequence[Problem], rows: int, on_pass: Callable[[int, int], None] | None
) -> list[LogisticFit]:
    """Problems with the same number of rows of coefficients."""
    all_scaled = [Scaled(p.trains, p.penalty, p.design, p.std, p.rows) for p in problems]
    likelihood = Likelihood(passes, problems[0].rows, len(problems[0].trains))
    starts = _starts(likelihood, problems, all_scaled, rows)
    models = [
        Iterate(scaled, start, problem.penalty)
        for problem, scaled, start in zip(problems, all_scaled, starts, strict=True)
    ]
    minimise(likelihood, models, separated=_separated(rows), on_pass=on_pass)
    return [_fitted(problem, model) for problem, model in zip(problems, models, strict=True)]


def _starts(
    likelihood: Likelihood, problems: Sequence[Problem], all_scaled: Sequence[Scaled], rows: int
) -> list[Floats]:
    """Where each model starts: at what a sample of all folds' rows gives for its penalty, else at its label's distribution."""
    starts = [
        scaled.theta(np.zeros((p.rows, len(p.std))), _log_odds(p))
        for p, scaled in zip(problems, all_scaled, strict=True)
    ]
    stride = rows // max(SAMPLE, 20 * max(len(start) for start in starts))
    if stride < 2:
        return starts
    first: dict[tuple[Penalty, Hashable], int] = {}
    for number, problem in enumerate(problems):
        first.setdefault((problem.penalty, problem.setting), number)
    everything = np.any([problem.trains for problem in problems], axis=0)
    sampled = {
        key: Iterate(
            Scaled(everything, key[0], problems[k].design, problems[k].std, problems[k].rows), starts[k], key[0]
        )
        for key, k in first.items()
    }
    sample = Likelihood(likelihood.passes, likelihood.rows, likelihood.cells, stride)
    minimise(sample, list(sampled.values()), separated=_separated(rows // stride), goal=SAMPLE_STEP)
    for number, (problem, scaled) in enumerate(zip(problems, all_scaled, strict=True)):
        found = sampled[problem.penalty, problem.setting]
        if found.converged and len(problem.std) == len(found.scaled.std):
            starts[number] = scaled.theta(*found.scaled.solution(found.x))
    return starts


def _log_odds(problem: Problem) -> Floats:
    """Intercepts (K) of a model without coefficients."""
    if not problem.penalty.fit_intercept:
        return np.zeros(problem.rows)
    # As MLlib, one is added to each class: one without rows would start at minus infinity.
    logs = np.log1p(problem.class_weights)
    if problem.family == "multinomial":
        return np.asarray(logs - logs.mean())
    return np.array([logs[-1] - logs[0]])


def _separated(rows: int) -> float:
    """A mean loss that no data without a separating plane allow: a row on the wrong side costs log 2, here 1000-fold the least."""
    return float(np.log(2)) / rows / 1000


def _constant_label(problem: Problem) -> LogisticFit | None:
    """MLlib's answer where all training rows have one class and there is an intercept; None elsewhere."""
    present = np.flatnonzero(problem.class_weights)
    if len(present) != 1 or not problem.penalty.fit_intercept:
        return None
    intercepts = np.zeros(problem.rows)
    if problem.family == "multinomial":
        intercepts[present[0]] = np.inf
    else:
        intercepts[0] = np.inf if len(problem.class_weights) == 2 else -np.inf
    coefficients = np.zeros((problem.rows, len(problem.std)))
    return LogisticFit(coefficients, intercepts, 0.0, 0, True, "all training rows have one label")


def _fitted(problem: Problem, model: Iterate) -> LogisticFit:
    """The model of an iterate, with MLlib's choice among equal optima."""
    coefficients, intercepts = model.scaled.solution(model.x)
    if problem.family == "multinomial":
        if problem.penalty.reg_param == 0:
            coefficients = coefficients - coefficients.mean(axis=0)
        if problem.penalty.fit_intercept:
            intercepts = intercepts - intercepts.mean()
    return LogisticFit(coefficients, intercepts, model.value, model.passes, bool(model.converged), model.reason)
