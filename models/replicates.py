"""Bootstrap replicates without copies of rows: in replicate b a row counts as often as a Poisson(1) number drawn from its key says.

The Poisson bootstrap (Chamandy, Muralidharan, Najmi and Naidu, "Estimating uncertainty for massive data streams", 2012) draws each
row's count on its own, so every worker finds the weights of its rows by itself and they never depend on partitioning. Two models
measured on the same rows get the same weights. Replicate 0 is the data itself, every weight 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pyspark.sql import Column
from pyspark.sql import functions as F

Doubles = npt.NDArray[np.float64]

LEVEL = 0.95
_SALT = "bootstrap"


def _thresholds() -> npt.NDArray[np.uint64]:
    """`P(X <= k) * 2**64` for X of Poisson(1), as long as that fits in 64 bits: a hash at or above k + 1 of them draws k + 1."""
    bounds, cumulative, term = [], 0.0, math.exp(-1)
    for k in range(1, 40):
        cumulative += term
        term /= k
        if cumulative >= 1.0:
            break
        bounds.append(int(cumulative * 2**64))
    return np.array(bounds, np.uint64)


_BOUNDS = _thresholds()


def row_hash(key: Sequence[str]) -> Column:
    """64 bits per row from the columns that make it unique: the seed of its weights."""
    return F.xxhash64(F.lit(_SALT), *(F.col(name) for name in key))


def weights(rows: npt.NDArray[np.int64], first: int, count: int) -> Doubles:
    """Weights of replicates `first` to `first + count - 1`, shape (rows, count).

    The hash of (row, replicate b) is the b-th output of the SplitMix64 generator that starts at the row's hash (Steele, Lea and
    Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    replicate = np.arange(first, first + count, dtype=np.uint64)
    mixed = rows.astype(np.uint64)[:, None] + replicate * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    drawn: Doubles = np.searchsorted(_BOUNDS, mixed, side="right").astype(np.float64)
    drawn[:, replicate == 0] = 1.0
    return drawn


def interval(values: Doubles) -> tuple[float | None, float | None]:
    """The middle 95 % of the replicates (entry 0, the data itself, left out), linear between neighbours.

    Replicates in which the metric is not defined (NaN) are left out; with less than half of them left there is no interval.
    """
    drawn = values[1:]
    defined = drawn[np.isfinite(drawn)]
    if len(defined) == 0 or 2 * len(defined) < len(drawn):
        return None, None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
