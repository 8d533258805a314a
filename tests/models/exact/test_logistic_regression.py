"""Logistic regression of many folds and penalties against SciPy on the stated objective, and against stock MLlib."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession

from models.exact.driver import logistic_regression, newton
from models.exact.driver.affine import Affine
from models.exact.driver.logistic_regression import LogisticFit, Problem, family_of, fit
from models.exact.driver.newton import Iterate
from models.exact.driver.passes import InProcess, Reply
from models.exact.driver.penalty import Penalty
from models.exact.driver.scaled import Scaled
from models.exact.worker.logistic import logistic_curvature, logistic_gradient
from tests.models.exact import logistic_data
from tests.models.exact.logistic_data import Data, distance_from_optimum, features_of, make, objective, optimum
from transforms.errors import ModelError

PENALTIES = [
    Penalty(reg, net, intercept, standard)
    for (reg, net), intercept, standard in product(
        [(0.0, 0.0), (0.1, 0.0), (0.03, 1.0), (0.05, 0.5)], [True, False], [True, False]
    )
]


def check_optima(data: Data, problems: list[tuple[int, Problem]], fits: list[LogisticFit]) -> None:
    """Each fit is where the convex objective, written down plainly, has its least value."""
    for (fold, problem), found in zip(problems, fits, strict=True):
        rows = data.training(fold)
        features = features_of(data.raw[rows], problem.design)
        given = (features, data.label[rows], data.weight[rows], problem.penalty, found.coefficients, found.intercepts)
        assert found.converged, found.reason
        assert found.objective == pytest.approx(objective(*given), abs=1e-12)
        assert distance_from_optimum(*given) < 1e-8, problem.penalty


def by_hand(data: Data, weights: np.ndarray, trains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss (M) and gradient (Q + 1, M), row by row."""
    design = np.column_stack([data.raw, np.ones(len(data.raw))])
    margins = design @ weights
    taking = trains[:, data.cell].T * data.weight[:, None]
    p = 1 / (1 + np.exp(-margins))
    loss = -(data.label[:, None] * np.log(p) + (1 - data.label[:, None]) * np.log1p(-p))
    return (taking * loss).sum(axis=0), design.T @ (taking * (p - data.label[:, None]))


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("levels", [(), (4, 3)])
def test_a_pass_adds_up_losses_and_gradients(
    levels: tuple[int, ...], precision: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several tiles, cells and workers, for models that train on all, some and none of the cells."""
    monkeypatch.setattr("models.exact.worker.tiles.ROWS", 7)
    data = make(1, levels=levels)
    weights = np.random.default_rng(2).normal(size=(data.raw.shape[1] + 1, 5))
    trains = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 1]], bool)

    replies = [logistic_gradient(blocks, weights, trains, precision) for blocks in data.blocks]

    loss, gradient = by_hand(data, weights, trains)
    taken = (trains[:, data.cell] * data.weight).sum(axis=1)
    np.testing.assert_allclose(sum(reply["weight"] for reply in replies), taken, rtol=tolerance)
    np.testing.assert_allclose(sum(reply["loss"] for reply in replies), loss, rtol=tolerance)
    np.testing.assert_allclose(sum(reply["gradient"] for reply in replies), gradient, atol=100 * tolerance)


def test_margins_of_any_size_give_finite_losses() -> None:
    """e^1000 is not a number; log(1 + e^1000) is 1000."""
    data = make(1, weighted=False)
    weights = np.zeros((4, 2))
    weights[-1] = [1000.0, -1000.0]

    reply = logistic_gradient(data.blocks[0], weights, np.ones((2, 4), bool), "float64")

    ones = sum(float(cell.label.sum()) for cell in data.blocks[0].cells)
    zeros = sum(len(cell.label) for cell in data.blocks[0].cells) - ones
    np.testing.assert_allclose(reply["loss"], [1000 * zeros, 1000 * ones])
    np.testing.assert_allclose(reply["gradient"][-1], [zeros, -ones])


@pytest.mark.parametrize(("levels", "pairs_a_code"), [((), 0), ((4, 3), 0), ((4, 3), 1000)])
def test_curvature_is_the_derivative_of_the_gradient(
    levels: tuple[int, ...], pairs_a_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By cell, at several points, against central differences of the gradient; one-hot columns summed up, and written out."""
    monkeypatch.setattr("models.exact.worker.tiles.ROWS", 7)
    monkeypatch.setattr("models.exact.worker.tiles.PAIRS_A_CODE", pairs_a_code)
    data = make(3, levels=levels)
    size = data.raw.shape[1] + 1
    weights = np.random.default_rng(2).normal(size=(size, 2)) / 2

    reply = logistic_curvature(data.blocks[0], weights, "float64")

    cells = [cell.number for cell in data.blocks[0].cells]
    expected = np.zeros((len(cells), 2, size, size))
    for position, cell in enumerate(cells):
        trains = np.tile(np.arange(4) == cell, (2, 1))
        for j, step in enumerate(1e-5 * np.eye(size)):
            above, below = (
                logistic_gradient(data.blocks[0], weights + sign * step[:, None], trains, "float64")["gradient"]
                for sign in (1, -1)
            )
            expected[position, :, :, j] = ((above - below) / 2e-5).T
    np.testing.assert_array_equal(reply["cells"], cells)
    np.testing.assert_allclose(reply["weight"], [cell.weight.sum() for cell in data.blocks[0].cells])
    np.testing.assert_allclose(reply["curvature"], expected, atol=1e-7)
    coarse = logistic_curvature(data.blocks[0], weights, "float32")["curvature"]
    assert coarse.dtype == np.float32
    np.testing.assert_allclose(coarse, expected, atol=1e-4)


def test_every_stride_th_row_is_a_sample() -> None:
    """The third of 10 rows at a stride of 4 is the ninth."""
    data = make(1, rows=200)
    weights = np.random.default_rng(2).normal(size=(4, 1))

    sample = logistic_gradient(data.blocks[0], weights, np.ones((1, 4), bool), "float64", stride=4)

    expected = sum(float(cell.weight[::4].sum()) for cell in data.blocks[0].cells)
    np.testing.assert_allclose(sample["weight"], [expected])


@settings(deadline=None, max_examples=12, derandomize=True)
@given(seed=st.integers(0, 10_000), weighted=st.booleans(), levels=st.sampled_from([(), (3,), (2, 4)]))
def test_every_model_of_a_batch_is_at_its_optimum(seed: int, weighted: bool, levels: tuple[int, ...]) -> None:
    """All penalties and folds in one batch: none, ridge, lasso, elastic net, with and without intercept and standardization."""
    data = make(seed, levels=levels, weighted=weighted)
    # One-hot columns with an intercept are collinear: without a penalty many coefficients are optimal.
    penalties = [penalty for penalty in PENALTIES if penalty.reg_param > 0 or not levels]
    problems = [(fold, data.problem(fold, penalty)) for penalty in penalties for fold in range(data.folds)]

    check_optima(data, problems, fit(data.passes(), [problem for _, problem in problems], rows=len(data.raw)))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_coefficients_equal_those_of_a_general_optimiser(penalty: Penalty) -> None:
    """SciPy's bounded quasi-Newton on the same objective."""
    data = make(2)
    rows = data.training(1)

    (found,) = fit(data.passes(), [data.problem(1, penalty)], rows=120)

    coefficients, intercepts = optimum(data.raw[rows], data.label[rows], data.weight[rows], penalty)
    np.testing.assert_allclose(found.coefficients, coefficients, atol=1e-7)
    np.testing.assert_allclose(found.intercepts, intercepts, atol=1e-7)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_features_may_be_an_affine_map_of_the_raw_design(penalty: Penalty) -> None:
    """Each fold with a map of its own, as an imputer or scaler fitted to it makes; without an intercept the offset counts."""
    data = make(7, dense=4)
    rng = np.random.default_rng(1)
    designs = [
        Affine(rng.normal(size=(4, 3)), rng.normal(size=3)),
        Affine(rng.uniform(1, 2, 4), rng.normal(size=4)),
        Affine(None, rng.normal(size=4)),
    ]
    problems = [(fold, data.problem(fold, penalty, design=design)) for fold, design in enumerate(designs)]

    check_optima(data, problems, fit(data.passes(), [problem for _, problem in problems], rows=len(data.raw)))


def test_centred_workers_give_the_same_features() -> None:
    """An affine map of raw columns, carried over to columns that the workers have centred and scaled."""
    rng = np.random.default_rng(0)
    raw, shift, scale = rng.normal(size=(5, 3)), rng.normal(size=3), rng.uniform(1, 2, 3)
    for design in (Affine(), Affine(rng.normal(size=3), rng.normal(size=3)), Affine(rng.normal(size=(3, 2)))):
        centred = design.of_centred(shift, scale)
        np.testing.assert_allclose(features_of((raw - shift) / scale, centred), features_of(raw, design))


@pytest.mark.parametrize("penalty", [Penalty(0.05, 0.5), Penalty(0.1), Penalty(0.0), Penalty(0.05, 1.0, False)])
def test_without_room_for_curvatures_bfgs_finds_the_same_optimum(
    penalty: Penalty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limited-memory BFGS, orthant-wise where there is an l1 penalty."""
    monkeypatch.setattr(newton, "NEWTON_ORDER", 0)
    data = make(5)
    problems = [(fold, data.problem(fold, penalty)) for fold in range(data.folds)]

    check_optima(data, problems, fit(data.passes(), [problem for _, problem in problems], rows=len(data.raw)))


def test_a_start_from_a_sample_does_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a sample: the models start near their optimum and end at the same one in fewer passes."""
    data = make(11, rows=6000)
    chosen = [(fold, data.problem(fold, penalty)) for penalty in PENALTIES for fold in range(data.folds)]
    problems = [problem for _, problem in chosen]
    plain = fit(data.passes(), problems, rows=len(data.raw))
    monkeypatch.setattr(logistic_regression, "SAMPLE", 1000)

    started = fit(data.passes(), problems, rows=len(data.raw))

    assert max(found.passes for found in started) < max(found.passes for found in plain)
    for one, other in zip(started, plain, strict=True):
        np.testing.assert_allclose(one.coefficients, other.coefficients, atol=1e-8)
        np.testing.assert_allclose(one.intercepts, other.intercepts, atol=1e-8)


def test_fits_equal_stock_mllib(spark: SparkSession) -> None:
    """Fold by fold, at MLlib's finest tolerance, with weights, a constant column and badly scaled ones."""
    data = make(4, rows=90, dense=4)
    raw = data.raw * [1.0, 50.0, 0.02, 0.0] + [0.0, 100.0, 0.0, 3.0]
    shift, scale = raw.mean(axis=0), np.array([1.0, 50.0, 0.02, 1.0])
    centred = Data((raw - shift) / scale, data.label, data.weight, data.cell, (), data.folds)
    blocks = logistic_data.regrouped(centred)
    design = Affine().of_centred(shift, scale)
    # A stock fit takes seconds: every value of each parameter, not every combination.
    chosen = [
        (0, Penalty(0.0, 0.0, True, True)),
        (1, Penalty(0.1, 0.0, True, False)),
        (2, Penalty(0.05, 0.5, True, True)),
        (0, Penalty(0.05, 0.5, False, False)),
        (1, Penalty(0.03, 1.0, False, True)),
    ]
    problems = [blocks.problem(fold, penalty, design=design) for fold, penalty in chosen]

    fits = fit(blocks.passes(), problems, rows=len(raw))

    rows = [
        (int(cell), Vectors.dense(x), float(y), float(w))
        for cell, x, y, w in zip(data.cell, raw, data.label, data.weight, strict=True)
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
        expected = np.append(stock.coefficients.toArray(), stock.intercept)
        got = np.append(found.coefficients[0], found.intercepts[0])
        np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max(), err_msg=str(penalty))
        assert found.converged
        assert found.coefficients[0, 3] == 0


def test_one_label_alone_gives_an_infinite_intercept() -> None:
    """As MLlib: no coefficients, and the intercept says which class. Without an intercept nothing is special."""
    data = make(1)
    base = data.problem(0, Penalty(0.1))
    for weights, expected in (([0.0, 3.0], np.inf), ([3.0], -np.inf)):
        (found,) = fit(
            data.passes(), [Problem(base.trains, base.penalty, base.design, base.std, np.array(weights))], rows=120
        )
        np.testing.assert_array_equal(found.coefficients, np.zeros((1, 3)))
        np.testing.assert_array_equal(found.intercepts, [expected])


def test_separated_classes_without_a_penalty_are_said_to_be_so() -> None:
    """The likelihood of a model beside it is not disturbed."""
    data = make(1, weighted=False)
    plane = np.sign(data.raw[:, 0]) > 0
    separated = logistic_data.regrouped(Data(data.raw, plane.astype(float), data.weight, data.cell, (), data.folds))
    problems = [separated.problem(0, Penalty(0.0)), separated.problem(0, Penalty(0.1))]

    without, ridge = fit(separated.passes(), problems, rows=120)

    assert not without.converged
    assert "a plane separates the classes" in without.reason
    check_optima(separated, [(0, problems[1])], [ridge])


def test_collinear_columns_without_a_penalty_reach_the_least_loss() -> None:
    """Many coefficients are optimal; one of them is found."""
    data = make(1, weighted=False)
    doubled = Affine(np.array([[1.0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]]))
    (single, both) = fit(
        data.passes(),
        [data.problem(0, Penalty(0.0)), data.problem(0, Penalty(0.0), design=doubled)],
        rows=120,
    )

    assert both.converged
    assert both.objective == pytest.approx(single.objective, abs=1e-12)


def test_progress_is_told_after_each_pass() -> None:
    """Numbers of passes from 1, and models still moving down to 0."""
    data = make(1)
    seen: list[tuple[int, int]] = []

    fits = fit(
        data.passes(),
        [data.problem(fold, Penalty(0.1)) for fold in range(3)],
        rows=120,
        on_pass=lambda number, moving: seen.append((number, moving)),
    )

    assert [number for number, _ in seen] == list(range(1, max(found.passes for found in fits) + 1))
    assert seen[0][1] == 3
    assert seen[-1][1] == 0


def test_the_family_follows_the_number_of_classes() -> None:
    """MLlib's auto: more than two classes make it multinomial. Three classes are too many for a binomial model."""
    assert [family_of("auto", n) for n in (1, 2, 3)] == ["binomial", "binomial", "multinomial"]
    assert family_of("multinomial", 2) == "multinomial"
    with pytest.raises(ModelError, match="family binomial takes 1 or 2 classes, found 3"):
        Problem(np.ones(2, bool), Penalty(0.1), Affine(), np.ones(2), np.ones(3))


def test_a_step_after_none_at_all_is_no_rate() -> None:
    """A model of intercepts alone may stand exactly where float32 puts its optimum; float64 then moves it by a little, and others go on."""
    data = make(1)
    problem = data.problem(0, Penalty(1.0, 1.0, fit_intercept=True, standardization=True))
    scaled = Scaled(problem.trains, problem.penalty, problem.design, problem.std, problem.rows)
    model = Iterate(scaled, np.append(np.zeros(scaled.width - 1), 0.5), problem.penalty)
    model.receive(1.0, np.zeros((scaled.width, 1)), "float32")
    model.set_curvature(np.eye(scaled.width)[None, None])
    for intercept in (0.0, 0.0, 1e-5):
        model.receive(1.0, np.append(np.zeros(scaled.width - 1), intercept)[:, None], "float64")
        model.propose("float64")
    assert 0 < model.size < 1e-4
    assert (model.stale, model.passes_left) == (True, np.inf)


class Short(InProcess):
    """Workers whose losses in float32 are too small, as sums of many equal ones may be."""

    def run(self, kernel: str, request: Mapping[str, Any]) -> list[Reply]:
        replies = super().run(kernel, request)
        if request.get("precision") == "float32" and kernel == "logistic_gradient":
            for reply in replies:
                reply["loss"] -= 1e-4 * reply["weight"]
        return replies


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
def test_losses_in_float32_may_be_wrong(l1_ratio: float) -> None:
    """No step in float64 seems to lower them: where the model stands is valued anew."""
    data = make(4, rows=300)
    problems = [data.problem(k, Penalty(reg, l1_ratio, True, True)) for k in range(3) for reg in (0.01, 0.1, 1.0)]

    fits = fit(Short(data.blocks), problems, rows=300)

    assert [each.reason for each in fits] == ["the gradient vanishes"] * len(problems)
    expected = fit(data.passes(), problems, rows=300)
    for found, other in zip(fits, expected, strict=True):
        np.testing.assert_allclose(found.coefficients, other.coefficients, atol=1e-8)
        np.testing.assert_allclose(found.intercepts, other.intercepts, atol=1e-8)
