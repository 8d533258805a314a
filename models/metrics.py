"""Metrics of predictions, on all rows, by slice and with bootstrap intervals.

A frame of predictions has one row per labelled row: `label` and, by task, `score` (binary: probability of the event),
`prediction` (multiclass: index of the class; regression: the value) and `probability` (multiclass: array, one entry a class).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.schema import Threshold
from models.measurable import refuse_missing, refuse_scores
from models.ranks import descending_steps, exact_quantiles, sampled_quantiles
from models.replicates import Doubles, interval, row_hash
from models.slices import Slicing, slicings
from models.totals import measured_rows, rank_totals, totals_by_part

# What scikit-learn clips probabilities to, so that a certain and wrong prediction costs 36 and not infinity.
EPSILON = float(np.finfo(np.float64).eps)
ERROR_QUANTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Metric:
    """One value: a row of `contracts.metrics` without the model; `value` is None where it is not defined on these rows."""

    slice: str
    value_of_slice: str
    metric: str
    of_class: str
    value: float | None
    low: float | None
    high: float | None
    rows: int


def binary(
    predictions: DataFrame,
    *,
    threshold: float,
    key: Sequence[str],
    slices: Sequence[str] = (),
    bootstrap: int = 0,
) -> list[Metric]:
    """Metrics of an event's probability, for all rows and each slice, each with its 95 % bootstrap interval.

    area_under_roc: probability that an event has a higher score than another row, ties half; exact. area_under_pr: average
    precision, sum of precision times gain in recall over the distinct scores. log_loss: mean of -ln of the probability given to
    what happened, clipped to `EPSILON`. brier: mean squared difference of score and label. accuracy, precision, recall, f1:
    counting `score >= threshold` as the event. event_rate: share of events.

    Args:
        predictions: `label` (0 or 1), `score`, the columns of `key` and `slices`.
        key: what makes a row unique; it decides the row's bootstrap weights.
        bootstrap: number of replicates, 0 for no intervals.

    Raises:
        ModelError: a score is null or NaN, or all rows are of one class. A slice of one class is no error: what it cannot
            define is None.
    """
    rows = refuse_scores(predictions)
    event, positive = F.col("label") == 1, F.col("score") >= threshold
    clipped = F.greatest(F.least(F.col("score"), F.lit(1 - EPSILON)), F.lit(EPSILON))
    values = {
        "events": event,
        "others": ~event,
        "hits": event & positive,
        "alarms": ~event & positive,
        "loss": -F.when(event, F.log(clipped)).otherwise(F.log(1 - clipped)),
        "squares": F.pow(F.col("score") - F.col("label"), F.lit(2.0)),
    }
    cuts = slicings(predictions, slices)
    with measured_rows(
        predictions, values, key=key, slicings=cuts, rows=rows, bootstrap=bootstrap, score="score"
    ) as measured:
        by_part = totals_by_part(measured)
        ranks = rank_totals(measured, by_part, "events", "others")
    found = []
    for cut, parts, rank in zip(cuts, by_part, ranks, strict=True):
        sums = dict(zip(measured.names, np.moveaxis(parts.sum(axis=0), -1, 0), strict=True))
        found += _rows(cut, sums["events"] + sums["others"], {("", n): v for n, v in _binary(sums, rank).items()})
    return found


def _binary(sums: Mapping[str, Doubles], rank: Doubles) -> dict[str, Doubles]:
    """Metric -> values of shape (slice values, replicates), NaN where not defined."""
    events, others, hits, alarms = (sums[name] for name in ("events", "others", "hits", "alarms"))
    rows = events + others
    return {
        "area_under_roc": _ratio(rank[..., 0], events * others),
        "area_under_pr": _ratio(rank[..., 1], events),
        "log_loss": _ratio(sums["loss"], rows),
        "brier": _ratio(sums["squares"], rows),
        "accuracy": _ratio(hits + others - alarms, rows),
        "precision": _ratio(hits, hits + alarms),
        "recall": _ratio(hits, events),
        "f1": _ratio(2 * hits, hits + alarms + events),
        "event_rate": _ratio(events, rows),
    }


def multiclass(
    predictions: DataFrame,
    *,
    classes: Sequence[str],
    key: Sequence[str],
    slices: Sequence[str] = (),
    bootstrap: int = 0,
) -> list[Metric]:
    """Metrics of a predicted class, for all rows and each slice, each with its 95 % bootstrap interval.

    accuracy, log_loss (clipped as in `binary`); weighted_precision, weighted_recall and f1 are means over the classes weighted by
    their rows, as in MLlib, a class that is never predicted counting 0. precision, recall and f1 of one class carry it in
    `of_class`; there precision is None for a class never predicted and recall for one without rows.

    Args:
        predictions: `label` and `prediction` (indices in `classes`), `probability` (array, one entry a class), key and slices.

    Raises:
        ModelError: there is no row, or a prediction is null or NaN.
    """
    label, prediction = F.col("label").cast("int"), F.col("prediction").cast("int")
    given = F.try_element_at("probability", label + 1)
    rows = refuse_missing(predictions, F.col("prediction"), given)
    values: dict[str, Column] = {
        "rows": F.lit(1),
        "right": label == prediction,
        "loss": -F.log(F.greatest(F.least(given, F.lit(1 - EPSILON)), F.lit(EPSILON))),
    }
    for index in range(len(classes)):
        values[f"hits {index}"] = (label == index) & (prediction == index)
        values[f"predicted {index}"] = prediction == index
        values[f"actual {index}"] = label == index
    found = []
    for cut, sums in _summed(predictions, values, key, slicings(predictions, slices), rows, bootstrap):
        found += _rows(cut, sums["rows"], _multiclass(sums, classes))
    return found


def _multiclass(sums: Mapping[str, Doubles], classes: Sequence[str]) -> dict[tuple[str, str], Doubles]:
    """(class or "", metric) -> values of shape (slice values, replicates), NaN where not defined."""
    rows = sums["rows"]
    metrics = {("", "accuracy"): _ratio(sums["right"], rows), ("", "log_loss"): _ratio(sums["loss"], rows)}
    weighted = {name: np.zeros_like(rows) for name in ("precision", "recall", "f1")}
    for index, name in enumerate(classes):
        hits, predicted, actual = (sums[f"{kind} {index}"] for kind in ("hits", "predicted", "actual"))
        metrics[name, "precision"] = _ratio(hits, predicted)
        metrics[name, "recall"] = _ratio(hits, actual)
        metrics[name, "f1"] = _ratio(2 * hits, predicted + actual)
        for kind, total in weighted.items():
            total += actual * np.nan_to_num(metrics[name, kind])
    metrics["", "weighted_precision"] = _ratio(weighted["precision"], rows)
    metrics["", "weighted_recall"] = _ratio(weighted["recall"], rows)
    metrics["", "f1"] = _ratio(weighted["f1"], rows)
    return metrics


def regression(
    predictions: DataFrame,
    *,
    key: Sequence[str],
    slices: Sequence[str] = (),
    bootstrap: int = 0,
) -> list[Metric]:
    """Metrics of a predicted value, for all rows and each slice, each with its 95 % bootstrap interval.

    The error is prediction - label. rmse, mae, mse, mean_error; r2 = 1 - sum of squared errors / sum of squared deviations of the
    label from its mean over the same rows (None where the label is constant). Then, for all rows and without interval,
    error_p05, error_p25, error_p50, error_p75 and error_p95: exact quantiles of the error, linear between neighbours.

    Args:
        predictions: `label`, `prediction`, the columns of `key` and `slices`.

    Raises:
        ModelError: there is no row, or a prediction is null, NaN or infinite.
    """
    rows = refuse_missing(predictions, F.col("prediction"))
    centre = sampled_quantiles(predictions, "label", [0.5], row=row_hash(key), rows=rows) or [0.0]
    error = F.col("prediction") - F.col("label")
    # Deviations from about the middle: squares of the raw label would lose the digits that r2 needs.
    deviation = F.col("label") - F.lit(centre[0])
    values = {"rows": F.lit(1), "errors": error, "sizes": F.abs(error), "squares": error * error}
    values |= {"deviations": deviation, "spread": deviation * deviation}
    found = []
    for cut, sums in _summed(predictions, values, key, slicings(predictions, slices), rows, bootstrap):
        found += _rows(cut, sums["rows"], {("", name): value for name, value in _regression(sums).items()})
    quantiles = exact_quantiles(
        predictions.select(error.alias("error")), "error", [share / 100 for share in ERROR_QUANTILES]
    )
    named = zip(ERROR_QUANTILES, quantiles, strict=True)
    return found + [Metric("", "", f"error_p{share:02}", "", value, None, None, rows) for share, value in named]


def _regression(sums: Mapping[str, Doubles]) -> dict[str, Doubles]:
    rows = sums["rows"]
    mse = _ratio(sums["squares"], rows)
    spread = sums["spread"] - _ratio(sums["deviations"] ** 2, rows)
    # What is left of a constant label is rounding, not spread.
    spread = np.where(spread > 1e-12 * sums["spread"], spread, 0.0)
    return {
        "rmse": np.sqrt(mse),
        "mae": _ratio(sums["sizes"], rows),
        "mse": mse,
        "mean_error": _ratio(sums["errors"], rows),
        "r2": 1 - _ratio(sums["squares"], spread),
    }


def _summed(
    predictions: DataFrame,
    values: Mapping[str, Column],
    key: Sequence[str],
    cuts: Sequence[Slicing],
    rows: int,
    bootstrap: int,
) -> Iterator[tuple[Slicing, dict[str, Doubles]]]:
    """Each slicing with the sums of the values, shape (slice values, replicates)."""
    with measured_rows(predictions, values, key=key, slicings=cuts, rows=rows, bootstrap=bootstrap) as measured:
        for cut, parts in zip(cuts, totals_by_part(measured), strict=True):
            yield cut, dict(zip(measured.names, np.moveaxis(parts.sum(axis=0), -1, 0), strict=True))


def _rows(cut: Slicing, rows: Doubles, metrics: Mapping[tuple[str, str], Doubles]) -> list[Metric]:
    """Replicate 0 is the value, the others its interval."""
    found = []
    for code, value_of_slice in enumerate(cut.values):
        count = int(rows[code, 0])
        for (of_class, name), values in metrics.items():
            value = float(values[code, 0])
            low, high = interval(values[code]) if math.isfinite(value) else (None, None)
            measured = value if math.isfinite(value) else None
            found.append(Metric(cut.column, value_of_slice, name, of_class, measured, low, high, count))
    return found


def _ratio(numerator: Doubles, denominator: Doubles) -> Doubles:
    """NaN where the denominator is 0."""
    ratio: Doubles = np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
    return ratio


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
    refuse_scores(predictions)
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
