"""Slices of the rows by the values of a column, numbered so that one pass measures them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

MOST_VALUES = 100
MISSING = "(none)"
OTHERS = "(others)"


@dataclass(frozen=True)
class Slicing:
    """One way to cut the rows; `column` is empty for no cut at all. A row's code is the index of its value in `values`."""

    column: str
    values: tuple[str, ...]

    @property
    def code(self) -> Column:
        """The code of each row: an int, never null."""
        if not self.column:
            return F.lit(0)
        named = [value for value in self.values if value not in (MISSING, OTHERS)]
        codes = {value: self.values.index(value) for value in named}
        text = F.col(self.column).cast("string")
        known = F.lit(None).cast("int")
        if codes:
            pairs = [F.lit(item) for pair in codes.items() for item in pair]
            known = F.try_element_at(F.create_map(*pairs), text)
        missing = F.when(text.isNull(), F.lit(self.values.index(MISSING))) if MISSING in self.values else F.lit(None)
        other = F.lit(self.values.index(OTHERS)) if OTHERS in self.values else F.lit(None)
        return F.coalesce(missing, known, other).cast("int")


WHOLE = Slicing("", ("",))


def slicings(rows: DataFrame, columns: Sequence[str]) -> list[Slicing]:
    """All rows, then one slicing per column by its value as text.

    The `MOST_VALUES` values with the most rows (of equally many the first by name) are slices of their own, the remaining ones
    are measured together as "(others)", and rows without a value as "(none)".
    """
    return [WHOLE, *(_slicing(rows, column) for column in columns)]


def _slicing(rows: DataFrame, column: str) -> Slicing:
    counts = rows.groupBy(F.col(column).cast("string").alias("value")).agg(F.count("*").alias("rows"))
    most = (
        counts.orderBy(F.col("value").isNull().desc(), F.col("rows").desc(), "value").limit(MOST_VALUES + 2).collect()
    )
    named = [row["value"] for row in most if row["value"] is not None]
    values = sorted(named[:MOST_VALUES])
    if len(named) > MOST_VALUES:
        values.append(OTHERS)
    if len(named) < len(most):
        values.append(MISSING)
    return Slicing(column, tuple(values))
