"""Metrics from moments, and from one pass, against stock RegressionEvaluator on the predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.sql import SparkSession

from models.exact.driver import moments as exact
from models.exact.driver.moments import Moments
from models.exact.driver.passes import InProcess
from models.exact.driver.regression_metrics import from_moments, scored
from models.exact.worker.blocks import Blocks, Cell
from transforms.errors import ModelError

LEVELS = (3,)


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    """Two cells of 30 rows: two dense columns and a category that some rows lack; some weights are 0."""
    rng = np.random.default_rng(4)
    return {
        "cell": np.repeat([0, 1], 30),
        "dense": rng.normal(size=(60, 2)),
        "codes": rng.integers(-1, 3, (60, 1)).astype(np.int32),
        "label": rng.normal(size=60) + 2.0,
        "weight": rng.choice([0.0, 0.5, 1.0, 2.0], 60),
    }


@pytest.fixture
def models() -> tuple[np.ndarray, np.ndarray]:
    """One model for each cell, coefficients (M, Q) and intercepts (M)."""
    rng = np.random.default_rng(5)
    return rng.normal(size=(2, 5)), rng.normal(size=2)


CELL_OF_MODEL = [1, 0]


def passes(rows: dict[str, np.ndarray]) -> InProcess:
    """Two workers, each with part of both cells."""
    workers = []
    for worker in range(2):
        at = [(rows["cell"] == cell) & (np.arange(60) % 2 == worker) for cell in (0, 1)]
        names = ("dense", "codes", "label", "weight")
        workers.append(Blocks([Cell(c, *(rows[name][mine] for name in names)) for c, mine in enumerate(at)], LEVELS))
    return InProcess([*workers, Blocks([], LEVELS)])


def moments(workers: InProcess, weighted: bool = True) -> list[Moments]:
    found = exact.of_replies(workers.run("moments", {"weighted": weighted}), 2)
    return [exact.total(found, np.arange(2) == CELL_OF_MODEL[m]) for m in range(2)]


def request(models: tuple[np.ndarray, np.ndarray], weighted: bool) -> dict[str, Any]:
    return {
        "weights": np.column_stack(models).T,
        "validates": np.arange(2) == np.array(CELL_OF_MODEL)[:, None],
        "weighted": weighted,
    }


@pytest.mark.parametrize("weighted", [True, False])
def test_every_metric(
    spark: SparkSession, rows: dict[str, np.ndarray], models: tuple[np.ndarray, np.ndarray], weighted: bool
) -> None:
    """By either way."""
    onehot = np.eye(4)[rows["codes"][:, 0]][:, :3]
    predictions = np.column_stack([rows["dense"], onehot]) @ models[0].T + models[1]
    data = [
        (m, float(predictions[i, m]), float(rows["label"][i]), float(rows["weight"][i]))
        for m in range(2)
        for i in np.flatnonzero(rows["cell"] == CELL_OF_MODEL[m])
    ]
    frame = spark.createDataFrame(data, "model int, prediction double, label double, weight double").coalesce(1).cache()
    workers = passes(rows)
    found = moments(workers, weighted)
    for metric, through_origin in [(m, False) for m in ("rmse", "mse", "r2", "var", "mae")] + [("r2", True)]:
        evaluator = RegressionEvaluator(metricName=metric, throughOrigin=through_origin)
        if weighted:
            evaluator.setWeightCol("weight")
        right = [evaluator.evaluate(frame.where(f"model = {m}")) for m in range(2)]
        if metric != "mae":
            values = [
                from_moments(found[m], models[0][[m]], models[1][[m]], metric, through_origin=through_origin)
                for m in range(2)
            ]
            np.testing.assert_allclose([value[0] for value, _ in values], right, rtol=1e-11, err_msg=metric)
            assert all(sound.all() for _, sound in values)
        if metric != "var":
            by_pass = scored(workers, found, request(models, weighted), metric, through_origin=through_origin)
            np.testing.assert_allclose(by_pass, right, rtol=1e-11, err_msg=metric)
    frame.unpersist()


def test_a_close_fit_is_marked(rows: dict[str, np.ndarray], models: tuple[np.ndarray, np.ndarray]) -> None:
    """An error of 1e-7 of the label's size, whose square is rounding of the moments: marked, and exact from a pass."""
    coefficients, intercepts = np.tile(models[0][0], (2, 1)), np.full(2, models[1][0])
    onehot = np.eye(4)[rows["codes"][:, 0]][:, :3]
    noise = 1e-7 * np.random.default_rng(6).normal(size=60)
    rows["label"] = np.column_stack([rows["dense"], onehot]) @ coefficients[0] + intercepts[0] + noise
    workers = passes(rows)
    found = moments(workers, weighted=False)
    _, sound = from_moments(found[0], coefficients[:1], intercepts[:1], "rmse")
    _, others = from_moments(found[0], coefficients[:1] + 0.1, intercepts[:1], "rmse")
    np.testing.assert_array_equal([sound[0], others[0]], [False, True])
    values = scored(workers, found, request((coefficients, intercepts), False), "rmse")
    right = [np.sqrt(np.mean(noise[rows["cell"] == cell] ** 2)) for cell in CELL_OF_MODEL]
    np.testing.assert_allclose(values, right, rtol=1e-7)


def test_a_constant_label_has_no_r2(rows: dict[str, np.ndarray], models: tuple[np.ndarray, np.ndarray]) -> None:
    """Minus infinity, as MLlib's division by 0."""
    rows["label"][:] = 0.1
    found = moments(passes(rows))
    values, _ = from_moments(found[0], models[0], models[1], "r2")
    np.testing.assert_array_equal(values, np.full(2, -np.inf))


def test_absolute_errors_are_not_in_moments(rows: dict[str, np.ndarray], models: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ModelError, match="absolute errors take a scoring pass"):
        from_moments(moments(passes(rows))[0], models[0], models[1], "mae")
