"""Folds: which rows train and which validate, as native column filters; folds by hash; the canonical order of rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pyspark.ml.linalg import MatrixUDT, VectorUDT
from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, IntegralType, MapType

from transforms.errors import ModelError

ROWS_PER_PARTITION = 65_536


@dataclass(frozen=True)
class Folds:
    """A fold is a pair: the rows it trains on and the rows it validates on.

    `column` holds the fold that validates on the row, -1 for none. Scheme `others` (stock cross-validation) trains fold k on the
    rows of every other fold. Scheme `earlier` (time) trains it on the rows whose `train_from` is at most k (null: never);
    without `train_from`, on the rows of earlier folds.
    """

    count: int
    column: str
    scheme: Literal["others", "earlier"] = "others"
    train_from: str | None = None

    def trains(self, fold: int) -> Column:
        """Condition for the rows that `fold` trains on."""
        if self.scheme == "others":
            return F.col(self.column) != fold
        if self.train_from:
            return F.col(self.train_from) <= fold
        return F.col(self.column) < fold

    def validates(self, fold: int) -> Column:
        """Condition for the rows that `fold` validates on."""
        return F.col(self.column) == fold

    def in_training(self, cell: Row, fold: int) -> bool:
        """As `trains`, for a group of rows with the same `fold` and `train_from`."""
        if self.scheme == "others":
            return bool(cell["fold"] != fold)
        if self.train_from:
            return cell["train_from"] is not None and cell["train_from"] <= fold
        return bool(cell["fold"] < fold)

    def in_validation(self, cell: Row, fold: int) -> bool:
        """As `validates`, for a group of rows with the same `fold`."""
        return bool(cell["fold"] == fold)

    def check(self, frame: DataFrame, *, whole: bool = True) -> None:
        """One small aggregate over the fold columns.

        Args:
            whole: whether these are all rows, so that no part of a fold may be empty.

        Raises:
            ModelError: a fold number is out of range, a row would validate the fold that it trains, or a part of a fold is empty.
        """
        self.check_type(frame)
        cells = self._cells(frame)
        problems = self._wrong_numbers(frame, cells) or (self._empty_parts(cells) if whole else [])
        if problems:
            raise ModelError(problems)

    def check_type(self, frame: DataFrame) -> None:
        """Nothing is read.

        Raises:
            ModelError: the fold column holds no whole numbers.
        """
        if not isinstance(frame.schema[self.column].dataType, IntegralType):
            found = frame.schema[self.column].dataType.simpleString()
            raise ModelError(f"Column '{self.column}' is {found}; expected whole fold numbers: cast it to int.")

    def in_range(self) -> Column:
        """Condition for the rows whose fold number may be; null where it is null."""
        return F.col(self.column).between(-1, self.count - 1)

    def _cells(self, frame: DataFrame) -> list[Row]:
        fold = F.col(self.column)
        # All numbers out of range make one group, so that a wrong column does not bring its every value to the driver.
        group = F.when(self.in_range(), fold).alias("fold")
        train_from = F.col(self.train_from).cast("int") if self.train_from else F.lit(None).cast("int")
        return frame.select(group, train_from.alias("train_from")).distinct().collect()

    def _wrong_numbers(self, frame: DataFrame, cells: list[Row]) -> list[str]:
        if any(cell["fold"] is None for cell in cells):
            wrong = frame.filter(~F.coalesce(self.in_range(), F.lit(False)))
            example = wrong.agg(F.min(F.coalesce(F.col(self.column).cast("string"), F.lit("null")))).collect()[0][0]
            expected = f"[0, {self.count}), or -1 for a row that no fold validates"
            return [f"Fold number must be in range {expected}, but got {example} in column '{self.column}'."]
        if self.scheme == "earlier" and any(
            c["train_from"] is not None and c["train_from"] <= c["fold"] and c["fold"] >= 0 for c in cells
        ):
            return [
                f"Column '{self.train_from}' lets rows train the fold that they validate: it must be greater than '{self.column}'."
            ]
        return []

    def _empty_parts(self, cells: list[Row]) -> list[str]:
        problems = []
        for k in range(self.count):
            for part, belongs in (("training", self.in_training), ("validation", self.in_validation)):
                if not any(belongs(cell, k) for cell in cells):
                    problems.append(f"The {part} data at fold {k} is empty: use fewer folds, or data that fills them.")
        return problems


def with_hash_folds(dataset: DataFrame, *, count: int, seed: int, key: str, column: str) -> DataFrame:
    """Add `column`, a fold number in [0, count) that depends on the row and the seed, not on how rows are partitioned.

    With a `key` column, rows of one key share a fold. Without (`""`) the row's content decides. Where rows repeat so much that
    whole folds could come out empty, the ordinal among rows of equal content (interchangeable, so their order does not matter)
    spreads them; that takes a sort of all rows, which is left out where at least half of the rows are distinct by estimate.
    """
    if key:
        return dataset.withColumn(
            column, _fold_of(_hashable(key, dataset.schema[key].dataType), F.lit(seed), count=count)
        )
    content, names = column + "_content", dataset.columns
    hashed = dataset.withColumn(
        content, F.xxhash64(*(_hashable(field.name, field.dataType) for field in dataset.schema.fields))
    )
    if _mostly_distinct(hashed, content):
        numbered = _fold_of(F.col(content), F.lit(seed), count=count)
    else:
        equal = Window.partitionBy(content).orderBy(content).rowsBetween(Window.unboundedPreceding, Window.currentRow)
        numbered = _fold_of(F.col(content), F.row_number().over(equal), F.lit(seed), count=count)
    return hashed.select(*names, numbered.alias(column))


def _fold_of(*parts: Column, count: int) -> Column:
    return F.pmod(F.xxhash64(*parts), F.lit(count)).cast("int")


def _mostly_distinct(frame: DataFrame, content: str) -> bool:
    """By HyperLogLog, whose registers do not depend on the order or partitioning of rows."""
    row = frame.agg(F.approx_count_distinct(content).alias("distinct"), F.count(F.lit(1)).alias("rows")).first()
    assert row is not None
    return bool(2 * row["distinct"] >= row["rows"])


def canonical(frame: DataFrame, key: Iterable[str], rows: int) -> DataFrame:
    """The same rows in an order that their keys and number decide, never the cores: XGBoost and floating sums depend on it."""
    key = tuple(key)
    partitions = max(1, -(-rows // ROWS_PER_PARTITION))
    return frame.repartition(partitions, *key).sortWithinPartitions(*key)


def _hashable(name: str, kind: DataType) -> Column:
    """`xxhash64` refuses maps and tells a dense vector from an equal sparse one: hash entries, and vectors by non-zero ones."""
    column = F.col(f"`{name}`")
    if isinstance(kind, MapType):
        return F.array_sort(F.map_entries(column))
    if isinstance(kind, VectorUDT):
        vector = F.unwrap_udt(column)
        size = F.coalesce(vector["size"], F.size(vector["values"]))
        dense = F.sequence(F.lit(0), F.greatest(size - 1, F.lit(0)))
        entries = F.arrays_zip(F.coalesce(vector["indices"], dense).alias("at"), vector["values"].alias("value"))
        some = F.filter(entries, lambda entry: entry["value"] != 0.0)
        # A vector without zeros is its values: the filter, which costs ten times the hash, is for the others.
        full = (F.size(vector["values"]) == size) & ~F.array_contains(vector["values"], F.lit(0.0))
        return F.struct(F.when(full, vector["values"]).alias("full"), F.when(~full, F.struct(size, some)).alias("some"))
    if isinstance(kind, MatrixUDT):
        return F.unwrap_udt(column)
    return column
