"""Linear models from moments against MLlib run to convergence, scikit-learn, and the conditions of the optimum."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.ml.functions import array_to_vector
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame, SparkSession
from sklearn.linear_model import ElasticNet as SklearnElasticNet

from models.exact.driver import coordinate_descent
from models.exact.driver.linear_regression import fit
from models.exact.driver.moments import Moments
from models.exact.driver.penalty import Penalty
from transforms.errors import ConfigError, ModelError

PENALTIES = [
    Penalty(reg, alpha, intercept, standardization)
    for reg, alpha, intercept, standardization in itertools.product((0.3,), (0.0, 0.5), (True, False), (True, False))
] + [Penalty(0.0, 0.0, True), Penalty(0.0, 0.7, False)]


def moments(x: np.ndarray, y: np.ndarray, w: np.ndarray | None = None) -> Moments:
    w = np.ones(len(y)) if w is None else w
    z = np.column_stack([x, y])
    mean = w @ z / w.sum()
    centred = z - mean
    return Moments(
        count=len(y),
        weight=float(w.sum()),
        weight_squared=float(w @ w),
        mean=mean,
        comoment=centred.T @ (centred * w[:, None]),
        minimum=z.min(axis=0),
        maximum=z.max(axis=0),
        nonzero=np.count_nonzero(z, axis=0).astype(float),
    )


def problem(seed: int, n: int = 40, p: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of different sizes, away from 0; one of them constant. A value of 0.25 has an exact sum."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * [1.0, 10.0, 0.1, 1.0][:p] + [0.0, 5.0, 1.0, -2.0][:p]
    x[:, -1] = 0.25
    return x, x @ rng.normal(size=p) + rng.normal(size=n) + 3.0, rng.choice([0.5, 1.0, 2.0], n)


def frame(spark: SparkSession, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> DataFrame:
    data = [(row.tolist(), float(label), float(weight)) for row, label, weight in zip(x, y, w, strict=True)]
    rows = spark.createDataFrame(data, "x array<double>, label double, weight double").coalesce(1)
    return rows.select(array_to_vector("x").alias("features"), "label", "weight").cache()


def stock(data: DataFrame, penalty: Penalty, **parameters: Any) -> np.ndarray:
    """(p + 1): coefficients and intercept of MLlib at the end of its patience."""
    estimator = LinearRegression(
        weightCol="weight",
        regParam=penalty.reg_param,
        elasticNetParam=penalty.elastic_net_param,
        fitIntercept=penalty.fit_intercept,
        standardization=penalty.standardization,
        maxIter=2000,
        tol=1e-14,
        **parameters,
    )
    model = estimator.fit(data)
    return np.append(model.coefficients.toArray(), model.intercept)


def ours(x: Moments, penalties: Sequence[Penalty], **options: Any) -> np.ndarray:
    coefficients, intercepts = fit(x, penalties, **options)
    return np.column_stack([coefficients, intercepts])


@pytest.mark.parametrize("solver", ["normal", "l-bfgs"])
def test_mllib(spark: SparkSession, solver: str) -> None:
    """Every penalty, with weights and a constant column, by both solvers and their two standard deviations."""
    x, y, w = problem(0)
    data = frame(spark, x, y, w)
    found = ours(moments(x, y, w), PENALTIES, unbiased_std=solver == "l-bfgs")
    right = np.array([stock(data, penalty, solver=solver) for penalty in PENALTIES])
    np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-6 * np.abs(right).max())
    data.unpersist()


def test_mllib_with_a_constant_label(spark: SparkSession) -> None:
    """A mean for an answer; all 0 where it is 0; and scaled by its size where there is no intercept."""
    x, _, w = problem(1)
    y = np.full(len(w), 4.0)
    data = frame(spark, x, y, w)
    penalties = [Penalty(0.3, 0.5), Penalty(0.0), Penalty(0.0, fit_intercept=False)]
    right = [stock(data, penalty) for penalty in penalties]
    np.testing.assert_allclose(ours(moments(x, y, w), penalties), right, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(ours(moments(x, 0 * y, w), [Penalty(0.3, fit_intercept=False)]), np.zeros((1, 5)))
    with pytest.raises(ModelError, match=r"the label is 4\.0 in every training row"):
        fit(moments(x, y, w), [Penalty(0.3, fit_intercept=False)])
    data.unpersist()


def test_mllib_with_collinear_columns(spark: SparkSession) -> None:
    """Without a penalty the coefficients are free along the null space: the shortest ones, and MLlib's predictions."""
    x, y, w = problem(2)
    x[:, 1] = 2 * x[:, 0] + x[:, 2]
    data = frame(spark, x, y, w)
    found = ours(moments(x, y, w), [Penalty(0.0), Penalty(0.3, 0.0)])
    free, ridge = stock(data, Penalty(0.0)), stock(data, Penalty(0.3, 0.0))
    np.testing.assert_allclose(np.column_stack([x, np.ones(40)]) @ (found[0] - free), np.zeros(40), atol=1e-6)
    np.testing.assert_allclose(found[1], ridge, rtol=1e-9, atol=1e-9)
    z = (x[:, :3] - np.average(x[:, :3], axis=0, weights=w)) * np.sqrt(w)[:, None]
    s = np.sqrt((z**2).sum(axis=0) / w.sum())
    target = (y - np.average(y, weights=w)) * np.sqrt(w)
    np.testing.assert_allclose(found[0, :3] * s, np.linalg.pinv(z / s) @ target, rtol=1e-8)
    data.unpersist()


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(5, 40),
    p=st.integers(1, 12),
    copies=st.booleans(),
    reg=st.floats(1e-4, 2.0),
    alpha=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    intercept=st.booleans(),
    standardization=st.booleans(),
)
def test_the_optimum(
    seed: int, n: int, p: int, copies: bool, reg: float, alpha: float, intercept: bool, standardization: bool
) -> None:
    """The subgradient of the stated objective, on the rows, is 0: wide, tall, and with columns that repeat each other."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * 10.0 ** rng.integers(-2, 3, p)
    if copies:
        x[:, -1] = -2 * x[:, 0]
    y, w = x @ (rng.normal(size=p) * rng.integers(0, 2, p)) + rng.normal(size=n) + 1.0, rng.random(n) + 0.1
    coefficients, intercepts = fit(moments(x, y, w), [Penalty(reg, alpha, intercept, standardization)])
    s, sy = (np.sqrt(np.average((a - np.average(a, axis=0, weights=w)) ** 2, axis=0, weights=w)) for a in (x, y))
    u, q = coefficients[0] * s / sy, np.ones(p) if standardization else 1 / s
    left = y - x @ coefficients[0] - intercepts[0]
    if intercept:
        np.testing.assert_allclose(w @ left, 0.0, atol=1e-10 * w @ np.abs(y))
    gradient = -(x / s).T @ (w * left) / (sy * w.sum()) + reg * (1 - alpha) / sy * q**2 * u
    l1 = reg * alpha / sy * q
    excess = np.where(u != 0, gradient + l1 * np.sign(u), np.maximum(np.abs(gradient) - l1, 0))
    np.testing.assert_allclose(excess, np.zeros(p), atol=1e-10)


@pytest.mark.parametrize(("n", "p", "correlation"), [(60, 100, 0.0), (300, 80, 0.9), (100, 100, 0.5)])
def test_a_path_of_penalties_against_scikit_learn(n: int, p: int, correlation: float) -> None:
    """From no coefficient to nearly all, wide and tall, columns alike: scikit-learn at its tightest."""
    rng = np.random.default_rng(n)
    x = (1 - correlation) * rng.normal(size=(n, p)) + correlation * rng.normal(size=(n, 5)) @ rng.normal(size=(5, p))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = x[:, :10] @ rng.normal(size=10) + rng.normal(size=n)
    y = (y - y.mean()) / y.std()
    regs = [1.0, 0.3, 0.1, 0.03, 0.01]
    found, _ = fit(moments(x, y), [Penalty(reg, 0.5) for reg in regs])
    right = [
        SklearnElasticNet(alpha=reg, l1_ratio=0.5, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_
        for reg in regs
    ]
    np.testing.assert_allclose(found, right, atol=1e-9)


def test_what_does_not_converge_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(coordinate_descent, "MAX_ROUNDS", 1)
    x, y, w = problem(3)
    fit(moments(x, y, w), [Penalty(0.01, 0.5)])
    assert "elastic net stopped rounds=1 residual=" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "regParam must be at least 0, but got -1.0"),
        ((0.1, 1.5), r"elasticNetParam must be in range \[0, 1\]"),
    ],
)
def test_penalties_out_of_range(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Penalty(*arguments)
