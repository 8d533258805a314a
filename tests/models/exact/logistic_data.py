"""Small random classification data in blocks, and what a plain reading of the formulas says of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from models.exact.driver.affine import Affine
from models.exact.driver.logistic_regression import Family, Problem
from models.exact.driver.passes import InProcess
from models.exact.driver.penalty import Penalty
from models.exact.worker.blocks import Blocks, Cell

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """Rows, and the same rows in the blocks of two workers. Cell 0 is empty, cell k + 1 validates fold k."""

    raw: Floats
    label: Floats
    weight: Floats
    cell: npt.NDArray[np.int64]
    blocks: tuple[Blocks, ...]
    folds: int

    @property
    def trains(self) -> npt.NDArray[np.bool_]:
        return np.arange(self.folds + 1) != np.arange(1, self.folds + 1)[:, None]

    def training(self, fold: int) -> npt.NDArray[np.bool_]:
        return self.cell != fold + 1

    def passes(self) -> InProcess:
        return InProcess(self.blocks)

    def problem(
        self, fold: int, penalty: Penalty, *, design: Affine | None = None, family: Family = "binomial"
    ) -> Problem:
        design = design or Affine()
        rows = self.training(fold)
        features = features_of(self.raw[rows], design)
        weight = self.weight[rows]
        classes = int(self.label.max()) + 1
        return Problem(
            self.trains[fold],
            penalty,
            design,
            unbiased_std(features, weight),
            np.bincount(self.label[rows].astype(int), weights=weight, minlength=classes),
            family,
        )


def make(
    seed: int,
    *,
    rows: int = 120,
    dense: int = 3,
    levels: tuple[int, ...] = (),
    classes: int = 2,
    folds: int = 3,
    weighted: bool = True,
    coarse: bool = False,
) -> Data:
    """Random rows whose label depends on them; `coarse` rounds features so that rows are often equal."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, dense)) @ (np.eye(dense) + 0.4 * rng.normal(size=(dense, dense)))
    if coarse:
        x = np.round(x)
    codes = np.column_stack([rng.integers(-1, n, rows) for n in levels] or [np.zeros((rows, 0))]).astype(np.int32)
    onehot = [(codes[:, [g]] == np.arange(n)).astype(float) for g, n in enumerate(levels)]
    raw = np.hstack([x, *onehot])
    margins = raw @ rng.normal(size=(raw.shape[1], classes)) + rng.normal(size=classes) / 2
    label = np.argmax(margins + rng.gumbel(size=margins.shape), axis=1).astype(float)
    weight = rng.uniform(0.2, 3.0, rows) if weighted else np.ones(rows)
    cell = rng.integers(1, folds + 1, rows)
    return regrouped(Data(raw, label, weight, cell, (), folds), x, codes, levels)


def regrouped(
    data: Data, dense: Floats | None = None, codes: npt.NDArray[np.int32] | None = None, levels: tuple[int, ...] = ()
) -> Data:
    """The data with blocks: of two workers with every other row, and of one without rows."""
    dense = data.raw if dense is None else dense
    codes = np.zeros((len(dense), 0), np.int32) if codes is None else codes
    blocks = []
    for worker in range(2):
        own = np.arange(len(dense)) % 2 == worker
        cells = []
        for number in range(1, data.folds + 1):
            chosen = own & (data.cell == number)
            if chosen.any():
                cells.append(Cell(number, dense[chosen], codes[chosen], data.label[chosen], data.weight[chosen]))
        blocks.append(Blocks(tuple(cells), levels))
    return replace(data, blocks=(*blocks, Blocks((), levels)))


def features_of(raw: Floats, design: Affine) -> Floats:
    matrix = design.matrix
    mapped = raw if matrix is None else raw * matrix if matrix.ndim == 1 else raw @ matrix
    return mapped if design.offset is None else mapped + design.offset


def unbiased_std(features: Floats, weight: Floats) -> Floats:
    mean = np.average(features, axis=0, weights=weight)
    denominator = weight.sum() - (weight**2).sum() / weight.sum()
    std = np.sqrt((weight[:, None] * (features - mean) ** 2).sum(axis=0) / denominator)
    std[np.ptp(features, axis=0) == 0] = 0
    return np.asarray(std)


