"""Points of the figures of a report, exact and on all rows; each function says what x, y and rows are in its curves.

The frames of predictions are those of `models.metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from models.ranks import Steps, descending_steps, exact_quantiles
from models.slices import Slicing
from models.totals import measured_rows, totals_by_part

# Most points of a drawn curve: about one for each pixel of a figure.
MOST_POINTS = 400
CALIBRATION_BINS = 10
LIFT_BINS = 20
_RESIDUAL_SHARES = tuple(index / 20 for index in range(21))


@dataclass(frozen=True)
class Point:
    """A row of `contracts.curves` without the model."""

    curve: str
    series: str
    ordinal: int
    x: float | None
    y: float | None
    rows: float | None


def binary(predictions: DataFrame, *, threshold: float, key: Sequence[str]) -> list[Point]:
    """Curves of an event's probability.

    roc (series roc): x false positive rate, y true positive rate, rows those at or above the point's score; from (0, 0) to (1, 1).
    pr (series pr): x recall, y precision, rows as in roc; starts at (0, 1) as in scikit-learn.
    threshold (series precision, recall, f1): x score, y the metric with `score >= x` as the event, rows so counted; series
    chosen: one point, x the threshold in use, y share of rows at or above it, rows so counted.
    The points of these are true points of the whole curve, at most `MOST_POINTS`, evenly spaced along the ROC.
    calibration (series event): `CALIBRATION_BINS` bins of equally many rows, lowest first: x mean score, y share of events.
    lift (series lift): `LIFT_BINS` bins of equally many rows, highest first: x share of rows up to and with the bin, y share of
    events in the bin / share in all rows. gain (series gain): x as in lift, y share of all events up to and with the bin.
    confusion: see `confusion`; series tn, fp, fn and tp.

    Equal scores are never parted, so bins may differ in size, and there may be fewer of them.

    Args:
        predictions: `label` and `score`, both classes present, and the columns of `key`.
    """
    event = F.col("label") == 1
    with descending_steps(predictions, "score", events=event.cast("int"), others=(~event).cast("int")) as steps:
        points = _drawn(steps)
        calibration = _bin_of(steps, "score", CALIBRATION_BINS)
        lift = _bin_of(steps, "score", LIFT_BINS)
    decided = predictions.select("label", (F.col("score") >= threshold).cast("double").alias("prediction"))
    names = {(0, 0): "tn", (0, 1): "fp", (1, 0): "fn", (1, 1): "tp"}
    points += confusion(decided, names)
    positive = sum(point.rows or 0 for point in points if point.series in ("fp", "tp"))
    rows = sum(steps.totals.values())
    points.append(Point("threshold", "chosen", 0, threshold, positive / rows, positive))
    points += _calibrated(predictions, rows, calibration, key, "event")
    return points + _lifted(predictions, rows, lift, key)


def multiclass(predictions: DataFrame, *, classes: Sequence[str], key: Sequence[str]) -> list[Point]:
    """Curves of a predicted class.

    confusion: see `confusion`; series "actual|predicted" for each pair of classes that occurs.
    calibration (series "predicted class"): bins as in `binary`: x mean probability of the predicted class, y share of rows where
    it was right.
    """
    names = {(i, j): f"{actual}|{predicted}" for i, actual in enumerate(classes) for j, predicted in enumerate(classes)}
    right = (F.col("label") == F.col("prediction")).cast("double").alias("label")
    score = F.try_element_at("probability", (F.col("prediction") + 1).cast("int")).alias("score")
    judged = predictions.select(*key, right, score)
    with descending_steps(judged, "score", rows=F.lit(1)) as steps:
        calibration = _bin_of(steps, "score", CALIBRATION_BINS)
    return confusion(predictions, names) + _calibrated(
        judged, steps.totals["rows"], calibration, key, "predicted class"
    )


def regression(predictions: DataFrame, *, key: Sequence[str]) -> list[Point]:
    """Curves of a predicted value.

    residuals (series error): x share of rows, y that quantile of prediction - label, rows None.
    deciles (series label): ten bins of equally many rows by prediction, lowest first: x mean prediction, y mean label.
    """
    error = predictions.select((F.col("prediction") - F.col("label")).alias("error"))
    quantiles = exact_quantiles(error, "error", _RESIDUAL_SHARES)
    points = [
        Point("residuals", "error", index, share, value, None)
        for index, (share, value) in enumerate(zip(_RESIDUAL_SHARES, quantiles, strict=True))
    ]
    with descending_steps(predictions, "prediction", rows=F.lit(1)) as steps:
        decile = _bin_of(steps, "prediction", 10)
    sums = _bin_sums(
        predictions, steps.totals["rows"], decile, 10, key, {"x": F.col("prediction"), "y": F.col("label")}
    )
    return points + [
        Point("deciles", "label", index, row["x"] / row["rows"], row["y"] / row["rows"], row["rows"])
        for index, row in enumerate(reversed(sums))
    ]


def confusion(predictions: DataFrame, names: Mapping[tuple[int, int], str]) -> list[Point]:
    """Curve confusion, one point per pair of classes that occurs: x actual class, y predicted class, rows of the pair.

    Args:
        predictions: `label` and `prediction`, indices of classes.
        names: (actual, predicted) -> series.
    """
    label, prediction = F.col("label").cast("int"), F.col("prediction").cast("int")
    pairs = predictions.groupBy(label.alias("actual"), prediction.alias("predicted")).agg(F.count("*").alias("rows"))
    rows = {(row["actual"], row["predicted"]): row["rows"] for row in pairs.collect()}
    present = [(pair, rows[pair]) for pair in sorted(names) if pair in rows]
    return [Point("confusion", names[p], i, float(p[0]), float(p[1]), float(n)) for i, (p, n) in enumerate(present)]


def importance(shares: Mapping[str, float]) -> list[Point]:
    """Curve importance, one series per raw column from the most important down: x None, y its share, all together 1."""
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return [Point("importance", name, index, None, share, None) for index, (name, share) in enumerate(ranked)]


def _drawn(steps: Steps) -> list[Point]:
    """The curves roc, pr and threshold from the same steps."""
    events, others = steps.totals["events"], steps.totals["others"]
    # A step is drawn when it enters a new one of equal pieces of the way along the ROC; the last step always does.
    pieces = MOST_POINTS - 2
    half = pieces / 2

    def piece(hits: Column, alarms: Column) -> Column:
        return F.floor(hits / events * half + alarms / others * half + 1e-9)

    hits, alarms = F.col("events_before") + F.col("events"), F.col("others_before") + F.col("others")
    drawn = piece(hits, alarms) > piece(F.col("events_before"), F.col("others_before"))
    found = steps.frame.where(drawn).select("value", hits.alias("hits"), alarms.alias("alarms")).collect()
    found.sort(key=lambda row: -row["value"])
    points = [Point("roc", "roc", 0, 0.0, 0.0, 0.0), Point("pr", "pr", 0, 0.0, 1.0, 0.0)]
    for index, row in enumerate(found):
        points += _at(row, index, events, others)
    return points


def _at(row: Row, index: int, events: int, others: int) -> list[Point]:
    hits, alarms = row["hits"], row["alarms"]
    rows = float(hits + alarms)
    recall, precision = hits / events, hits / rows
    f1 = 2 * hits / (rows + events)
    return [
        Point("roc", "roc", index + 1, alarms / others, recall, rows),
        Point("pr", "pr", index + 1, recall, precision, rows),
        Point("threshold", "precision", index, row["value"], precision, rows),
        Point("threshold", "recall", index, row["value"], recall, rows),
        Point("threshold", "f1", index, row["value"], f1, rows),
    ]


def _bin_of(steps: Steps, column: str, count: int) -> Column:
    """The bin of a row among `count` of equally many rows, 0 for the highest: that of the middle row of its tie."""
    names = list(steps.totals)
    rows = sum((F.col(name) for name in names), F.lit(0))
    middle = sum((F.col(f"{name}_before") for name in names), F.lit(0)) + rows / 2
    number = F.least(F.floor(middle * count / sum(steps.totals.values())), F.lit(count - 1))
    lowest = steps.frame.groupBy(number.alias("bin")).agg(F.min("value").alias("lowest")).collect()
    bounds = sorted((row["lowest"] for row in lowest), reverse=True)[:-1]
    if not bounds:
        return F.lit(0)
    return F.size(F.filter(F.array(*map(F.lit, bounds)), lambda bound: bound > F.col(column)))


def _bin_sums(
    predictions: DataFrame, rows: int, number: Column, count: int, key: Sequence[str], values: Mapping[str, Column]
) -> list[dict[str, float]]:
    """`rows` and the sum of each value in each bin that has rows, bin 0 first."""
    bins = Slicing("_bin", named=tuple(str(index) for index in range(count)))
    summed = {"rows": F.lit(1), **values}
    binned = predictions.withColumn("_bin", number)
    with measured_rows(binned, summed, key=key, slicings=[bins], rows=rows) as measured:
        sums = totals_by_part(measured)[0].sum(axis=0)[:, 0, :]
    return [dict(zip(summed, map(float, row), strict=True)) for row in sums if row[0] > 0]


def _calibrated(predictions: DataFrame, rows: int, number: Column, key: Sequence[str], series: str) -> list[Point]:
    sums = _bin_sums(
        predictions, rows, number, CALIBRATION_BINS, key, {"score": F.col("score"), "events": F.col("label")}
    )
    return [
        Point("calibration", series, index, row["score"] / row["rows"], row["events"] / row["rows"], row["rows"])
        for index, row in enumerate(reversed(sums))
    ]


def _lifted(predictions: DataFrame, count: int, number: Column, key: Sequence[str]) -> list[Point]:
    sums = _bin_sums(predictions, count, number, LIFT_BINS, key, {"events": F.col("label")})
    rows = np.cumsum([row["rows"] for row in sums])
    events = np.cumsum([row["events"] for row in sums])
    points = []
    for index, row in enumerate(sums):
        share, rate = float(rows[index] / rows[-1]), row["events"] / row["rows"]
        points.append(Point("lift", "lift", index, share, float(rate * rows[-1] / events[-1]), row["rows"]))
        points.append(Point("gain", "gain", index, share, float(events[index] / events[-1]), row["rows"]))
    return points
