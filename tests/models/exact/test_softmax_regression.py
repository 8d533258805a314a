"""Multinomial logistic regression of many folds and penalties against the stated objective, and against stock MLlib."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession
from scipy import special

from models.exact.driver import logistic_regression, newton
from models.exact.driver.affine import Affine
from models.exact.driver.logistic_regression import Problem, fit
from models.exact.driver.penalty import Penalty
from models.exact.worker.softmax import softmax_curvature, softmax_gradient
from tests.models.exact.logistic_data import Data, distance_from_optimum, make, objective

# Without l2, coefficients of a lasso need not be unique; without l1, all are after MLlib's centring.
PENALTIES = [
    Penalty(reg, net, intercept, standard)
    for reg, net in [(0.0, 0.0), (0.1, 0.0), (0.05, 0.5), (0.02, 1.0)]
    for intercept, standard in [(True, True), (False, True), (True, False)]
]


def check_optima(data: Data, penalties: list[Penalty]) -> None:
    chosen = [(fold, penalty) for penalty in penalties for fold in range(data.folds)]
    problems = [data.problem(fold, penalty, family="multinomial") for fold, penalty in chosen]
    for (fold, penalty), found in zip(chosen, fit(data.passes(), problems, rows=len(data.raw)), strict=True):
        rows = data.training(fold)
        given = (data.raw[rows], data.label[rows], data.weight[rows], penalty, found.coefficients, found.intercepts)
        assert found.converged, found.reason
        assert found.objective == pytest.approx(objective(*given), abs=1e-12)
        assert distance_from_optimum(*given) < 1e-8, penalty
        assert abs(found.intercepts.sum()) < 1e-9
        if penalty.reg_param == 0:
            np.testing.assert_allclose(found.coefficients.sum(axis=0), np.zeros(data.raw.shape[1]), atol=1e-9)


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("levels", [(), (4, 3)])
def test_a_pass_adds_up_losses_and_gradients(
    levels: tuple[int, ...], precision: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several tiles, cells and workers, for models that train on all, some and none of the cells."""
    monkeypatch.setattr("models.exact.worker.tiles.ROWS", 7)
    data = make(1, levels=levels, classes=3)
    weights = np.random.default_rng(2).normal(size=(data.raw.shape[1] + 1, 3, 4))
    trains = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]], bool)

    replies = [softmax_gradient(blocks, weights, trains, precision) for blocks in data.blocks]

    design = np.column_stack([data.raw, np.ones(len(data.raw))])
    p = special.softmax(np.einsum("nq,qkm->nkm", design, weights), axis=1)
    own = np.eye(3)[data.label.astype(int)][:, :, None]
    taking = trains[:, data.cell].T * data.weight[:, None]
    loss = -(taking * np.log((p * own).sum(axis=1))).sum(axis=0)
    gradient = np.einsum("nq,nkm->qkm", design, taking[:, None, :] * (p - own))
    np.testing.assert_allclose(sum(reply["weight"] for reply in replies), taking.sum(axis=0), rtol=tolerance)
    np.testing.assert_allclose(sum(reply["loss"] for reply in replies), loss, rtol=tolerance)
    np.testing.assert_allclose(sum(reply["gradient"] for reply in replies), gradient, atol=100 * tolerance)


