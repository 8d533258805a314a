"""Moments against NumPy on the rows themselves, whatever the cells, workers, weights and levels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.exact.driver import moments as exact
from models.exact.driver.affine import Affine
from models.exact.driver.moments import Moments
from models.exact.driver.passes import InProcess
from models.exact.worker import moments as kernel
from models.exact.worker.blocks import Blocks, Cell
from transforms.errors import ModelError

CELLS = 3


def rows(seed: int, n: int, q: int, levels: tuple[int, ...], offset: float = 0.0) -> dict[str, np.ndarray]:
    """Random rows in random cells, of which cell 1 is empty; some of weight 0, some without a level."""
    rng = np.random.default_rng(seed)
    return {
        "cell": rng.choice([0, 2], n),
        "dense": rng.normal(size=(n, q)) * rng.choice([0.0, 1.0], (n, q)) + offset,
        "codes": np.column_stack([rng.integers(-1, k, n) for k in levels] or [np.zeros((n, 0))]).astype(np.int32),
        "label": rng.normal(size=n) + offset,
        "weight": rng.choice([0.0, 0.5, 1.0, 3.0], n),
    }


def blocks(data: dict[str, np.ndarray], levels: tuple[int, ...], workers: int) -> list[Blocks]:
    """The rows dealt out to workers, each of them with its cells in order."""
    result = []
    for worker in range(workers):
        mine = np.arange(len(data["cell"])) % workers == worker
        cells = []
        for number in range(CELLS):
            at = mine & (data["cell"] == number)
            if at.any():
                cells.append(Cell(number, *(data[name][at].copy() for name in ("dense", "codes", "label", "weight"))))
        result.append(Blocks(cells, levels))
    return result


def design(data: dict[str, np.ndarray], levels: tuple[int, ...]) -> np.ndarray:
    """[dense, one-hot, label], written out."""
    onehot = [np.eye(k + 1)[data["codes"][:, g]][:, :k] for g, k in enumerate(levels)]
    return np.column_stack([data["dense"], *onehot, data["label"]])


def expected(z: np.ndarray, w: np.ndarray) -> Moments:
    """In extended precision."""
    z, w = z[w > 0].astype(np.longdouble), w[w > 0].astype(np.longdouble)
    mean = w @ z / w.sum()
    return Moments(
        count=len(w),
        weight=float(w.sum()),
        weight_squared=float(w @ w),
        mean=mean.astype(float),
        comoment=((z - mean).T @ ((z - mean) * w[:, None])).astype(float),
        minimum=z.min(axis=0).astype(float),
        maximum=z.max(axis=0).astype(float),
        nonzero=np.count_nonzero(z, axis=0).astype(float),
    )


def assert_equal(found: Moments, right: Moments, atol: float = 1e-12) -> None:
    assert found.count == right.count
    for name in ("weight", "weight_squared", "minimum", "maximum", "nonzero"):
        np.testing.assert_allclose(getattr(found, name), getattr(right, name), rtol=1e-15, atol=0, err_msg=name)
    np.testing.assert_allclose(found.mean, right.mean, rtol=1e-14, atol=1e-14)
    scale = np.sqrt(np.diagonal(right.comoment)) + atol
    np.testing.assert_allclose(
        found.comoment / np.outer(scale, scale), right.comoment / np.outer(scale, scale), atol=atol
    )


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(8, 60),
    q=st.integers(0, 4),
    levels=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    workers=st.integers(1, 3),
    weighted=st.booleans(),
)
def test_moments_of_any_split(seed: int, n: int, q: int, levels: tuple[int, ...], workers: int, weighted: bool) -> None:
    """Each cell's moments, and the sum of all cells, are those of the written-out design."""
    data = rows(seed, n, q, levels)
    replies = InProcess(blocks(data, levels, workers)).run("moments", {"weighted": weighted})
    found = exact.of_replies(replies, CELLS)
    z, w = design(data, levels), data["weight"] if weighted else np.ones(n)
    for number in range(CELLS):
        at = (data["cell"] == number) & (w > 0)
        if not at.any():
            assert found[number] is None
        else:
            assert_equal(found[number], expected(z[at], w[at]))
    if (w > 0).any():
        assert_equal(exact.total(found, np.ones(CELLS, dtype=bool)), expected(z, w))


