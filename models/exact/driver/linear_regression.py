"""MLlib's LinearRegression with squared error from moments: every penalty of one fold at once, to rounding.

The problem is that of MLlib's `WeightedLeastSquares` (solver `normal`) and of its `l-bfgs`, which differ in the standard deviation
they scale with. With W the sum of weights, s_j and s_y standard deviations about the mean (also without an intercept), z_j = x_j / s_j:

    minimise 1/(2W) sum w (y/s_y - z'u)^2 + (regParam/s_y) [ alpha sum_j q_j |u_j| + (1 - alpha)/2 sum_j (q_j u_j)^2 ]

about the means with an intercept, about 0 without; q_j = 1 with `standardization`, else 1/s_j; beta_j = s_y u_j / s_j. Note the
1/s_y in the penalty, which glmnet has as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
from scipy import linalg

from models.exact.driver import coordinate_descent
from models.exact.driver.moments import Moments
from models.exact.driver.penalty import Penalty
from transforms.errors import ModelError

Doubles = npt.NDArray[np.float64]

# MLlib's limit for `solver="auto"`: more features than these go to l-bfgs.
MAX_NORMAL_FEATURES = 4096

# A Gram matrix whose reciprocal condition is below this has directions that are rounding, and no more.
SINGULAR = 1e-12

logger = logging.getLogger(__name__)


def fit(moments: Moments, penalties: Sequence[Penalty], *, unbiased_std: bool = False) -> tuple[Doubles, Doubles]:
    """The models that `LinearRegression(loss="squaredError")` converges to on the rows of `moments`.

    A constant column gets the coefficient 0, also without an intercept. Where columns are collinear and nothing is penalised, the
    coefficients are those of least length in the scaled space, which L-BFGS from 0 finds too; a line in the log says so.

    Args:
        moments: of the training rows, p features and the label.
        penalties: M models.
        unbiased_std: scale as solver `l-bfgs` does; else as `normal`, and `auto` with up to `MAX_NORMAL_FEATURES`.

    Returns:
        Coefficients (M, p) and intercepts (M).

    Raises:
        ModelError: the label is a constant other than 0, and a model without intercept is penalised.
    """
    p = len(moments.mean) - 1
    coefficients, intercepts = np.zeros((len(penalties), p)), np.zeros(len(penalties))
    numbered = sorted(enumerate(penalties), key=lambda each: each[1].fit_intercept)
    for intercept, group in groupby(numbered, key=lambda each: each[1].fit_intercept):
        rows, alike = zip(*group, strict=True)
        at = list(rows)
        coefficients[at] = _coefficients(moments, alike, intercept, moments.std(unbiased=unbiased_std))
        if intercept:
            intercepts[at] = moments.mean[p] - coefficients[at] @ moments.mean[:p]
    return coefficients, intercepts


def inverse_diagonal(moments: Moments, penalty: Penalty) -> Doubles | None:
    """Diagonal of (A'WA + penalty)^-1, which the standard errors of a model come from: A the features, and last a column of ones.

    As MLlib's `WeightedLeastSquares` has it: of the scaled problem (see above) with its penalty, in the scale of the features. With M the
    scaled Gram matrix about the means, and m the scaled means, the inverse with an intercept has the blocks M^-1 and 1 + m'M^-1 m.

    Returns:
        (p), or (p + 1) with an intercept. None where MLlib has none: a penalty on absolute values, a label or features that determine
        nothing.
    """
    p = len(moments.mean) - 1
    std = moments.std(unbiased=False)
    scale, label_std = std[:p], float(std[p])
    if penalty.l1 > 0 or label_std == 0 or not (scale > 0).all():
        return None
    products = moments.comoment[:p, :p] / moments.weight
    if not penalty.fit_intercept:
        products = products + np.outer(moments.mean[:p], moments.mean[:p])
    q = 1.0 if penalty.standardization else 1 / scale
    matrix = products / np.outer(scale, scale) + np.diag(np.full(p, penalty.l2 / label_std) * q**2)
    factor, info = linalg.lapack.dpotrf(matrix)
    if info != 0:
        return None
    # M = U'U, hence M^-1 = V V' with V = U^-1: of that product the diagonal is enough.
    root, _ = linalg.lapack.dtrtri(factor)
    diagonal = (root**2).sum(axis=1) / scale**2
    if penalty.fit_intercept:
        diagonal = np.append(diagonal, 1 + (((moments.mean[:p] / scale) @ root) ** 2).sum())
    return np.asarray(diagonal / moments.weight)


def _coefficients(moments: Moments, penalties: Sequence[Penalty], intercept: bool, std: Doubles) -> Doubles:
    """(M, p) for penalties that all have an intercept or all none."""
    p = len(std) - 1
    coefficients = np.zeros((len(penalties), p))
    label_std, label_mean = float(std[p]), float(moments.mean[p])
    if label_std == 0:
        if intercept or label_mean == 0:
            return coefficients
        if any(penalty.reg_param > 0 for penalty in penalties):
            raise ModelError(
                f"LinearRegression: the label is {label_mean} in every training row, and a model without intercept cannot be "
                "regularised then: set regParam to 0, or fitIntercept to true."
            )
        label_std = abs(label_mean)
    products = moments.comoment / moments.weight
    if not intercept:
        products = products + np.outer(moments.mean, moments.mean)
    varies = np.flatnonzero(std[:p] > 0)
    scale = std[varies]
    gram = products[np.ix_(varies, varies)] / np.outer(scale, scale)
    linear = products[varies, p] / (scale * label_std)
    # (features, models): 1/s_j where the penalty is on the features as they are.
    q = np.where([penalty.standardization for penalty in penalties], 1.0, 1 / scale[:, None])
    l1 = q * np.array([penalty.l1 / label_std for penalty in penalties])
    l2 = q**2 * np.array([penalty.l2 / label_std for penalty in penalties])
    lasso = np.array([penalty.l1 > 0 for penalty in penalties])
    scaled = np.zeros((len(varies), len(penalties)))
    if lasso.any():
        scaled[:, lasso] = coordinate_descent.solve(gram, linear, l1[:, lasso], l2[:, lasso])
    for m in np.flatnonzero(~lasso):
        scaled[:, m] = _ridge(gram, linear, l2[:, m])
    coefficients[:, varies] = (label_std * scaled / scale[:, None]).T
    return coefficients


def _ridge(gram: Doubles, linear: Doubles, l2: Doubles) -> Doubles:
    """Solution of (G + diag(l2)) u = c, of least length if there are many."""
    matrix = gram + np.diag(l2)
    factor, info = linalg.lapack.dpotrf(matrix)
    if info == 0:
        norm = float(np.abs(matrix).sum(axis=0).max(initial=0.0))
        reciprocal, _ = linalg.lapack.dpocon(factor, norm)
        if len(l2) == 0 or reciprocal > SINGULAR:
            return np.asarray(linalg.cho_solve((factor, False), linear))
    values, vectors = linalg.eigh(matrix)
    kept = values > SINGULAR * values[-1]
    logger.warning("linear regression has collinear features rank=%d of=%d", int(kept.sum()), len(values))
    return np.asarray(vectors[:, kept] @ ((vectors[:, kept].T @ linear) / values[kept]))
