"""Limited-memory BFGS directions, orthant-wise where there is an l1 penalty: for curvatures too large or too unruly to hold.

Nocedal and Wright, Numerical Optimization, algorithm 7.4; Andrew and Gao, Scalable training of L1-regularized log-linear models
(ICML 2007). MLlib's own optimisers, Breeze's LBFGS and OWLQN, are the same methods.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Memory:
    """The last steps of one model and the changes of the smooth gradient over them."""

    def __init__(self, length: int = 10) -> None:
        self._pairs: deque[tuple[Floats, Floats]] = deque(maxlen=length)

    def add(self, step: Floats, change: Floats) -> None:
        """Remember a step (d); one along which the gradient does not rise says nothing of curvature and is left out."""
        if step @ change > 1e-14 * float(np.linalg.norm(step) * np.linalg.norm(change)):
            self._pairs.append((step, change))

    def direction(self, gradient: Floats) -> Floats:
        """Minus the approximate inverse curvature times the gradient (d)."""
        if not self._pairs:
            return -gradient / max(1.0, float(np.linalg.norm(gradient)))
        q = gradient.copy()
        factors = []
        for step, change in reversed(self._pairs):
            factor = (step @ q) / (step @ change)
            q -= factor * change
            factors.append(factor)
        step, change = self._pairs[-1]
        q *= (step @ change) / (change @ change)
        for (step, change), factor in zip(self._pairs, reversed(factors), strict=True):
            q += (factor - (change @ q) / (step @ change)) * step
        return -q


def pseudo_gradient(x: Floats, gradient: Floats, l1: Floats) -> Floats:
    """The subgradient of least norm of smooth + l1 |x|: (d)."""
    at_zero = np.sign(gradient) * np.maximum(np.abs(gradient) - l1, 0.0)
    return np.where(x != 0, gradient + l1 * np.sign(x), at_zero)


def orthant_step(x: Floats, direction: Floats, pseudo: Floats, l1: Floats, length: float) -> Floats:
    """x + length * direction, where penalised coordinates that would change their sign stop at 0."""
    sign = np.where(x != 0, np.sign(x), -np.sign(pseudo))
    moved = x + length * direction
    return np.where((l1 > 0) & (moved * sign <= 0), 0.0, moved)
