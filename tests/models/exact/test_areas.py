"""Areas under the curves of many models against stock MLlib's evaluator and scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession
from sklearn.metrics import roc_auc_score

from models.exact.driver import areas as module
from models.exact.driver.areas import areas
from models.exact.worker import tiles
from tests.models.exact.logistic_data import Data, make, regrouped


def models(data: Data, count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Weights (Q + 1, M) with few distinct values, and the cells (M, C) that judge them: one fold, or all."""
    weights = np.round(np.random.default_rng(3).normal(size=(data.raw.shape[1] + 1, count)))
    validates = np.array([np.arange(4) == m % 3 + 1 if m % 4 else np.arange(4) > 0 for m in range(count)])
    return weights, validates


def scores(data: Data, weights: np.ndarray) -> np.ndarray:
    # Term by term, in a fixed order: equal rows have equal scores.
    return sum((column[:, None] * weight for column, weight in zip(data.raw.T, weights, strict=False)), weights[-1])


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("coarse", [True, False])
def test_area_under_roc_equals_scikit_learn(coarse: bool, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ties and without, with weights and without, and in several messages."""
    monkeypatch.setattr(module, "MESSAGE_BYTES", 8 * 240 * 2)
    data = make(1, rows=240, coarse=coarse)
    weights, validates = models(data)

    found = areas(data.passes(), weights, validates, rows=240, weighted=weighted)

    expected = []
    for m, score in enumerate(scores(data, weights).T):
        rows = validates[m][data.cell]
        expected.append(
            roc_auc_score(data.label[rows], score[rows], sample_weight=data.weight[rows] if weighted else None)
        )
    np.testing.assert_allclose(found.roc, expected, atol=1e-13)


@pytest.mark.parametrize("weighted", [True, False])
def test_areas_equal_stock_mllib(spark: SparkSession, weighted: bool) -> None:
    """Both areas where many rows are equal; MLlib's numBins = 0."""
    data = make(2, rows=150, coarse=True)
    weights, validates = models(data, 3)

    found = areas(data.passes(), weights, validates, rows=150, weighted=weighted)

    for m, score in enumerate(scores(data, weights).T):
        rows = validates[m][data.cell]
        check_against_mllib(
            spark, data.label[rows], score[rows], data.weight[rows] if weighted else None, found.roc[m], found.pr[m]
        )


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_alone_gives_what_mllib_gives(spark: SparkSession, label: float) -> None:
    """No curve, but a number."""
    data = make(2, rows=20, weighted=False)
    data = regrouped(replace(data, label=np.full(20, label)))
    weights, validates = models(data, 1)

    found = areas(data.passes(), weights, validates, rows=20)

    check_against_mllib(spark, data.label, scores(data, weights)[:, 0], None, found.roc[0], found.pr[0])


def check_against_mllib(
    spark: SparkSession, label: np.ndarray, score: np.ndarray, weight: np.ndarray | None, roc: float, pr: float
) -> None:
    weight = np.ones_like(label) if weight is None else weight
    rows = [(Vectors.dense(-s, s), float(y), float(w)) for s, y, w in zip(score, label, weight, strict=True)]
    frame = spark.createDataFrame(rows, ["rawPrediction", "label", "weight"]).coalesce(1).cache()
    for metric, found in (("areaUnderROC", roc), ("areaUnderPR", pr)):
        stock = BinaryClassificationEvaluator(numBins=0, metricName=metric, weightCol="weight")
        assert stock.evaluate(frame) == pytest.approx(found, abs=1e-12)


def test_equal_rows_have_equal_margins_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products round by position: without tiles of one size, ties between workers and cells would break."""
    monkeypatch.setattr(tiles, "ROWS", 64)
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(5, 101))
    which = rng.integers(0, 5, 3000)
    for count in (1, 3, 12, 60):
        weights = rng.normal(size=(102, count))
        for start in range(0, 3000, 157):
            rows = which[start : start + 157]
            cell = tiles.Cell(
                0, patterns[rows], np.zeros((len(rows), 0), np.int32), np.zeros(len(rows)), np.ones(len(rows))
            )
            got = tiles.margins(cell, (), weights)
            if start == 0:
                first = np.array([got[np.argmax(rows == k)] for k in range(5)])
            np.testing.assert_array_equal(got, first[rows])
