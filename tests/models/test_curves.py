"""Curves are exact: their points lie on scikit-learn's curves, their bins hold the rows that pandas puts there."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn import metrics as sklearn_metrics

from models import curves
from models.curves import Point


def scored(rows: int, digits: int) -> pd.DataFrame:
    generator = np.random.default_rng(9)
    score = generator.beta(1.0, 4.0, rows).round(digits)
    label = (generator.random(rows) < score).astype(float)
    return pd.DataFrame({"id": np.arange(rows), "label": label, "score": score})


def frame(spark: SparkSession, data: pd.DataFrame) -> DataFrame:
    return spark.createDataFrame(data).repartition(3, "id")


def drawn(points: list[Point], curve: str, series: str) -> list[tuple[float | None, float | None, float | None]]:
    found = [point for point in points if (point.curve, point.series) == (curve, series)]
    assert [point.ordinal for point in found] == list(range(len(found)))
    return [(point.x, point.y, point.rows) for point in found]


@pytest.mark.parametrize("digits", [2, 9])
def test_the_points_of_a_probability_lie_on_the_whole_curves(
    spark: SparkSession, digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few and many distinct scores: at most 400 points, each a true one, no gap wider than a step; ranges of a few rows."""
    monkeypatch.setattr("models.ranks.ROWS_PER_RANGE", 500)
    data = scored(3000, digits)
    points = curves.binary(frame(spark, data), threshold=0.25, key=["id"])

    alarms, hits, _ = sklearn_metrics.roc_curve(data.label, data.score, drop_intermediate=False)
    roc = drawn(points, "roc", "roc")
    whole = {(round(x, 12), round(y, 12)) for x, y in zip(alarms, hits, strict=True)}
    assert {(round(x, 12), round(y, 12)) for x, y, _ in roc} <= whole
    assert (roc[0], roc[-1]) == ((0.0, 0.0, 0.0), (1.0, 1.0, 3000.0))
    assert len(roc) <= 400
    if digits == 9:
        steps = [abs(b[0] - a[0]) + abs(b[1] - a[1]) for a, b in pairwise(roc)]
        assert len(roc) > 300 and max(steps) < 3 * 2 / 398

    precision, recall, _ = sklearn_metrics.precision_recall_curve(data.label, data.score)
    whole = {(round(x, 12), round(y, 12)) for x, y in zip(recall, precision, strict=True)}
    pr = drawn(points, "pr", "pr")
    assert pr[0] == (0.0, 1.0, 0.0)
    assert {(round(x, 12), round(y, 12)) for x, y, _ in pr if y is not None and y > 0} <= whole

    for x, y, rows in drawn(points, "threshold", "f1")[::40]:
        decided = (data.score >= x).astype(float)
        assert (y, rows) == (pytest.approx(sklearn_metrics.f1_score(data.label, decided)), decided.sum())
    decided = data.score >= 0.25
    assert drawn(points, "threshold", "chosen") == [(0.25, pytest.approx(decided.mean()), decided.sum())]
    (tn, fp), (fn, tp) = sklearn_metrics.confusion_matrix(data.label, decided)
    counts = {point.series: (point.x, point.y, point.rows) for point in points if point.curve == "confusion"}
    assert counts == {"tn": (0, 0, tn), "fp": (0, 1, fp), "fn": (1, 0, fn), "tp": (1, 1, tp)}


def test_bins_hold_equally_many_rows(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ties: pandas' quantile cut gives the same bins."""
    monkeypatch.setattr("models.ranks.ROWS_PER_RANGE", 300)
    data = scored(1000, 12)
    assert data.score.is_unique
    points = curves.binary(frame(spark, data), threshold=0.25, key=["id"])

    bins = data.groupby(pd.qcut(data.score, 10, labels=False))
    assert drawn(points, "calibration", "event") == [
        (pytest.approx(part.score.mean()), pytest.approx(part.label.mean()), len(part)) for _, part in bins
    ]
    ordered = data.sort_values("score", ascending=False).label.to_numpy().reshape(20, 50)
    shares = [(index + 1) / 20 for index in range(20)]
    rates, gains = ordered.mean(axis=1) / ordered.mean(), np.cumsum(ordered.sum(axis=1)) / ordered.sum()
    assert drawn(points, "lift", "lift") == [
        (pytest.approx(s), pytest.approx(r), 50) for s, r in zip(shares, rates, strict=True)
    ]
    assert drawn(points, "gain", "gain") == [
        (pytest.approx(s), pytest.approx(g), 50) for s, g in zip(shares, gains, strict=True)
    ]


@pytest.mark.quick
def test_equal_scores_share_a_bin(spark: SparkSession) -> None:
    """Two scores: two bins, whatever their sizes."""
    data = pd.DataFrame({"id": range(40), "label": [1.0, 0.0] * 20, "score": [0.2] * 30 + [0.6] * 10})
    points = curves.binary(frame(spark, data), threshold=0.5, key=["id"])
    assert drawn(points, "calibration", "event") == [(pytest.approx(0.2), 0.5, 30), (pytest.approx(0.6), 0.5, 10)]


def test_curves_of_a_value_agree_with_numpy(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.ranks.ROWS_PER_RANGE", 300)
    generator = np.random.default_rng(1)
    label = generator.gamma(2.0, 5.0, 1000)
    data = pd.DataFrame({"id": range(1000), "label": label, "prediction": label + generator.normal(size=1000)})
    points = curves.regression(frame(spark, data), key=["id"])

    error = data.prediction - data.label
    shares = [index / 20 for index in range(21)]
    assert drawn(points, "residuals", "error") == [
        (share, pytest.approx(np.quantile(error, share), rel=1e-12), None) for share in shares
    ]
    parts = data.groupby(pd.qcut(data.prediction, 10, labels=False))
    assert drawn(points, "deciles", "label") == [
        (pytest.approx(part.prediction.mean()), pytest.approx(part.label.mean()), 100) for _, part in parts
    ]


def test_curves_of_a_class(spark: SparkSession) -> None:
    """Pairs that occur, and how often the predicted class was right among rows of like probability."""
    probability = [[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1]]
    data = pd.DataFrame(
        {"id": range(4), "label": [0.0, 1.0, 2.0, 0.0], "prediction": [0.0, 1.0, 0.0, 1.0], "probability": probability}
    )
    points = curves.multiclass(frame(spark, data), classes=["x", "y", "z"], key=["id"])
    confusion = {
        point.series: (point.ordinal, point.x, point.y, point.rows) for point in points if point.curve == "confusion"
    }
    assert confusion == {"x|x": (0, 0, 0, 1), "x|y": (1, 0, 1, 1), "y|y": (2, 1, 1, 1), "z|x": (3, 2, 0, 1)}
    assert drawn(points, "calibration", "predicted class") == [
        (pytest.approx(0.5), 0, 1), (pytest.approx(0.6), 1, 1), (pytest.approx(0.7), 0, 1), (pytest.approx(0.8), 1, 1),
    ]  # fmt: skip


@pytest.mark.quick
def test_importances_are_ranked(spark: SparkSession) -> None:
    assert curves.importance({"b": 0.25, "a": 0.25, "c": 0.5}) == [
        Point("importance", "c", 0, None, 0.5, None),
        Point("importance", "a", 1, None, 0.25, None),
        Point("importance", "b", 2, None, 0.25, None),
    ]
