"""Metrics agree with scikit-learn and with plain NumPy, whatever the partitioning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn import metrics as sklearn_metrics

from conf.schema import Threshold
from models.metrics import choose_threshold
from transforms.errors import ModelError


def scored(rows: int, *, digits: int = 2, seed: int = 7) -> pd.DataFrame:
    """Labels with scores that tie often: rounded to `digits`, exact 0 and 1 among them."""
    generator = np.random.default_rng(seed)
    score = np.clip(generator.beta(1.2, 3.0, rows).round(digits) * 1.3 - 0.1, 0, 1)
    label = (generator.random(rows) < 0.1 + 0.7 * score).astype(float)
    return pd.DataFrame({"id": np.arange(rows), "label": label, "score": score})


def frame(spark: SparkSession, data: pd.DataFrame, partitions: int = 2) -> DataFrame:
    return spark.createDataFrame(data).repartition(partitions, "id")


def best_by_hand(data: pd.DataFrame, quality: str) -> float:
    """Try every distinct score with scikit-learn; the highest of the best."""

    def measure(threshold: float) -> float:
        decision = (data.score >= threshold).astype(float)
        if quality == "f1":
            return float(sklearn_metrics.f1_score(data.label, decision))
        if quality == "accuracy":
            return float(sklearn_metrics.accuracy_score(data.label, decision))
        return float(sklearn_metrics.balanced_accuracy_score(data.label, decision, adjusted=True))

    return float(max(data.score.unique(), key=lambda score: (round(measure(score), 12), score)))


@pytest.mark.quick
@pytest.mark.parametrize("quality", ["f1", "youden", "accuracy"])
def test_the_threshold_is_the_best_of_all_scores(spark: SparkSession, quality: str) -> None:
    data = scored(900)
    chosen = choose_threshold(frame(spark, data), Threshold.model_validate({"maximise": quality}))
    assert chosen == best_by_hand(data, quality)


@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_the_threshold_is_the_same_over_several_ranges(
    spark: SparkSession, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges of a few rows: each distinct score's sums come from its own range and from those above."""
    monkeypatch.setattr("models.ranks.ROWS_PER_RANGE", 7)
    data = scored(900)
    chosen = choose_threshold(frame(spark, data, partitions), Threshold(maximise="f1"))
    assert chosen == best_by_hand(data, "f1")


@pytest.mark.quick
def test_of_equally_good_thresholds_the_highest_is_chosen(spark: SparkSession) -> None:
    """Both 0.9 and 0.4 get three of four right."""
    data = pd.DataFrame({"id": range(4), "label": [1.0, 0.0, 1.0, 0.0], "score": [0.9, 0.6, 0.4, 0.2]})
    assert choose_threshold(frame(spark, data), Threshold(maximise="accuracy")) == 0.9


@pytest.mark.quick
def test_a_fixed_threshold_needs_no_rows(spark: SparkSession) -> None:
    assert choose_threshold(frame(spark, scored(4)).limit(0), Threshold(value=0.3)) == 0.3


@pytest.mark.quick
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (
            [1.0, 1.0],
            [0.2, 0.3],
            "2 rows hold 2 events and 0 others; expected both. Make the part longer (`split`), or check `features.label.value`.",
        ),
        ([1.0, 2.0], [0.2, 0.3], "1 of 2 labels are neither 0 nor 1. Check `features.label.value`."),
        (
            [1.0, 0.0],
            [0.2, float("nan")],
            "The model gave no score, or NaN, for 1 of 2 rows; expected a probability for each."
            " Check the features of those rows for infinities, and the candidate's parameters.",
        ),
    ],
)
def test_no_threshold_from_rows_that_cannot_be_measured(
    spark: SparkSession, labels: list[float], scores: npt.NDArray[np.float64], message: str
) -> None:
    # A list of tuples, because a pandas frame would turn NaN into null.
    data = spark.createDataFrame([*zip(labels, scores, strict=True)], "label double, score double").repartition(2)
    with pytest.raises(ModelError) as refused:
        choose_threshold(data, Threshold(maximise="f1"))
    assert str(refused.value) == message
