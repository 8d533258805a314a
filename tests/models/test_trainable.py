"""Degenerate data: every problem at once, each with its cure."""

from __future__ import annotations

from functools import partial

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from models import preprocessing, trainable
from models.folds import Folds
from transforms.errors import ModelError

NAN = float("nan")
FOLDS = "Use fewer folds (split.folds.count), folds of kind stratified, or more data."
COLUMN = (
    "Remove it from features.numeric and features.categorical, or check the expression, join or window that makes it."
)
# fold, label, size, kind
Row = tuple[int, float, float | None, str | None]
GOOD: list[Row] = [(fold, label, 1.0, "a") for fold in (0, 1) for label in (0.0, 1.0)] * 2


def frame(spark: SparkSession, rows: list[Row]) -> DataFrame:
    return spark.createDataFrame(rows, "fold int, label double, size double, kind string").repartition(2)


def problems(frame: DataFrame, classes: tuple[str, ...] = ("no", "yes"), imputes: bool = True) -> tuple[str, ...]:
    """What is found wrong."""
    with pytest.raises(ModelError) as caught:
        trainable.check(
            frame, Folds(2, "fold"), classes=classes, numeric=["size"], categorical=["kind"], imputes=imputes
        )
    return caught.value.problems


@pytest.mark.quick
def test_good_rows_pass(spark: SparkSession) -> None:
    """Two classes and some values everywhere."""
    trainable.check(
        frame(spark, GOOD),
        Folds(2, "fold"),
        classes=("no", "yes"),
        numeric=["size"],
        categorical=["kind"],
        imputes=True,
    )


def test_no_rows(spark: SparkSession) -> None:
    """One sentence, not one for each fold."""
    assert problems(frame(spark, [])) == (
        "train: expected rows in the training part, found none. Check the label and split.test.",
    )


def test_one_class_and_empty_columns(spark: SparkSession) -> None:
    """NaN is no value."""
    rows: list[Row] = [(fold, 1.0, NAN, None) for fold in (0, 1)]
    assert problems(frame(spark, rows)) == (
        "train: expected rows of every class in the training part (2 rows), found none of no. Check the label and split.test.",
        f"train: column 'size' has no value in the training part (2 rows). {COLUMN}",
        f"train: column 'kind' has no value in the training part (2 rows). {COLUMN}",
    )


def test_one_class_in_a_fold(spark: SparkSession) -> None:
    """Fold 1 validates on one class; so fold 0 trains on one."""
    rows: list[Row] = [(0, 0.0, 1.0, "a"), (0, 1.0, 1.0, "a"), (1, 1.0, 1.0, "a")]
    assert problems(frame(spark, rows)) == (
        f"train: expected rows of every class in the training rows of fold 0 (1 rows), found none of no. {FOLDS}",
        f"train: expected rows of every class in the validation rows of fold 1 (1 rows), found none of no. {FOLDS}",
    )


def test_a_column_empty_in_a_fold_matters_to_imputation_only(spark: SparkSession) -> None:
    """Boosted trees take missing values as they are."""
    rows: list[Row] = [(fold, label, 1.0 if fold else None, "a") for fold, label, _, _ in GOOD]
    assert problems(frame(spark, rows)) == (
        f"train: column 'size' has no value in the training rows of fold 1 (4 rows). {COLUMN}",
    )
    trainable.check(
        frame(spark, rows),
        Folds(2, "fold"),
        classes=("no", "yes"),
        numeric=["size"],
        categorical=["kind"],
        imputes=False,
    )


def test_several_classes(spark: SparkSession) -> None:
    """Training needs all of them; validation at least two."""
    rows: list[Row] = [*GOOD, (0, 2.0, 1.0, "a")]
    assert problems(frame(spark, rows), classes=("no", "yes", "maybe")) == (
        f"train: expected rows of every class in the training rows of fold 0 (4 rows), found none of maybe. {FOLDS}",
    )


def test_a_constant_number(spark: SparkSession) -> None:
    """For a regression, in the whole part and in a fold."""
    constant: list[Row] = [(fold, 3.0, 1.0, "a") for fold in (0, 1)]
    assert problems(frame(spark, constant), classes=()) == (
        "train: the label is 3 in all 2 rows of the training part; expected different values. Check the label and split.test.",
    )
    rows: list[Row] = [(0, 3.0, 1.0, "a"), (0, 3.0, 1.0, "a"), (1, 1.0, 1.0, "a"), (1, 2.0, 1.0, "a")]
    assert problems(frame(spark, rows), classes=()) == (
        f"train: the label is 3 in all 2 rows of the validation rows of fold 0; expected different values. {FOLDS}",
        f"train: the label is 3 in all 2 rows of the training rows of fold 1; expected different values. {FOLDS}",
    )


def test_rows_aside_are_needed_where_they_tell_when_to_stop(spark: SparkSession) -> None:
    """In each fold some, and not all; nobody else asks for them."""
    rows = frame(spark, GOOD).withColumn(preprocessing.ASIDE, F.expr("fold = 0"))
    checked = partial(
        trainable.check, rows, Folds(2, "fold"), classes=("no", "yes"), numeric=["size"], categorical=[], imputes=True
    )
    checked()
    with pytest.raises(ModelError) as caught:
        checked(stops_early=True)
    assert caught.value.problems == tuple(
        f"train: expected some of the rows in the training rows of fold {fold} (4 rows) set aside to tell boosted trees when to stop,"
        f" found {aside}: one in ten is, by chance. Use more data, or remove early_stopping_rounds."
        for fold, aside in ((0, 0), (1, 4))
    )
