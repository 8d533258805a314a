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

from models.exact.driver.moments import Moments, union
from models.exact.driver.passes import Reply
from transforms.errors import ModelError


@dataclass(frozen=True)
class Statistics:
    """Moments of rows by cell of the folds. `+` of two is that of all their rows; a row in both counts twice.

    Attributes:
        by_cell: moments by cell number, None for a cell without rows.
        definition: the columns, feature stages and folds that they are of; only equal ones can be added.
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
        return Statistics([union(*cell) for cell in zip(self.by_cell, other.by_cell, strict=True)], self.definition)

    def require(self, definition: Mapping[str, Any]) -> None:
        """Refuse another definition.

        Raises:
            ModelError: names all that differs.
        """
        problems = [
            f"Statistics of rows differ in {name}: {self.definition.get(name)!r} and {definition.get(name)!r}; expected the same"
            " columns, feature stages and folds."
            for name in sorted({*self.definition, *definition})
            if self.definition.get(name) != definition.get(name)
        ]
        if problems:
            raise ModelError(problems)

    def save(self, path: str) -> None:
        """Write them as Parquet, a row for each cell that has rows, in place of what is there."""
        kept = [(cell, each) for cell, each in enumerate(self.by_cell) if each]
        columns: dict[str, Any] = {
            "cells": pa.array([len(self.by_cell)] * len(kept)),
            "definition": pa.array([json.dumps(dict(self.definition), sort_keys=True)] * len(kept)),
            "cell": pa.array([cell for cell, _ in kept]),
        }
        for field in fields(Moments):
            values = [getattr(each, field.name) for _, each in kept]
            columns[field.name] = pa.array([np.ravel(value) if np.ndim(value) else value for value in values])
        frame = SparkSession.active().createDataFrame(pa.table(columns))
        frame.coalesce(1).write.mode("overwrite").parquet(path)

    @classmethod
    def load(cls, path: str) -> Statistics:
        """What `save` wrote."""
        table = SparkSession.active().read.parquet(path).toArrow().combine_chunks()
        by_cell: list[Moments | None] = [None] * table["cells"][0].as_py()
        for row, cell in enumerate(table["cell"].to_pylist()):
            values = {
                field.name: table[field.name][row].values.to_numpy()
                if pa.types.is_list(table[field.name].type)
                else table[field.name][row].as_py()
                for field in fields(Moments)
            }
            width = len(values["mean"])
            by_cell[cell] = Moments(**{**values, "comoment": values["comoment"].reshape(width, width)})
        return cls(by_cell, json.loads(table["definition"][0].as_py()))


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
                "Statistics do not tell the errors of single rows, which the metric needs where a model leaves next to none: fit all rows."
            )
        return [
            {"cell": np.array([cell])}
            | {field.name: np.asarray([getattr(each, field.name)]) for field in fields(Moments)}
            for cell, each in enumerate(self._statistics.by_cell)
            if each
        ]

    def close(self) -> None:
        """Nothing waits."""
