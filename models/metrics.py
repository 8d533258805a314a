"""Metrics of predictions, on all rows, by slice and with bootstrap intervals.

A frame of predictions has one row per labelled row: `label` and, by task, `score` (binary: probability of the event),
`prediction` (multiclass: index of the class; regression: the value) and `probability` (multiclass: array, one entry a class).
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.schema import Threshold
from models.ranks import descending_steps
from transforms.errors import ModelError


def choose_threshold(predictions: DataFrame, threshold: Threshold) -> float:
    """The score from which on a row counts as the event (`score >= threshold`).

    With `maximise` every distinct score is tried, exactly and on all rows; of equally good ones the highest wins. The quality is
    f1 = 2 tp / (2 tp + fp + fn), youden = tp / events - fp / others, or accuracy = (tp + tn) / rows.

    Args:
        predictions: `label` (0 or 1) and `score`; out-of-fold predictions, so that the choice has not seen the test rows.

    Raises:
        ModelError: a score is null or NaN, or the rows are not of both classes.
    """
    if threshold.value is not None:
        return threshold.value
    _refuse_unmeasurable(predictions)
    event = F.col("label") == 1
    with descending_steps(predictions, "score", events=event.cast("int"), others=(~event).cast("int")) as steps:
        events, others = steps.totals["events"], steps.totals["others"]
        hits = (F.col("events_before") + F.col("events")).cast("double")
        alarms = (F.col("others_before") + F.col("others")).cast("double")
        quality = {
            "f1": 2 * hits / (hits + alarms + events),
            "youden": hits / events - alarms / others,
            "accuracy": (hits + others - alarms) / (events + others),
        }[threshold.maximise or "f1"]
        best = steps.frame.agg(F.max(F.struct(quality.alias("quality"), "value")).alias("best")).first()
        assert best is not None
        return float(best["best"]["value"])


def _refuse_unmeasurable(predictions: DataFrame) -> None:
    """Refuse scores that are no numbers, labels other than 0 and 1, and rows of one class only."""
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
