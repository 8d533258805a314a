"""Metrics of many classifiers against stock MLlib's evaluator, and its rules of thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.ml.classification import LogisticRegressionModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.linalg import DenseMatrix, Vectors
from pyspark.sql import DataFrame, SparkSession

from models.exact.driver.classification_metrics import Confusions, binomial_confusions, multinomial_confusions
from tests.models.exact.logistic_data import Data, make
from transforms.errors import ModelError

METRICS = [
    "f1",
    "accuracy",
    "weightedPrecision",
    "weightedRecall",
    "weightedTruePositiveRate",
    "weightedFalsePositiveRate",
    "weightedFMeasure",
    "truePositiveRateByLabel",
    "falsePositiveRateByLabel",
    "precisionByLabel",
    "recallByLabel",
    "fMeasureByLabel",
    "logLoss",
    "hammingLoss",
]


def transformed(
    spark: SparkSession, data: Data, weights: np.ndarray, thresholds: list[float] | None, *, multinomial: bool
) -> DataFrame:
    """What MLlib's own model (Q + 1, K) says of the rows of cell 1."""
    k = weights.shape[1]
    java = spark._jvm.org.apache.spark.ml.classification.LogisticRegressionModel
    matrix = DenseMatrix(k, len(weights) - 1, weights[:-1].T.ravel(), isTransposed=True)
    from pyspark.ml.common import _py2java

    sc = spark.sparkContext
    model = LogisticRegressionModel(
        java(
            "test",
            _py2java(sc, matrix),
            _py2java(sc, Vectors.dense(weights[-1])),
            k if multinomial else 2,
            multinomial,
        )
    )
    if thresholds is not None:
        model = model.setThresholds(thresholds)
    rows = [
        (Vectors.dense(x), float(y), float(w))
        for x, y, w, cell in zip(data.raw, data.label, data.weight, data.cell, strict=True)
        if cell == 1
    ]
    return model.transform(spark.createDataFrame(rows, ["features", "label", "weight"]).coalesce(1)).cache()


def check(frame: DataFrame, found: Confusions, *, weighted: bool, eps: float) -> None:
    for name in METRICS:
        stock = MulticlassClassificationEvaluator(metricName=name, metricLabel=1.0, beta=0.7, eps=eps)
        if weighted:
            stock.setWeightCol("weight")
        assert found.metric(name, label=1.0, beta=0.7)[0] == pytest.approx(stock.evaluate(frame), abs=1e-12), name


@pytest.mark.parametrize(("threshold", "weighted"), [(0.5, True), (0.3, False), (0.0, False), (1.0, False)])
def test_binomial_metrics_equal_stock_mllib(spark: SparkSession, threshold: float, weighted: bool) -> None:
    """All metrics; a model that is sure of everything has its losses cut off at eps."""
    data = make(1, rows=60)
    weights = np.random.default_rng(0).normal(size=(4, 1)) * (8 if weighted else 1)

    found = binomial_confusions(
        data.passes(), weights, np.arange(4)[None, :] == 1, np.array([threshold]), weighted=weighted, eps=1e-5
    )

    check(
        transformed(spark, data, weights, [1 - threshold, threshold], multinomial=False),
        found,
        weighted=weighted,
        eps=1e-5,
    )


@pytest.mark.parametrize(("thresholds", "weighted"), [(None, True), ([0.5, 0.2, 0.3], False), ([0.0, 0.4, 0.6], False)])
def test_multinomial_metrics_equal_stock_mllib(
    spark: SparkSession, thresholds: list[float] | None, weighted: bool
) -> None:
    """Three classes, with MLlib's thresholds and without."""
    data = make(2, rows=60, classes=3)
    weights = np.random.default_rng(0).normal(size=(4, 3))

    found = multinomial_confusions(
        data.passes(),
        weights[:, :, None],
        np.arange(4)[None, :] == 1,
        None if thresholds is None else np.array(thresholds),
        labels=3,
        weighted=weighted,
    )

    check(transformed(spark, data, weights, thresholds, multinomial=True), found, weighted=weighted, eps=1e-15)


def test_many_models_count_what_each_says_of_its_own_rows() -> None:
    """Row by row, for models judged on one cell, on all, and on none."""
    data = make(3, levels=(3,))
    weights = np.random.default_rng(0).normal(size=(7, 3))
    validates = np.array([[0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]], bool)
    thresholds = np.array([0.5, 0.2, 0.5])

    found = binomial_confusions(data.passes(), weights, validates, thresholds, labels=3, weighted=True)

    margins = np.column_stack([data.raw, np.ones(120)]) @ weights
    p = 1 / (1 + np.exp(-margins))
    counts, losses = np.zeros((3, 3, 3)), np.zeros(3)
    for m in range(3):
        for i in np.flatnonzero(validates[m][data.cell]):
            y = int(data.label[i])
            counts[m, y, int(p[i, m] > thresholds[m])] += data.weight[i]
            losses[m] -= data.weight[i] * np.log(p[i, m] if y else 1 - p[i, m])
    np.testing.assert_allclose(found.counts, counts)
    np.testing.assert_allclose(found.log_loss, losses)


def test_an_infinite_intercept_is_sure() -> None:
    """What a fold with one label gives: every row is said to be 1, or the last class, and the others' loss is -log eps."""
    data = make(3, weighted=False)
    validates = np.array([[False, True, True, True]])
    sure = np.zeros((4, 1))
    sure[-1] = np.inf
    zeros = float((data.label == 0).sum())

    binomial = binomial_confusions(data.passes(), sure, validates, np.array([0.5]), eps=1e-3)
    multinomial = multinomial_confusions(
        data.passes(), np.stack([np.zeros((4, 1)), sure], axis=1), validates, None, labels=2, eps=1e-3
    )

    expected = -zeros * np.log(1e-3) - (120 - zeros) * np.log(1 - 1e-3)
    for found in (binomial, multinomial):
        np.testing.assert_array_equal(found.counts, [[[0, zeros], [0, 120 - zeros]]])
        np.testing.assert_allclose(found.log_loss, [expected])


def test_a_metric_of_a_label_that_no_row_has_is_refused() -> None:
    """MLlib fails too, with a key that is not found. An unknown metric is answered with the known ones."""
    found = Confusions(np.array([[[1.0, 0.0], [0.0, 0.0]]]), np.zeros(1))
    with pytest.raises(ModelError, match=r"recallByLabel of label 1.0 expects validation rows with that label"):
        found.metric("recallByLabel", label=1.0)
    with pytest.raises(ModelError, match=r"metricName must be one of accuracy, .*fMeasureByLabel, but got auc"):
        found.metric("auc")
