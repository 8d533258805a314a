"""Models made from coefficients against models that MLlib fitted: equal in every answer, saved and loaded by stock classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.classification import LogisticRegression, LogisticRegressionModel
from pyspark.ml.linalg import Vectors
from pyspark.ml.regression import LinearRegression, LinearRegressionModel
from pyspark.sql import DataFrame, SparkSession

from models.exact.driver import native


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(60, 3))
    noise = rng.normal(size=60)
    value = features @ [1.0, -2.0, 0.5] + noise
    return spark.createDataFrame(
        [
            (Vectors.dense(x), float(y), float(y > 0), float(int(abs(z) * 2) % 3), 1.0 + abs(float(z)))
            for x, y, z in zip(features, value, noise, strict=True)
        ],
        ["features", "value", "flag", "kind", "weight"],
    ).repartition(2)


def answers(model: Any, rows: DataFrame) -> Any:
    """What the model adds to every row, as one matrix; rounding in the last digit differs with the layout of a matrix."""
    added = [name for name in model.transform(rows).columns if name not in rows.columns]
    found = model.transform(rows).orderBy("value").select(added).collect()
    matrix = [np.concatenate([np.atleast_1d(np.array(row[name])) for name in added]) for row in found]
    return np.array(matrix)


def parameters(model: Any) -> dict[str, Any]:
    return {param.name: model.getOrDefault(param) for param in model.params if model.isDefined(param)}


@pytest.mark.parametrize("label", ["flag", "kind"])
def test_a_logistic_model_is_the_one_that_mllib_fits(rows: DataFrame, tmp_path: Path, label: str) -> None:
    """Binomial and multinomial; parameters, summary and a round trip through stock's own reader."""
    estimator = LogisticRegression(labelCol=label, regParam=0.1, weightCol="weight", maxIter=20)
    fitted = estimator.fit(rows)
    made = native.logistic_model(
        estimator,
        fitted.coefficientMatrix.toArray(),
        fitted.interceptVector.toArray(),
        classes=fitted.numClasses,
        multinomial=fitted.numClasses > 2,
        training=rows,
        objectives=fitted.summary.objectiveHistory,
    )
    np.testing.assert_allclose(answers(made, rows), answers(fitted, rows), rtol=1e-12, atol=1e-12)
    assert (made.uid, parameters(made)) == (fitted.uid, parameters(fitted))
    assert made._java_obj.parent().uid() == fitted._java_obj.parent().uid()
    assert made.summary.objectiveHistory == fitted.summary.objectiveHistory
    assert made.summary.accuracy == pytest.approx(fitted.summary.accuracy, rel=1e-12)
    made.write().overwrite().save(str(tmp_path / "model"))
    loaded = LogisticRegressionModel.load(str(tmp_path / "model"))
    np.testing.assert_allclose(answers(loaded, rows), answers(fitted, rows), rtol=1e-12, atol=1e-12)


def test_a_linear_model_is_the_one_that_mllib_fits(rows: DataFrame, tmp_path: Path) -> None:
    """With standard errors, where the diagonal of the inverse is given."""
    estimator = LinearRegression(labelCol="value", solver="normal", weightCol="weight")
    fitted = estimator.fit(rows)
    diagonal = np.array(list(fitted.summary._java_obj.diagInvAtWA()))
    made = native.linear_model(
        estimator, fitted.coefficients.toArray(), fitted.intercept, training=rows, inverse_diagonal=diagonal
    )
    np.testing.assert_allclose(answers(made, rows), answers(fitted, rows), rtol=1e-12, atol=1e-12)
    assert (made.uid, parameters(made)) == (fitted.uid, parameters(fitted))
    for name in ("coefficientStandardErrors", "tValues", "pValues", "objectiveHistory", "rootMeanSquaredError", "r2"):
        assert getattr(made.summary, name) == pytest.approx(getattr(fitted.summary, name), rel=1e-12), name
    made.write().overwrite().save(str(tmp_path / "model"))
    loaded = LinearRegressionModel.load(str(tmp_path / "model"))
    np.testing.assert_allclose(answers(loaded, rows), answers(fitted, rows), rtol=1e-12, atol=1e-12)


def test_a_model_without_training_rows_has_no_summary(rows: DataFrame) -> None:
    """As the models of single folds."""
    made = native.linear_model(LinearRegression(labelCol="value"), np.array([1.0, -2.0, 0.5]), 0.25)
    assert not made.hasSummary
    features = np.array([row["features"].toArray() for row in rows.orderBy("value").collect()])
    np.testing.assert_allclose(answers(made, rows)[:, 0], features @ [1.0, -2.0, 0.5] + 0.25, rtol=1e-12)