def objective(
    features: Floats, label: Floats, weight: Floats, penalty: Penalty, coefficients: Floats, intercepts: Floats
) -> float:
    """The stated objective, term by term: coefficients (K, p)."""
    margins = features @ coefficients.T + intercepts
    y = label.astype(int)
    if len(intercepts) == 1:
        loss = np.logaddexp(0, margins[:, 0]) - y * margins[:, 0]
    else:
        loss = special.logsumexp(margins, axis=1) - margins[np.arange(len(y)), y]
    u = coefficients * unbiased_std(features, weight) if penalty.standardization else coefficients
    penalties = penalty.elastic_net_param * np.abs(u).sum() + (1 - penalty.elastic_net_param) / 2 * (u**2).sum()
    return float(np.average(loss, weights=weight) + penalty.reg_param * penalties)


def distance_from_optimum(
    features: Floats, label: Floats, weight: Floats, penalty: Penalty, coefficients: Floats, intercepts: Floats
) -> float:
    """The subgradient of least norm, largest entry, by scaled coefficients and intercepts: 0 where the convex objective is least."""
    std = unbiased_std(features, weight)
    margins = features @ coefficients.T + intercepts
    if len(intercepts) == 1:
        residual = special.expit(margins) - label[:, None]
    else:
        residual = special.softmax(margins, axis=1) - np.eye(len(intercepts))[label.astype(int)]
    residual *= weight[:, None] / weight.sum()
    u = coefficients * std
    factor = np.ones_like(std) if penalty.standardization else 1 / np.where(std > 0, std, 1)
    l1 = penalty.reg_param * penalty.elastic_net_param * factor
    l2 = penalty.reg_param * (1 - penalty.elastic_net_param) * factor**2
    centre = np.average(features, axis=0, weights=weight) * penalty.fit_intercept
    smooth = residual.T @ ((features - centre) / np.where(std > 0, std, np.inf)) + l2 * u
    at_zero = np.maximum(np.abs(smooth) - l1, 0)
    slopes = np.where(u != 0, np.abs(smooth + l1 * np.sign(u)), at_zero)
    return max(float(slopes.max()), float(np.abs(residual.sum(axis=0)).max()) * penalty.fit_intercept)


def optimum(
    features: Floats, label: Floats, weight: Floats, penalty: Penalty, classes: int = 1
) -> tuple[Floats, Floats]:
    """Coefficients (K, p) and intercepts (K) by SciPy's bounded quasi-Newton, positive and negative parts apart."""
    std = unbiased_std(features, weight)
    scaled = np.where(
        std > 0, (features - features.mean(axis=0) * penalty.fit_intercept) / np.where(std > 0, std, 1), 0
    )
    factor = np.ones_like(std) if penalty.standardization else 1 / np.where(std > 0, std, np.inf)
    p, y, w = len(std), label.astype(int), weight / weight.sum()
    l1 = penalty.reg_param * penalty.elastic_net_param * factor
    l2 = penalty.reg_param * (1 - penalty.elastic_net_param) * factor**2

    def value(v: Floats) -> tuple[float, Floats]:
        plus, minus, b = np.split(v, [classes * p, 2 * classes * p])
        u = (plus - minus).reshape(classes, p)
        margins = scaled @ u.T + b * penalty.fit_intercept
        if classes == 1:
            loss = w @ (np.logaddexp(0, margins[:, 0]) - y * margins[:, 0])
            residual = (w * (special.expit(margins[:, 0]) - y))[:, None]
        else:
            loss = w @ (special.logsumexp(margins, axis=1) - margins[np.arange(len(y)), y])
            residual = w[:, None] * (special.softmax(margins, axis=1) - np.eye(classes)[y])
        smooth = (residual.T @ scaled + l2 * u).ravel()
        each = np.tile(l1, classes)
        total = loss + (l2 * u**2).sum() / 2 + each @ (plus + minus)
        slope = residual.sum(axis=0) * penalty.fit_intercept
        return float(total), np.concatenate([smooth + each, each - smooth, slope])

    start = np.zeros(2 * classes * p + classes)
    bounds = [(0, None)] * (2 * classes * p) + [(None, None)] * classes
    options = {"maxiter": 2000, "ftol": 0, "gtol": 1e-11, "maxcor": 20}
    found = optimize.minimize(value, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    plus, minus, b = np.split(found, [classes * p, 2 * classes * p])
    coefficients = np.where(std > 0, (plus - minus).reshape(classes, p) / np.where(std > 0, std, 1), 0)
    if not penalty.fit_intercept:
        return coefficients, np.zeros(classes)
    return coefficients, b - coefficients @ features.mean(axis=0)
