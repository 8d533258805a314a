"""Proximal Newton for many logistic models at once: each pass over the rows answers all models that still move.

A model's step minimises its quadratic model plus penalty (`proximal`), and is halved while the objective that the next pass returns is
not lower. Curvatures are dear, so models that differ only by fold share the point at which they are taken (each adds up the
cells it trains on), and they are kept for many steps: near the optimum a fixed curvature shrinks the error by a constant factor a
pass, and only where that factor is poor a new one is taken (Lee, Sun and Saunders, Proximal Newton-type methods, SIAM J. Optim.
2014, treat inexact curvatures). Where Newton fails, or its matrix is too large, a model goes on by limited-memory BFGS.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import numpy.typing as npt

from models.exact.driver.likelihood import Likelihood
from models.exact.driver.proximal import Quadratic, proximal_gradient
from models.exact.driver.quasi_newton import Memory, orthant_step, pseudo_gradient
from models.exact.driver.scaled import Scaled
from models.exact.worker.tiles import Precision

Floats = npt.NDArray[np.float64]

# The optimum: the proximal gradient's largest entry, relative to that at the start where it is above 1, and the relative step.
GRADIENT = 1e-9
STEP = 1e-8
# From here on float32 no longer tells where to go.
COARSE_STEP = 1e-4
# A curvature that shrinks the step by less is taken anew.
CONTRACTION = 0.25
# A curvature saves about so many passes less than it costs.
WORTHWHILE = 3
# What rounding may add to an objective of order 1.
ROUNDING = {"float32": 1e-6, "float64": 1e-12}
# Relative curvature that is given to directions along which a multinomial likelihood is constant.
SHARED = 1e-3
HALVINGS = 25
NEWTON_PASSES = 60
PASSES = 1000
# Largest order of a curvature that is held and factorised.
NEWTON_ORDER = 2048


@dataclass(eq=False)
class Iterate:
    """One model on its way.

    Attributes:
        x: (K * d) where it is; value, gradient: objective, and gradient of its smooth part, there.
        trial: where the next pass looks.
        group: models of one group share the point of their curvatures.
        size: of the last proposed step relative to x, or, for BFGS, the proximal gradient.
        stale: whether another curvature would shrink the error faster; poor: how often one was taken for that.
        converged: None while it moves.
    """

    scaled: Scaled
    x: Floats
    group: object
    value: float = np.inf
    gradient: Floats = field(default_factory=lambda: np.zeros(0))
    trial: Floats = field(init=False)
    converged: bool | None = None
    reason: str = ""
    passes: int = 0
    size: float = np.inf
    stale: bool = True
    poor: int = 0
    quadratic: Quadratic | None = None
    memory: Memory | None = None
    _proposal: Floats = field(init=False)
    _length: float = 1.0
    _expected: float = 0.0
    _halvings: int = 0
    _steps: int = 0
    _rate: float = 1.0
    _satisfied: int = 0
    _scale: float = 1.0
    _rounding: float = 0.0

    def __post_init__(self) -> None:
        self.trial = self.x
        self._proposal = self.x
        if len(self.x) > NEWTON_ORDER:
            self.memory = Memory()

    @property
    def passes_left(self) -> float:
        """To the goal at the rate of the last step, if the curvature is stale; without a curvature, endless."""
        if not self.stale or self.retries:
            return 0.0
        if self._rate >= 1 or not 0 < self.size < np.inf:
            return np.inf
        return max(0.0, float(np.log(STEP / self.size) / np.log(self._rate)))

    @property
    def retries(self) -> bool:
        """Whether the last trial was no good, and the next one is said already."""
        return self._halvings > 0 or self._length == 0

    def receive(self, loss: float, raw_gradient: Floats, precision: Precision) -> None:
        """Go to the trial if the mean loss there makes it better, else halve the step; value and gradient are of where it is then."""
        l1, l2 = self.scaled.l1, self.scaled.l2
        value = loss + float(l2 @ self.trial**2) / 2 + float(l1 @ np.abs(self.trial))
        gradient = self.scaled.gradient(raw_gradient) + l2 * self.trial
        self.passes += 1
        first = self.passes == 1
        # Where it is may have been valued in float32 still.
        rounding = max(ROUNDING[precision], self._rounding) * max(1.0, abs(self.value))
        bound = self.value + 1e-4 * self._expected + rounding
        again = self._length == 0
        if not (first or again or value <= bound):
            if self._rounding > ROUNDING[precision]:
                # Sums in float32 of many equal terms may be further off than that: first look again at where it is.
                self._aim(0.0)
                return
            self._halvings += 1
            self._aim(self._length / 2)
            return
        if again:
            # The step from here is proposed once more: it is no longer for a poor curvature.
            self.size = np.inf
        if self.memory is not None and not (first or again):
            self.memory.add(self.trial - self.x, gradient - self.gradient)
        self.stale |= 0 < self._length < 1 and self.memory is None
        self.x, self.value, self.gradient = self.trial, value, gradient
        self._rounding = ROUNDING[precision]
        self._halvings, self._length = 0, 1.0
        self._steps += not again
        if first:
            self._scale = max(1.0, proximal_gradient(self.x, gradient, l1))

    def set_curvature(self, raw: Floats) -> None:
        """Take (K, K, Q + 1, Q + 1), of the mean loss, for the following steps."""
        curvature = self.scaled.curvature(raw)
        np.fill_diagonal(curvature, curvature.diagonal() + self.scaled.l2)
        if self.scaled.rows > 1:
            # Adding a number to all classes' intercepts, or to a feature's unpenalised coefficients, changes nothing: the curvature
            # is singular along it, and the gradient 0. Any curvature there does; a small one hampers a lasso least.
            width, rows = self.scaled.width, self.scaled.rows
            shared = np.kron(
                np.full((rows, rows), 1 / rows), np.diag(np.full(width, SHARED * np.mean(curvature.diagonal())))
            )
            curvature += shared
        self.quadratic = Quadratic(curvature)
        # Twice from the group's curvature to a poor step: the folds of this group lie too far apart.
        self.poor += self._steps > 0
        if self.poor > 1:
            self.group = self
        self.stale, self._steps, self._rate = False, 0, 1.0

    def propose(self, precision: Precision) -> None:
        """The next step of full length; whether the curvature is stale by what the step's size says."""
        if self.memory is not None:
            self.size = proximal_gradient(self.x, self.gradient, self.scaled.l1)
            pseudo = pseudo_gradient(self.x, self.gradient, self.scaled.l1)
            direction = self.memory.direction(pseudo)
            # Orthant-wise: a coordinate does not go against its own steepest descent.
            self._proposal = self.x + np.where((self.scaled.l1 > 0) & (direction * pseudo >= 0), 0.0, direction)
        else:
            if self.quadratic is None:
                return
            self._proposal = self.quadratic.minimum(self.x, self.gradient, self.scaled.l1)
            before, self.size = self.size, self._relative(self._proposal - self.x)
            settled = 1e-3 if precision == "float32" else 10 * STEP
            if self._steps > 0 and self.size > max(settled, CONTRACTION * before):
                self.stale = True
                # A model may have stood still, exactly where float32 puts its optimum.
                self._rate = self.size / before if before > 0 else np.inf
        self._aim(1.0)

    def judge(self, precision: Precision, separated: float, goal: float) -> None:
        """Decide whether the model is at its optimum, or will not get there.

        Args:
            separated: a mean loss that only a plane between the classes makes so small.
            goal: the relative step at which to stop, `STEP` or something rougher.
        """
        if self._halvings > HALVINGS or (self.memory is None and self.passes > NEWTON_PASSES):
            self._fall_back()
        elif self.passes > PASSES:
            self._stop(
                False,
                f"still moving after {self.passes} passes: the data determine the coefficients poorly; raise regParam",
            )
        elif self.retries:
            return
        elif self.scaled.penalty.reg_param == 0 and self.value < separated:
            self._stop(
                False,
                "a plane separates the classes: without a penalty the likelihood has no maximum; set regParam above 0",
            )
        elif goal > STEP:
            if self.size <= goal:
                self.x = self._proposal
                self._stop(True, "as near as a sample tells")
        elif precision == "float64":
            self._satisfied += self._gradient_is_small()
            # Three times: where the curvature is nearly singular, steps along what hardly matters never get small.
            if self._gradient_is_small() and (self.memory is not None or self.size <= STEP or self._satisfied > 2):
                if self.memory is None and self.size <= STEP:
                    self.x = self._proposal
                self._stop(True, "the gradient vanishes")

    def _gradient_is_small(self) -> bool:
        return proximal_gradient(self.x, self.gradient, self.scaled.l1) <= GRADIENT * self._scale

    def _aim(self, length: float) -> None:
        """Look next at this part of the proposed step."""
        self._length = length
        step = self._proposal - self.x
        if self.memory is not None:
            pseudo = pseudo_gradient(self.x, self.gradient, self.scaled.l1)
            self.trial = orthant_step(self.x, step, pseudo, self.scaled.l1, length)
            self._expected = min(0.0, float(pseudo @ (self.trial - self.x)))
        else:
            self.trial = self._proposal if length == 1 else self.x + length * step
            growth = float(self.scaled.l1 @ (np.abs(self._proposal) - np.abs(self.x)))
            self._expected = length * min(0.0, float(self.gradient @ step) + growth)

    def _relative(self, step: Floats) -> float:
        """The largest change of a coefficient relative to the largest coefficient, or of an intercept to 1 or itself."""
        varying = len(self.scaled.varying)
        changes = np.abs(step.reshape(self.scaled.rows, -1))
        sizes = np.abs(self.x.reshape(self.scaled.rows, -1))
        change = float(np.max(changes[:, :varying], initial=0.0))
        size = float(np.max(sizes[:, :varying], initial=0.0))
        intercept = np.max(changes[:, varying:] / np.maximum(1.0, sizes[:, varying:]), initial=0.0)
        return max(change / size if size > 0 else float(change > 0), float(intercept))

    def _fall_back(self) -> None:
        """From Newton to BFGS, from BFGS to giving up."""
        if self.memory is not None:
            gradient = proximal_gradient(self.x, self.gradient, self.scaled.l1)
            self._stop(
                gradient <= 1e-7 * self._scale, f"no step lowers the objective any more; the gradient is {gradient:.0e}"
            )
            return
        self.memory, self.stale, self._halvings = Memory(), False, 0
        self.propose("float64")

    def _stop(self, converged: bool, reason: str) -> None:
        self.converged, self.reason = converged, reason


