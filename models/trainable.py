"""Data that no model can be trained on, refused before the first fit: every problem at once, each with its cure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from models.folds import Folds
from models.preprocessing import ASIDE, LABEL, is_missing
from transforms.errors import ModelError

_CURE_FOLDS = "Use fewer folds (split.folds.count), folds of kind stratified, or more data"


def check(
    frame: DataFrame,
    folds: Folds,
    *,
    classes: Sequence[str],
    numeric: Sequence[str],
    categorical: Sequence[str],
    imputes: bool,
    stops_early: bool = False,
) -> None:
    """Check the training part, by one aggregate over the groups of rows that belong to the same folds.

    Args:
        frame: raw features, `label` and the fold columns; rows of the training part.
        classes: names of the classes in the order of their indices; empty for a regression.
        imputes: whether some candidate fills missing numbers from a fold's training rows, and so needs one that is not missing.
        stops_early: whether rows that are ASIDE tell some candidate when to stop, and so must be among those that train.

    Raises:
        ModelError: no rows, too few classes or a constant label, an empty column, an empty part of a fold, no row aside or no other; all
            are listed.
    """
    cells = _cells(frame, folds, len(classes), numeric, categorical, stops_early)
    problems = _label_problems("the training part", cells, classes, "Check the label and split.test")
    if cells:
        problems += _empty_columns("the training part", cells, [*numeric, *categorical])
        problems += _not_told_to_stop("the training part", cells) if stops_early else []
    if not problems:
        for fold in range(folds.count):
            training, validation = _select(cells, folds.in_training, fold), _select(cells, folds.in_validation, fold)
            problems += _label_problems(f"the training rows of fold {fold}", training, classes, _CURE_FOLDS)
            problems += _label_problems(
                f"the validation rows of fold {fold}", validation, classes, _CURE_FOLDS, some=True
            )
            if training and imputes:
                problems += _empty_columns(f"the training rows of fold {fold}", training, numeric)
            if training and stops_early:
                problems += _not_told_to_stop(f"the training rows of fold {fold}", training)
    if problems:
        raise ModelError(problems)


def _cells(
    frame: DataFrame, folds: Folds, classes: int, numeric: Sequence[str], categorical: Sequence[str], stops_early: bool
) -> list[Row]:
    counted = [F.count_if(F.col(LABEL) == index).alias(f"class={index}") for index in range(classes)]
    present = [F.count_if(~is_missing(name)).alias(f"present={name}") for name in numeric]
    present += [F.count(name).alias(f"present={name}") for name in categorical]
    present += [F.count_if(ASIDE).alias(ASIDE)] if stops_early else []
    by = [F.col(folds.column).alias("fold")]
    by.append((F.col(folds.train_from) if folds.train_from else F.lit(None)).cast("int").alias("train_from"))
    low, high = F.min(LABEL).alias("low"), F.max(LABEL).alias("high")
    return frame.groupBy(*by).agg(F.count(F.lit(1)).alias("rows"), low, high, *counted, *present).collect()


def _select(cells: list[Row], belongs: Callable[[Row, int], bool], fold: int) -> list[Row]:
    return [cell for cell in cells if belongs(cell, fold)]


def _label_problems(
    where: str, cells: list[Row], classes: Sequence[str], cure: str, *, some: bool = False
) -> list[str]:
    """No rows, or labels that cannot be told apart. Validation rows (`some`) need two classes, training rows every class."""
    if not cells:
        return [f"train: expected rows in {where}, found none. {cure}."]
    rows = sum(cell["rows"] for cell in cells)
    if not classes:
        low, high = min(cell["low"] for cell in cells), max(cell["high"] for cell in cells)
        if low == high and (rows > 1 or not some):
            return [f"train: the label is {low:g} in all {rows} rows of {where}; expected different values. {cure}."]
        return []
    absent = [name for index, name in enumerate(classes) if not sum(cell[f"class={index}"] for cell in cells)]
    if not absent or (some and len(classes) - len(absent) > 1):
        return []
    return [f"train: expected rows of every class in {where} ({rows} rows), found none of {', '.join(absent)}. {cure}."]


def _not_told_to_stop(where: str, cells: list[Row]) -> list[str]:
    """Without a row aside boosting would end with its first tree."""
    rows, aside = sum(cell["rows"] for cell in cells), sum(cell[ASIDE] for cell in cells)
    if 0 < aside < rows:
        return []
    return [
        f"train: expected some of the rows in {where} ({rows} rows) set aside to tell boosted trees when to stop, found {aside}: one in ten is,"
        " by chance. Use more data, or remove early_stopping_rounds."
    ]


def _empty_columns(where: str, cells: list[Row], names: Sequence[str]) -> list[str]:
    empty = [name for name in names if not sum(cell[f"present={name}"] for cell in cells)]
    rows = sum(cell["rows"] for cell in cells)
    cure = "Remove it from features.numeric and features.categorical, or check the expression, join or window that makes it"
    return [f"train: column '{name}' has no value in {where} ({rows} rows). {cure}." for name in empty]
