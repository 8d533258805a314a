"""Statistics of rows: what cross-validated linear regression needs to know of all rows ever seen, kept between fits.

Moments of two sets of rows make those of their union (`moments`), so that a fit after new rows costs a pass over these alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from models.exact.driver.moments import Moments
from models.exact.driver.passes import Reply
from transforms.errors import ModelError


@dataclass(frozen=True)
class Statistics:
    """Moments of rows by cell of the folds. `+` of two is that of all their rows; a row in both counts twice.

    Attributes:
        by_cell: moments by cell number, None for a cell without rows.
        definition: the columns and folds that they are of; only equal ones can be added.
    """

    by_cell: Sequence[Moments | None]
    definition: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Rows of positive weight."""
        return sum(each.count for each in self.by_cell if each)

    def __add__(self, other: Statistics) -> Statistics:
        """Of the rows of both.

        Raises:
            ModelError: columns or folds differ.
        """
        self.require(other.definition)
        return Statistics([_union(*cell) for cell in zip(self.by_cell, other.by_cell, strict=True)], self.definition)

    def require(self, definition: Mapping[str, Any]) -> None:
        """Refuse another definition.

        Raises:
            ModelError: names all that differs.
        """
        problems = [
            f"Statistics of rows differ in {name}: {self.definition.get(name)!r} and {definition.get(name)!r}; expected the same"
            " columns and folds."
            for name in sorted({*self.definition, *definition})
            if self.definition.get(name) != definition.get(name)
        ]
        if problems:
            raise ModelError(problems)

    def save(self, path: str) -> None:
        """Write them as Parquet, a row for each cell that has rows, in place of what is there."""
        about = {"cells": len(self.by_cell), "definition": json.dumps(dict(self.definition), sort_keys=True)}
        records = [
            {
                "cell": cell,
                **about,
                **{name: np.ravel(value).tolist() if np.ndim(value) else value for name, value in _numbers(each)},
            }
            for cell, each in enumerate(self.by_cell)
            if each
        ]
        frame = SparkSession.active().createDataFrame(pa.Table.from_pylist(records))
        frame.coalesce(1).write.mode("overwrite").parquet(path)

    @classmethod
    def load(cls, path: str) -> Statistics:
        """What `save` wrote."""
        records = SparkSession.active().read.parquet(path).toArrow().to_pylist()
        by_cell: list[Moments | None] = [None] * records[0]["cells"]
        for record in records:
            width = len(record["mean"])
            arrays = {name: np.array(value) for name, value in record.items() if isinstance(value, list)}
            values = record | arrays | {"comoment": arrays["comoment"].reshape(width, width)}
            by_cell[record["cell"]] = Moments(**{each.name: values[each.name] for each in fields(Moments)})
        return cls(by_cell, json.loads(records[0]["definition"]))


class SeenRows:
    """Passes over rows that are not there any more: their moments are all that can be asked for."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def run(self, kernel: str, request: Mapping[str, Any]) -> list[Reply]:
        """As `Passes.run`.

        Raises:
            ModelError: the kernel needs the rows themselves.
        """
        if kernel != "moments":
            raise ModelError(
                "Statistics do not tell the errors of single rows, which the metric needs here (mae always; others where a model leaves"
                " next to no error): fit all rows, or choose rmse, mse, r2 or var."
            )
        return [
            {"cell": np.array([cell])} | {name: np.asarray([value]) for name, value in _numbers(each)}
            for cell, each in enumerate(self._statistics.by_cell)
            if each
        ]

    def close(self) -> None:
        """Nothing waits."""


def _numbers(moments: Moments) -> list[tuple[str, Any]]:
    return [(each.name, getattr(moments, each.name)) for each in fields(Moments)]


def _union(one: Moments | None, other: Moments | None) -> Moments | None:
    return one.merge(other) if one and other else one or other
