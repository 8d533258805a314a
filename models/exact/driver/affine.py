"""What feature stages do to a row, where that is an affine map of the raw design: features = raw design @ matrix + offset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """features (p) = raw design (Q) @ matrix + offset. Compared by identity: models of one fold share the object.

    Attributes:
        matrix: (Q, p), or (Q) for a diagonal one, or None for the identity.
        offset: (p), or None for zeros.
    """

    matrix: Floats | None = None
    offset: Floats | None = None

    def of_centred(self, shift: Floats, scale: Floats) -> Affine:
        """The same features from the raw design that workers hold as (raw - shift) / scale; both (Q)."""
        matrix = np.ones(len(scale)) if self.matrix is None else self.matrix
        moved = shift * matrix if matrix.ndim == 1 else shift @ matrix
        scaled = scale * matrix if matrix.ndim == 1 else scale[:, None] * matrix
        return Affine(scaled, moved if self.offset is None else moved + self.offset)

    def raw(self, coefficients: Floats) -> Floats:
        """Weights (Q, K) of the raw design that give features @ coefficients (p, K), up to a constant."""
        if self.matrix is None:
            return coefficients
        return self.matrix[:, None] * coefficients if self.matrix.ndim == 1 else self.matrix @ coefficients

    def transposed(self, raw: Floats) -> Floats:
        """matrix' @ raw: (p, K) from (Q, K), what the chain rule makes of a gradient by raw weights."""
        if self.matrix is None:
            return raw
        return self.matrix[:, None] * raw if self.matrix.ndim == 1 else self.matrix.T @ raw

    def weights(self, coefficients: Floats, intercepts: Floats) -> Floats:
        """Weights (Q + 1, K) of [raw design, 1] that give a model's margins: coefficients (K, p), intercepts (K) of the features."""
        at_zero = intercepts if self.offset is None else intercepts + coefficients @ self.offset
        return np.vstack([self.raw(coefficients.T), at_zero])
