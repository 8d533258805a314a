"""What an exact solver found for one grid point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Solution:
    """A model in numbers.

    Attributes:
        coefficients: (K, p), of the features; K rows: 1, or a row a class for multinomial models.
        intercepts: (K).
        value: the metric on the fold's validation rows; None for a model of all rows.
        classes: of a classifier; 0 for a regression.
        multinomial: whether there is a row of coefficients for each class.
        inverse_diagonal: what the standard errors of a linear model of all rows come from, see `linear_regression.inverse_diagonal`.
        objective: what the solver of a classifier made least.
    """

    coefficients: npt.NDArray[np.float64]
    intercepts: npt.NDArray[np.float64]
    value: float | None
    classes: int = 0
    multinomial: bool = False
    inverse_diagonal: npt.NDArray[np.float64] | None = None
    objective: float | None = None