@pytest.mark.parametrize(("levels", "pairs_a_code"), [((), 0), ((3,), 0), ((3,), 1000)])
def test_curvature_is_the_derivative_of_the_gradient(
    levels: tuple[int, ...], pairs_a_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By cell, at several points, against central differences of the gradient; one-hot columns summed up, and written out."""
    monkeypatch.setattr("models.exact.worker.tiles.ROWS", 7)
    monkeypatch.setattr("models.exact.worker.tiles.PAIRS_A_CODE", pairs_a_code)
    data = make(3, dense=2, levels=levels, classes=3)
    size = data.raw.shape[1] + 1
    weights = np.random.default_rng(2).normal(size=(size, 3, 2)) / 2
    blocks = data.blocks[0]

    reply = softmax_curvature(blocks, weights, "float64")

    cells = [cell.number for cell in blocks.cells]
    expected = np.zeros((len(cells), 2, 3, 3, size, size))
    for position, cell in enumerate(cells):
        trains = np.tile(np.arange(4) == cell, (2, 1))
        for j in range(size):
            for k in range(3):
                step = np.zeros((size, 3, 1))
                step[j, k] = 1e-5
                above, below = (
                    softmax_gradient(blocks, weights + sign * step, trains, "float64")["gradient"] for sign in (1, -1)
                )
                expected[position, :, :, k, :, j] = ((above - below) / 2e-5).transpose(2, 1, 0)
    np.testing.assert_array_equal(reply["cells"], cells)
    np.testing.assert_allclose(reply["weight"], [cell.weight.sum() for cell in blocks.cells])
    np.testing.assert_allclose(reply["curvature"], expected, atol=1e-7)


@settings(deadline=None, max_examples=6, derandomize=True)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 4), weighted=st.booleans())
def test_every_model_of_a_batch_is_at_its_optimum(seed: int, classes: int, weighted: bool) -> None:
    """All penalties and folds in one batch; MLlib's centring where the optimum is not unique."""
    check_optima(make(seed, rows=200, dense=2, classes=classes, weighted=weighted), PENALTIES)


@pytest.mark.parametrize("penalty", [Penalty(0.05, 0.5), Penalty(0.1), Penalty(0.0)])
def test_without_room_for_curvatures_bfgs_finds_the_same_optimum(
    penalty: Penalty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limited-memory BFGS, orthant-wise where there is an l1 penalty."""
    monkeypatch.setattr(newton, "NEWTON_ORDER", 0)
    check_optima(make(5, rows=200, classes=3), [penalty])


def test_a_start_from_a_sample_finds_the_same_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a sample."""
    monkeypatch.setattr(logistic_regression, "SAMPLE", 500)
    check_optima(make(11, rows=2000, classes=3), PENALTIES)


def test_fits_equal_stock_mllib(spark: SparkSession) -> None:
    """At MLlib's finest tolerance, where its optimum is unique or centred to be."""
    data = make(4, rows=120, classes=3)
    chosen = [(0, Penalty(0.0)), (1, Penalty(0.05, 0.5, True, False)), (2, Penalty(0.1, 0.0, False, True))]

    fits = fit(data.passes(), [data.problem(k, penalty, family="multinomial") for k, penalty in chosen], rows=120)

    rows = [
        (int(cell), Vectors.dense(x), float(y), float(w))
        for cell, x, y, w in zip(data.cell, data.raw, data.label, data.weight, strict=True)
    ]
    frame = spark.createDataFrame(rows, ["cell", "features", "label", "weight"]).coalesce(1).cache()
    for (fold, penalty), found in zip(chosen, fits, strict=True):
        stock = LogisticRegression(
            maxIter=1000,
            tol=1e-12,
            regParam=penalty.reg_param,
            elasticNetParam=penalty.elastic_net_param,
            fitIntercept=penalty.fit_intercept,
            standardization=penalty.standardization,
            weightCol="weight",
        ).fit(frame.where(f"cell != {fold + 1}"))
        expected = np.column_stack([stock.coefficientMatrix.toArray(), stock.interceptVector.toArray()])
        got = np.column_stack([found.coefficients, found.intercepts])
        np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max(), err_msg=str(penalty))


def test_one_label_alone_gives_an_infinite_intercept() -> None:
    """As MLlib: no coefficients, and the class that all rows have is sure."""
    problem = Problem(np.ones(4, bool), Penalty(0.1), Affine(), np.ones(3), np.array([0.0, 0.0, 5.0]), "multinomial")

    (found,) = fit(make(1).passes(), [problem], rows=120)

    np.testing.assert_array_equal(found.coefficients, np.zeros((3, 3)))
    np.testing.assert_array_equal(found.intercepts, [0, 0, np.inf])
