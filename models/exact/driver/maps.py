"""From the raw design to the features of each grid point, fold by fold."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.exact.driver import moments
from models.exact.driver.affine import Affine
from models.exact.driver.cells import Cells, Flags
from models.exact.driver.moments import Moments
from models.exact.driver.passes import Passes
from models.exact.driver.raw_design import RawDesign
from models.exact.driver.stages import Part, Recipe, Surrogates

IDENTITY = Affine()


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of one search; without recipes, workers hold the features themselves.

    Attributes:
        recipes: one for each grid point; points of equal feature stages share the object.
        surrogates: what stock imputers learned in each fold, None for all rows.
    """

    cells: Cells
    raw: RawDesign | None = None
    recipes: Sequence[Recipe] = ()
    surrogates: Mapping[int | None, Surrogates] = field(default_factory=dict)
    _made: dict[Hashable, Affine] = field(default_factory=dict, init=False)

    @property
    def onehot(self) -> int:
        """How many columns of the raw design, the last ones, are levels of texts."""
        return 0 if self.raw is None else sum(len(levels) for levels in self.raw.levels.values())

    def plain(self, passes: Passes, by_cell: list[Moments | None], *, weighted: bool) -> list[Moments | None]:
        """`by_cell` with every row counted once: what feature stages, which know no weights, learn from."""
        return moments.of_passes(passes, self.cells.count, weighted=False) if self.recipes and weighted else by_cell

    def setting(self, point: int) -> Hashable:
        """Equal for grid points whose features are the same."""
        return id(self.recipes[point]) if self.recipes else None

    def trains(self, fold: int | None) -> Flags:
        """(C), the cells whose rows train in a fold, or all of them."""
        return np.ones(self.cells.count, dtype=bool) if fold is None else self.cells.trains[fold]

    def of(self, point: int, fold: int | None, by_cell: Sequence[Moments | None]) -> Affine:
        """The map of a grid point in a fold, or on all rows: one object for all who share it.

        Args:
            by_cell: moments of the raw design, not weighted.

        Raises:
            ModelError: a stage cannot be fitted on these rows.
        """
        if self.raw is None or not self.recipes:
            return IDENTITY
        key = self.setting(point), fold
        if key not in self._made:
            validated = None if fold is None else moments.total(by_cell, self.cells.validates[fold])
            part = Part(moments.total(by_cell, self.trains(fold)), validated, self.surrogates.get(fold, {}))
            self._made[key] = self.recipes[point].affine(self.raw, part)
        return self._made[key]
