"""Whether predictions can be measured at all."""

from __future__ import annotations

import math

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from transforms.errors import ModelError


def refuse_scores(predictions: DataFrame) -> int:
    """Number of rows of a binary task, each of which has a `label` and a `score`.

    Raises:
        ModelError: a score is null or NaN, a label neither 0 nor 1, or all rows are of one class.
    """
    missing = F.col("score").isNull() | F.isnan("score")
    found = predictions.agg(
        F.count("*").alias("rows"),
        F.count_if(missing).alias("missing"),
        F.count_if(F.col("label") == 1).alias("events"),
        F.count_if(F.col("label") == 0).alias("others"),
    ).first()
    assert found is not None
    if found["missing"]:
        raise ModelError(
            f"The model gave no score, or NaN, for {found['missing']} of {found['rows']} rows; expected a probability for each."
            " Check the features of those rows for infinities, and the candidate's parameters."
        )
    if found["events"] + found["others"] != found["rows"]:
        unknown = found["rows"] - found["events"] - found["others"]
        raise ModelError(f"{unknown} of {found['rows']} labels are neither 0 nor 1. Check `features.label.value`.")
    if not found["events"] or not found["others"]:
        raise ModelError(
            f"{found['rows']} rows hold {found['events']} events and {found['others']} others; expected both."
            " Make the part longer (`split`), or check `features.label.value`."
        )
    return int(found["rows"])


def refuse_missing(predictions: DataFrame, *needed: Column) -> int:
    """Number of rows, each of which has a finite value in all `needed` columns.

    Raises:
        ModelError: a row has not, or there is no row.
    """
    missing = F.lit(False)
    for column in needed:
        missing = missing | column.isNull() | F.isnan(column) | (F.abs(column) == math.inf)
    found = predictions.agg(F.count("*").alias("rows"), F.count_if(missing).alias("missing")).first()
    assert found is not None
    if not found["rows"]:
        raise ModelError("There are 0 rows to measure a model on; expected some. Make the part longer (`split`).")
    if found["missing"]:
        raise ModelError(
            f"The model gave no finite prediction for {found['missing']} of {found['rows']} rows; expected one for each."
            " Check the features of those rows for infinities, and the candidate's parameters."
        )
    return int(found["rows"])
