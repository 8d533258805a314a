"""Elastic net from second moments: coordinate descent on an active set, every round ending in a direct solution.

Coordinate descent with covariance updates and warm starts from heavier to lighter penalties: Friedman, Hastie and Tibshirani,
"Regularization paths for generalized linear models via coordinate descent" (2010), section 2. It finds within a few sweeps which
coefficients are not 0, and is slow after that; the coefficients that are not 0 follow from linear equations once their signs are
known: the step of Lee, Battle, Raina and Ng, "Efficient sparse coding algorithms" (2007). Signs that come out right, and no other
coefficient whose gradient exceeds its penalty, make the optimum to rounding.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

Doubles = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

# Gradient that may be left, relative to the largest entry of the linear term.
TOLERANCE = 1e-12
SWEEPS = 2
STEPS = 16
MAX_ROUNDS = 2000


@dataclass(frozen=True)
class ElasticNet:
    """The problem min 1/2 u'Gu - c'u + sum_j l1_j |u_j| + 1/2 sum_j l2_j u_j^2.

    Attributes:
        gram: G, (p, p), positive semidefinite with a positive diagonal.
        linear: c, (p).
        l1: (p), positive.
        l2: (p), at least 0.
    """

    gram: Doubles
    linear: Doubles
    l1: Doubles
    l2: Doubles

    def gradient(self, u: Doubles) -> Doubles:
        """(p), of the smooth part."""
        active = np.flatnonzero(u)
        # Rows, not columns: G is symmetric, and rows are contiguous.
        return np.asarray(u[active] @ self.gram[active] - self.linear + self.l2 * u)

    def residual(self, u: Doubles, gradient: Doubles) -> float:
        """The largest distance of 0 from the subdifferential, relative to the largest entry of c (Karush-Kuhn-Tucker)."""
        at_zero = np.maximum(np.abs(gradient) - self.l1, 0.0)
        distance = np.where(u != 0, np.abs(gradient + self.l1 * np.sign(u)), at_zero)
        return float(distance.max(initial=0.0) / (np.abs(self.linear).max(initial=0.0) or 1.0))


def solve(gram: Doubles, linear: Doubles, l1: Doubles, l2: Doubles) -> Doubles:
    """Minimisers of M problems that share `gram` and `linear`. What does not converge is logged, and returned as good as it got.

    Args:
        l1, l2: (p, M), as in `ElasticNet`.

    Returns:
        (p, M).
    """
    solutions = np.zeros_like(l1)
    u = np.zeros(len(linear))
    for m in np.argsort(-l1.sum(axis=0), kind="stable"):
        u = _minimiser(ElasticNet(gram, linear, l1[:, m], l2[:, m]), u)
        solutions[:, m] = u
    return solutions


def _minimiser(problem: ElasticNet, u: Doubles) -> Doubles:
    """(p), from the start `u`. The objective never rises."""
    residual = np.inf
    for _ in range(MAX_ROUNDS):
        u = _active_set(problem, u)
        gradient = problem.gradient(u)
        residual = problem.residual(u, gradient)
        if residual <= TOLERANCE:
            return u
        u = _swept(problem, u, np.flatnonzero((u != 0) | (np.abs(gradient) > problem.l1)))
    logger.warning("elastic net stopped rounds=%d residual=%.1e", MAX_ROUNDS, residual)
    return u


def _swept(problem: ElasticNet, start: Doubles, working: npt.NDArray[np.int_]) -> Doubles:
    """Rounds over the coordinates `working`: u_j <- soft(c_j - sum_{i != j} G_ji u_i, l1_j) / (G_jj + l2_j)."""
    gram, u = problem.gram[np.ix_(working, working)], start[working]
    # c - Gu, of which a coordinate adds its own part G_jj u_j.
    remainder = problem.linear[working] - gram @ u
    diagonal, l1 = np.diagonal(gram).tolist(), problem.l1[working].tolist()
    curvature = (np.diagonal(gram) + problem.l2[working]).tolist()
    values = u.tolist()
    for _ in range(SWEEPS):
        for j, old in enumerate(values):
            pull = float(remainder[j]) + diagonal[j] * old
            new = (pull - min(max(pull, -l1[j]), l1[j])) / curvature[j]
            if new != old:
                remainder -= gram[j] * (new - old)
                values[j] = new
    u = start.copy()
    u[working] = values
    return u


def _active_set(problem: ElasticNet, u: Doubles) -> Doubles:
    """Steps to the minimiser for the present signs, each as far as the objective falls on the way there."""
    u = u.copy()
    for _ in range(STEPS):
        active = np.flatnonzero(u)
        sign, l1 = np.sign(u[active]), problem.l1[active]
        matrix = problem.gram[np.ix_(active, active)]
        matrix[np.diag_indices_from(matrix)] += problem.l2[active]
        try:
            factor = linalg.cho_factor(matrix, check_finite=False)
        except linalg.LinAlgError:  # collinear columns, no ridge: many optima, sweeps find one
            return u
        target = linalg.cho_solve(factor, problem.linear[active] - l1 * sign, check_finite=False)
        crossing = np.flatnonzero(sign * target <= 0)
        if not len(crossing):
            u[active] = target
            return u
        step = target - u[active]
        # The objective on the way: a parabola, and a kink wherever a coefficient goes through 0.
        times = np.append(u[active][crossing] / -step[crossing], 1.0)
        slope = step @ (matrix @ u[active] - problem.linear[active])
        path = u[active][:, None] + step[:, None] * times
        objective = slope * times + 0.5 * (step @ matrix @ step) * times**2 + l1 @ np.abs(path)
        best = int(np.argmin(objective))
        u[active] = path[:, best]
        if best < len(crossing):
            u[active[crossing[best]]] = 0.0
    return u