def test_tiles_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that end within the rows, one of them of weight 0 throughout."""
    monkeypatch.setattr(kernel, "TILE", 7)
    data = rows(3, 50, 3, (3, 2))
    data["cell"][:], data["weight"][7:14] = 0, 0.0
    found = exact.of_replies(InProcess(blocks(data, (3, 2), 1)).run("moments", {}), CELLS)
    assert_equal(found[0], expected(design(data, (3, 2)), data["weight"]))


def test_a_large_offset_costs_no_digits() -> None:
    """Values of 1e8 with a spread of 1: raw sums of squares would keep no digit of the variance."""
    data = rows(1, 400, 3, (), offset=1e8)
    found = exact.of_replies(InProcess(blocks(data, (), 2)).run("moments", {}), CELLS)
    right = expected(design(data, ()), data["weight"])
    assert_equal(exact.total(found, np.ones(CELLS, dtype=bool)), right, atol=1e-7)


def test_standard_deviations() -> None:
    """Population and unbiased, the latter with MLlib's W - W2 / W; exactly 0 for a constant that has no exact mean."""
    z, w = np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]]), np.array([1.0, 2.0, 0.5])
    variance = w @ (z[:, 1] - w @ z[:, 1] / 3.5) ** 2
    found = expected(z, w)
    np.testing.assert_allclose(found.std(unbiased=False), [0, np.sqrt(variance / 3.5)], rtol=1e-15)
    np.testing.assert_allclose(found.std(unbiased=True), [0, np.sqrt(variance / (3.5 - 5.25 / 3.5))], rtol=1e-15)
    np.testing.assert_array_equal(expected(z[:1], w[:1]).std(unbiased=True), [0, 0])


@pytest.mark.parametrize("kind", ["full", "diagonal", "offset", "identity"])
def test_moments_of_an_affine_map(kind: str) -> None:
    rng = np.random.default_rng(5)
    z, w = rng.normal(size=(30, 4)), rng.random(30) + 0.1
    full = np.array([[2.0, 0, 1], [0, -3.0, 1], [0, 0, 1]])
    maps = {
        "full": Affine(full, np.array([1.0, 2, 3])),
        "diagonal": Affine(np.diag(full), np.array([1.0, 2, 3])),
        "offset": Affine(None, np.array([1.0, 2, 3])),
        "identity": Affine(),
    }
    matrix = {"full": full, "diagonal": np.diag(np.diag(full))}.get(kind, np.eye(3))
    offset = 0.0 if kind == "identity" else np.array([1.0, 2, 3])
    found = expected(z, w).mapped(maps[kind])
    right = expected(np.column_stack([z[:, :3] @ matrix + offset, z[:, 3]]), w)
    np.testing.assert_allclose(found.mean, right.mean, rtol=1e-13)
    np.testing.assert_allclose(found.comoment, right.comoment, rtol=1e-12, atol=1e-13)
    exact_range = [0, 1, 3] if kind == "full" else [0, 1, 2, 3]
    np.testing.assert_allclose(found.minimum[exact_range], right.minimum[exact_range], rtol=1e-14)
    np.testing.assert_allclose(found.maximum[exact_range], right.maximum[exact_range], rtol=1e-14)
    assert (found.minimum <= right.minimum + 1e-14).all() and (found.maximum >= right.maximum - 1e-14).all()


def test_a_mapped_constant_is_constant() -> None:
    """A constant with missing values filled by that constant: two raw columns that vary, one feature that does not."""
    missing = np.array([0.0, 1, 0, 1, 1, 0, 0])
    z = np.column_stack([np.where(missing, 0.0, 0.3), missing, np.arange(7.0)])
    found = expected(z, np.ones(7)).mapped(Affine(np.array([[1.0], [0.3]]), np.zeros(1)))
    np.testing.assert_array_equal(found.constant, [True, False])
    np.testing.assert_array_equal(found.std(unbiased=True)[0], 0.0)


def test_centred_blocks() -> None:
    """Dense columns only, in the arrays that were there."""
    data = rows(2, 20, 3, (2,))
    workers = blocks(data, (2,), 1)
    passes = InProcess(workers)
    before = [cell.dense.copy() for cell in workers[0].cells]
    shift, scale = np.array([1.0, 2, 3]), np.array([1.0, 0.5, 4])
    assert passes.run("set_centred", {"shift": shift, "scale": scale}) == [{}]
    for cell, old in zip(workers[0].cells, before, strict=True):
        np.testing.assert_array_equal(cell.dense, (old - shift) / scale)


def test_no_rows_of_positive_weight() -> None:
    with pytest.raises(ModelError, match="no row of this part of the fold has a positive weight"):
        exact.total([None, None], np.ones(2, dtype=bool))
