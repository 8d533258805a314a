"""A logistic problem in scaled coordinates, where every feature has unit variance: what the solvers of this package see.

theta (K, d) holds, for each of K rows of coefficients, u_j = std_j beta_j for the features that vary and then the intercept, if
there is one. That intercept is the raw design's: beta's is less by offset' beta. MLlib's penalty (its LogisticRegression.scala)
is regParam times (elasticNetParam |u_j| + (1 - elasticNetParam) / 2 u_j^2), with beta_j in place of u_j without standardization.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.exact.driver.affine import Affine
from models.exact.driver.penalty import Penalty

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scaled:
    """The coordinates of one problem.

    Attributes:
        trains: (C), the cells whose rows train.
        std: (p), features' unbiased standard deviations over those rows; where it is 0, the coefficient is 0.
        rows: K, rows of coefficients: 1 for binomial models, the classes of multinomial ones.
    """

    trains: Flags
    penalty: Penalty
    design: Affine
    std: Floats
    rows: int
    varying: npt.NDArray[np.intp] = field(init=False)
    l1: Floats = field(init=False)
    l2: Floats = field(init=False)

    def __post_init__(self) -> None:
        varying = np.flatnonzero(self.std > 0)
        std = self.std[varying]
        standardised = self.penalty.standardization
        free = np.zeros(int(self.penalty.fit_intercept))
        l1 = self.penalty.l1 * (np.ones_like(std) if standardised else 1 / std)
        l2 = self.penalty.l2 * (np.ones_like(std) if standardised else 1 / std**2)
        object.__setattr__(self, "varying", varying)
        object.__setattr__(self, "l1", np.tile(np.append(l1, free), self.rows))
        object.__setattr__(self, "l2", np.tile(np.append(l2, free), self.rows))

    @property
    def width(self) -> int:
        """d."""
        return len(self.varying) + int(self.penalty.fit_intercept)

    def weights(self, theta: Floats) -> Floats:
        """Weights (Q + 1, K) of [raw design, 1] that give the margins of theta (K * d)."""
        coefficients, intercepts = self._unscaled(theta)
        raw = self.design.raw(coefficients)
        return np.vstack([raw, intercepts])

    def gradient(self, raw: Floats) -> Floats:
        """By the chain rule: the gradient (K * d) by theta from that by `weights`, (Q + 1, K)."""
        return self._pulled_back(raw).T.ravel()

    def curvature(self, raw: Floats) -> Floats:
        """The second derivatives (K * d, K * d) by theta from those by `weights`, (K, K, Q + 1, Q + 1)."""
        blocks = [[self._pulled_back(self._pulled_back(block).T).T for block in row] for row in raw]
        return np.block(blocks)

    def solution(self, theta: Floats) -> tuple[Floats, Floats]:
        """Coefficients (K, p) and intercepts (K) of the features."""
        coefficients, intercepts = self._unscaled(theta)
        if not self.penalty.fit_intercept:
            return coefficients.T, np.zeros(self.rows)
        return coefficients.T, intercepts - self._at_zero(coefficients)

    def theta(self, coefficients: Floats, intercepts: Floats) -> Floats:
        """The reverse of `solution`."""
        columns = coefficients[:, self.varying] * self.std[self.varying]
        if self.penalty.fit_intercept:
            columns = np.column_stack([columns, intercepts + self._at_zero(coefficients.T)])
        return columns.ravel()

    def _unscaled(self, theta: Floats) -> tuple[Floats, Floats]:
        """Coefficients (p, K), and margins (K) of a row whose raw design is zero."""
        columns = theta.reshape(self.rows, self.width)
        coefficients = np.zeros((len(self.std), self.rows))
        coefficients[self.varying] = (columns[:, : len(self.varying)] / self.std[self.varying]).T
        return coefficients, columns[:, -1] if self.penalty.fit_intercept else self._at_zero(coefficients)

    def _at_zero(self, coefficients: Floats) -> Floats:
        """offset' beta: (K) from (p, K)."""
        return np.zeros(coefficients.shape[1]) if self.design.offset is None else self.design.offset @ coefficients

    def _pulled_back(self, raw: Floats) -> Floats:
        """The transpose of `weights`: (d, m) from (Q + 1, m)."""
        by_feature = self.design.transposed(raw[:-1])
        if not self.penalty.fit_intercept and self.design.offset is not None:
            by_feature = by_feature + self.design.offset[:, None] * raw[-1]
        scaled = by_feature[self.varying] / self.std[self.varying, None]
        return np.vstack([scaled, raw[-1:]]) if self.penalty.fit_intercept else scaled
