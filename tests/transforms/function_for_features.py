"""Functions that a pipeline file may name under `features.function`."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

NOT_A_FUNCTION = 3


def doubled(rows: DataFrame) -> DataFrame:
    return rows.withColumn("twice", F.col("size") * 2)


def first_only(rows: DataFrame) -> DataFrame:
    return rows.where("id = 1")


def other_keys(rows: DataFrame) -> DataFrame:
    return rows.withColumn("id", F.col("id") + 1)


def without_key(rows: DataFrame) -> DataFrame:
    return rows.drop("id")


def nothing(rows: DataFrame) -> None:
    return None
