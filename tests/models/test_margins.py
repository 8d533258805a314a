"""Metrics of predictions in one process against MLlib's evaluators and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    Evaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession
from sklearn import metrics

from models.margins import Measure
from models.tree_search import measure_of
from transforms.errors import ModelError

OF_CLASSES = ("f1", "accuracy", "weightedPrecision", "weightedRecall", "weightedTruePositiveRate", "weightedFalsePositiveRate",
              "weightedFMeasure", "truePositiveRateByLabel", "falsePositiveRateByLabel", "precisionByLabel", "recallByLabel",
              "fMeasureByLabel", "logLoss", "hammingLoss")  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_of_classes_are_mllibs(spark: SparkSession, classes: int, weighted: bool) -> None:
    """Margins with ties, of two classes as one column and of three as three."""
    random = np.random.default_rng(classes)
    margin = np.round(random.normal(size=(300, classes)), 1)
    label, weight = random.integers(0, classes, 300).astype(float), random.uniform(0.5, 2.0, 300)
    said = margin if classes > 2 else margin[:, 1] - margin[:, 0]
    share = np.exp(margin) / np.exp(margin).sum(axis=1, keepdims=True)
    rows = [
        (Vectors.dense(m if classes > 2 else [-s, s]), Vectors.dense(p), float(np.argmax(p)), y, w)
        for m, s, p, y, w in zip(margin.tolist(), np.ravel(said)[:300].tolist(), share.tolist(), label.tolist(), weight.tolist(), strict=True)
    ]  # fmt: skip
    frame = spark.createDataFrame(rows, ["rawPrediction", "probability", "prediction", "label", "weight"]).cache()
    settings: dict[str, Any] = {"weightCol": "weight"} if weighted else {}
    judges: list[Evaluator] = [
        MulticlassClassificationEvaluator(metricName=name, metricLabel=1.0, beta=2.0, **settings)  # type: ignore[arg-type]
        for name in OF_CLASSES
    ]
    if classes == 2:
        areas = ("areaUnderROC", "areaUnderPR")
        judges += [BinaryClassificationEvaluator(metricName=name, numBins=0, **settings) for name in areas]  # type: ignore[arg-type]

    ours = [measure_of(judge).value(said, label, weight) for judge in judges]

    assert ours == pytest.approx([judge.evaluate(frame) for judge in judges], abs=1e-12)
    if classes == 2:
        expected = metrics.roc_auc_score(label, said, sample_weight=weight if weighted else None)
        assert ours[-2] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("close", [False, True], ids=["far", "close"])
def test_metrics_of_numbers_are_mllibs(spark: SparkSession, weighted: bool, close: bool) -> None:
    """Also where the predictions are so close that the difference of moments would be their rounding."""
    random = np.random.default_rng(5)
    label, weight = random.normal(100, 1, 300), random.uniform(0.5, 2.0, 300)
    said = label + random.normal(size=300) * (1e-9 if close else 1.0)
    frame = spark.createDataFrame(list(zip(said.tolist(), label.tolist(), weight.tolist(), strict=True)), ["prediction", "label", "weight"])  # fmt: skip
    settings: dict[str, Any] = {"weightCol": "weight"} if weighted else {}
    judges = [
        RegressionEvaluator(metricName=name, throughOrigin=origin, **settings)
        for name in ("rmse", "mse", "r2", "mae", "var")
        for origin in (False, True)
    ]

    ours = [measure_of(judge).value(said, label, weight) for judge in judges]

    assert ours == pytest.approx([judge.evaluate(frame) for judge in judges], rel=1e-9)


@pytest.mark.quick
def test_rows_without_weight_are_a_sentence() -> None:
    """Nothing can be measured on them."""
    measure = Measure("regression", "rmse", True, {"throughOrigin": False})
    with pytest.raises(ModelError, match=r"^the validation rows have no weight: all of them have the weight 0$"):
        measure.value(np.ones(3), np.ones(3), np.zeros(3))
