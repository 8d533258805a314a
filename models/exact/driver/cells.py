"""Cells: rows with equal membership in folds. Sums are kept by cell; a training or validation part is a sum of cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyspark.sql import Column
from pyspark.sql import functions as F

from models.folds import Folds

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cells:
    """All cells that folds can make, whether rows have them or not.

    Attributes:
        column: the row's cell number, in [0, C); null where the fold number is out of range.
        trains: (K, C), whether fold k trains on the rows of cell c.
        validates: (K, C), whether fold k validates on them.
    """

    column: Column
    trains: Flags
    validates: Flags

    @property
    def count(self) -> int:
        return int(self.trains.shape[1])

    def are_folds(self, filled: Flags) -> bool:
        """Whether every fold has rows to train and others to validate, if the `filled` cells (C) are those with rows."""
        trains, validates = self.trains & filled, self.validates & filled
        return bool((trains.any(axis=1) & validates.any(axis=1)).all() and not (trains & validates).any())

    @classmethod
    def of(cls, folds: Folds) -> Cells:
        """For `others` a cell is a fold number or -1; for `earlier` it is that and the first fold that the row may train."""
        fold = np.arange(-1, folds.count)
        k = np.arange(folds.count)[:, None]
        number = F.when(folds.in_range(), F.col(folds.column)).cast("int") + 1
        if folds.scheme == "others":
            return cls(number, fold != k, fold == k)
        if folds.train_from is None:
            return cls(number, fold < k, fold == k)
        # First fold 0 to K-1, and K for never.
        first = F.coalesce(F.col(folds.train_from).cast("int"), F.lit(folds.count))
        first = F.greatest(F.lit(0), F.least(F.lit(folds.count), first))
        each_fold, each_first = (grid.ravel() for grid in np.meshgrid(fold, np.arange(folds.count + 1), indexing="ij"))
        return cls(number * (folds.count + 1) + first, each_first <= k, each_fold == k)
