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
    """One way to cut the rows, by the value of `column` as text; empty for no cut at all.

    Attributes:
        named: the values that are slices of their own.
        others: whether there are rows with another value.
        missing: whether there are rows without one.
    """

    column: str
    named: tuple[str, ...] = ()
    others: bool = False
    missing: bool = False

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the slices; a row's code is the index of its slice in them."""
        if not self.column:
            return ("",)
        return self.named + (OTHERS,) * self.others + (MISSING,) * self.missing

    @property
    def code(self) -> Column:
        """The code of each row: an int, never null."""
        if not self.column:
            return F.lit(0)
        text, other, missing = _text(self.column), F.lit(len(self.named)), F.lit(len(self.values) - 1)
        if not self.named:
            return F.when(text.isNull(), missing).otherwise(other)
        pairs = [F.lit(item) for code, value in enumerate(self.named) for item in (value, code)]
        known = F.try_element_at(F.create_map(*pairs), text)
        return F.when(text.isNull(), missing).otherwise(F.coalesce(known, other))


WHOLE = Slicing("")


def slicings(rows: DataFrame, columns: Sequence[str]) -> list[Slicing]:
    """All rows, then one slicing per column.

    The `MOST_VALUES` values with the most rows (of equally many the first by name) are slices of their own, the remaining ones
    are measured together as "(others)", and rows without a value as "(none)".
    """
    return [WHOLE, *(_slicing(rows, column) for column in columns)]


def _slicing(rows: DataFrame, column: str) -> Slicing:
    counts = rows.groupBy(_text(column).alias("value")).agg(F.count("*").alias("rows"))
    order = (F.col("value").isNull().desc(), F.col("rows").desc(), "value")
    found = [row["value"] for row in counts.orderBy(*order).limit(MOST_VALUES + 2).collect()]
    named = [value for value in found if value not in (None, OTHERS)]
    others = len(named) > MOST_VALUES or OTHERS in found
    return Slicing(column, tuple(sorted(named[:MOST_VALUES])), others, None in found)


def _text(column: str) -> Column:
    """The value as text; a text that is our own name for a missing one counts as missing."""
    return F.nullif(F.col(column).cast("string"), F.lit(MISSING))