def minimise(
    likelihood: Likelihood,
    models: Sequence[Iterate],
    *,
    separated: float,
    goal: float = STEP,
    on_pass: Callable[[int, int], None] | None = None,
) -> int:
    """Move all models to their optima; the number of passes that took.

    Args:
        separated, goal: as in `Iterate.judge`. A rough goal is reached in float32.
        on_pass: called after each pass with its number and how many models still move.
    """
    moving = [model for model in models if model.converged is None]
    precision: Precision = "float32"
    passes, size = 0, np.inf
    while moving:
        passes += 1
        weights = [model.scaled.weights(model.trial) for model in moving]
        losses, gradients = likelihood.evaluate(weights, [model.scaled.trains for model in moving], precision)
        for model, loss, gradient in zip(moving, losses, gradients, strict=True):
            model.receive(float(loss), gradient, precision)
            if not model.retries:
                model.propose(precision)
        _refresh(likelihood, moving)
        for model in moving:
            model.judge(precision, separated, goal)
        # Sizes of steps tell more than values: float32 has done its part when they are small, or do not fall any more.
        before, size = size, median(model.size for model in moving)
        if goal == STEP and (size < COARSE_STEP or size > before / 2 or any(model.retries for model in moving)):
            precision = "float64"
        moving = [model for model in moving if model.converged is None]
        if on_pass:
            on_pass(passes, len(moving))
    return passes


def _refresh(likelihood: Likelihood, moving: Sequence[Iterate]) -> None:
    """New curvatures for the groups of models whose own is stale, at the mean of each group's points, where they pay."""
    groups: dict[object, list[Iterate]] = defaultdict(list)
    for model in moving:
        if model.memory is None:
            groups[model.group].append(model)
    stale = [group for group in groups.values() if any(model.stale and not model.retries for model in group)]
    if not stale:
        return
    # In passes: each curvature is Q^2 operations a row in float32 and half of them by symmetry, a pass 4 Q a model in float64.
    cost = sum(len(group[0].scaled.weights(group[0].x)) for group in stale) / (10 * len(moving))
    if max(model.passes_left for group in stale for model in group) < WORTHWHILE + cost:
        return
    # Where float32 did not help, the curvature is nearly singular.
    twice_poor = any(model.poor > 2 for group in stale for model in group)
    points = [np.mean([model.scaled.weights(model.x) for model in group], axis=0) for group in stale]
    curvatures = likelihood.curvatures(points, "float64" if twice_poor else "float32")
    for group, curvature in zip(stale, curvatures, strict=True):
        for model in group:
            model.set_curvature(curvature.mean(model.scaled.trains))
            if not model.retries:
                model.propose("float64")
