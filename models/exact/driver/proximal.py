"""Penalised quadratics: the step of a proximal Newton method, min over x of g'(x - y) + (x - y)'H(x - y) / 2 + sum l1 |x|.

Without l1 that is a linear system. With it, an active-set search, as the feature-sign search of Lee, Battle, Raina and Ng
(Efficient sparse coding algorithms, NIPS 2006): guess the signs of x, solve the linear system of the coordinates that are not 0, go
as far towards its solution as the true objective falls, and correct the guess. Each step lowers the objective, there are finitely
many guesses, and the result is exact to rounding. From the previous iterate, whose signs are nearly right, it takes one or two steps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import linalg

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# Relative to the diagonal: what is added to a curvature that rounding, collinear or empty columns left singular.
DAMPING = 1e-12


class Quadratic:
    """A positive definite curvature H (d, d), kept with its Cholesky factor for many steps.

    Where H is not positive definite, the least power of 100 times `DAMPING` times its mean diagonal that makes it so is added: a
    step then is shorter, its direction still descends.
    """

    def __init__(self, curvature: Floats) -> None:
        damping = DAMPING * max(float(np.trace(curvature)) / max(1, len(curvature)), 1e-12)
        self._curvature = curvature
        while True:
            try:
                self._factor = linalg.cho_factor(self._curvature, lower=True, check_finite=False)
                # LAPACK also accepts pivots of rounding size.
                pivots = np.diag(self._factor[0])
                if len(pivots) == 0 or pivots.min() ** 2 > DAMPING * pivots.max() ** 2 / 100:
                    break
            except linalg.LinAlgError:
                pass
            self._curvature = self._curvature + damping * np.eye(len(curvature))
            damping *= 100

    def minimum(self, at: Floats, gradient: Floats, l1: Floats) -> Floats:
        """The x (d) that minimises gradient'(x - at) + (x - at)'H(x - at) / 2 + sum l1 |x|, for l1 (d) >= 0."""
        if not l1.any():
            step: Floats = linalg.cho_solve(self._factor, gradient, check_finite=False)
            return at - step
        return lasso(self._curvature, self._curvature @ at - gradient, l1, start=at)


def soft_threshold(x: Floats, by: Floats) -> Floats:
    """The proximal map of `by` |x|: x moved towards 0 by `by`, but not past it."""
    return np.sign(x) * np.maximum(np.abs(x) - by, 0.0)


def proximal_gradient(x: Floats, gradient: Floats, l1: Floats) -> float:
    """Largest entry of x - prox(x - gradient): 0 where x is optimal, the gradient's largest entry where there is no l1."""
    return float(np.max(np.abs(x - soft_threshold(x - gradient, l1)), initial=0.0))


def lasso(H: Floats, c: Floats, l1: Floats, *, start: Floats) -> Floats:
    """The x (d) that minimises x'Hx / 2 - c'x + sum l1 |x| for a positive definite H (d, d), exact to rounding."""
    penalised = l1 > 0
    x = start.copy()
    value = _objective(H, c, l1, x)
    tolerance = 1e-14 * max(float(np.max(np.abs(c), initial=0.0)), float(np.max(l1, initial=0.0)))
    # Every accepted step lowers the objective, so no guess of signs comes twice; the bound is for rounding.
    for _ in range(20 * len(c) + 100):
        residual = c - H @ x
        nonzero = ~penalised | (x != 0)
        sign = np.where(penalised, np.where(x != 0, np.sign(x), np.sign(residual)), 0.0)
        excess = np.where(nonzero, 0.0, np.abs(residual) - l1)
        entering = excess > tolerance
        unsolved = float(np.max(np.abs(residual - l1 * sign)[nonzero], initial=0.0)) > tolerance
        if not unsolved and not entering.any():
            break
        worst = np.zeros_like(entering)
        worst[np.argmax(excess)] = entering.any()
        for joining in (entering, worst, np.zeros_like(entering)):
            moved = _towards_solution(H, c, l1, x, sign, nonzero, joining)
            lower = _objective(H, c, l1, moved)
            if lower < value or _refines(H, c, l1, x, moved, lower - value):
                break
        else:
            break
        x, value = moved, lower
    return x


def _towards_solution(
    H: Floats, c: Floats, l1: Floats, x: Floats, sign: Floats, nonzero: Flags, joining: Flags
) -> Floats:
    """From x to the minimum for given signs of the active coordinates, or to the best point on the way where one becomes 0."""
    joining = joining.copy()
    while True:
        active = nonzero | joining
        solution = np.zeros_like(x)
        factor = linalg.cho_factor(H[np.ix_(active, active)], lower=True, check_finite=False)
        solution[active] = linalg.cho_solve(factor, (c - l1 * sign)[active], check_finite=False)
        wrong = joining & (solution * sign < 0)
        # Alone and from a solved active set, a coordinate leaves 0 to the right side; among others it may not: it waits then.
        if not wrong.any():
            break
        joining &= ~wrong
    direction = solution - x
    crossing = nonzero & (l1 > 0) & (solution * sign < 0)
    if not crossing.any():
        return solution
    at = x[crossing] / -direction[crossing]
    lengths = np.append(at, 1.0)
    points = x + lengths[:, None] * direction
    points[np.arange(len(at)), np.flatnonzero(crossing)] = 0.0
    smooth = lengths**2 / 2 * float(direction @ H @ direction) - lengths * float((c - H @ x) @ direction)
    best: Floats = points[np.argmin(smooth + np.abs(points) @ l1)]
    return best


def _refines(H: Floats, c: Floats, l1: Floats, x: Floats, moved: Floats, change: float) -> bool:
    """Whether `moved` is nearer to the optimum where the objective, flat there, is too coarse to tell."""
    if change > 1e-14 * abs(_objective(H, c, l1, x)):
        return False
    return proximal_gradient(moved, H @ moved - c, l1) < proximal_gradient(x, H @ x - c, l1) / 2


def _objective(H: Floats, c: Floats, l1: Floats, x: Floats) -> float:
    return float(x @ (H @ x) / 2 - c @ x + l1 @ np.abs(x))
