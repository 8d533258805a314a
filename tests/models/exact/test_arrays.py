"""Kernels run on any library of the Python array API standard: the strict one refuses what is not in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.arrays import namespace
from models.exact.worker.blocks import Blocks, Cell
from models.exact.worker.kernels import KERNELS
from tests.models.exact.logistic_data import make
from transforms.errors import ModelError

# MLlib's numbers stay within float64's own rounding, whatever the order in which a library adds.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def test_arrays_say_their_library() -> None:
    """Numbers and None have none; two libraries are one too many."""
    assert namespace(np.zeros(1), 2.0, None) is np
    with pytest.raises(ModelError, match=r"expected arrays of the Python array API standard, found builtins\.list"):
        namespace([1.0])


def test_two_libraries_are_refused() -> None:
    """A product across devices would fail anyway, and say less."""
    strict = pytest.importorskip(
        "array_api_strict", reason="array-api-strict is not installed: pip install array-api-strict"
    )
    with pytest.raises(ModelError, match=r"expected arrays of one library, found .*numpy\.ndarray"):
        namespace(np.zeros(1), strict.zeros(1))


@pytest.mark.parametrize(("levels", "pairs_a_code"), [((), 0), ((3, 2), 0), ((3, 2), 1000)])
@pytest.mark.parametrize(
    "kernel",
    [
        "logistic_gradient",
        "logistic_curvature",
        "softmax_gradient",
        "softmax_curvature",
        "scores",
        "binomial_confusion",
        "multinomial_confusion",
    ],
)
def test_kernels_of_classifiers_need_only_the_standard(
    kernel: str, levels: tuple[int, ...], pairs_a_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answer as with NumPy."""
    monkeypatch.setattr("models.exact.worker.tiles.PAIRS_A_CODE", pairs_a_code)
    strict = pytest.importorskip(
        "array_api_strict", reason="array-api-strict is not installed: pip install array-api-strict"
    )
    strict.set_array_api_strict_flags(api_version="2024.12")
    data = make(1, levels=levels)
    rng = np.random.default_rng(0)
    two = rng.normal(size=(data.raw.shape[1] + 1, 2))
    three = rng.normal(size=(data.raw.shape[1] + 1, 3, 2))
    flags = np.array([[0, 1, 0, 1], [0, 1, 1, 1]], bool)
    judged = {"validates": flags, "weighted": True}
    request: dict[str, Any] = {
        "logistic_gradient": {"weights": two, "trains": flags, "precision": "float64", "stride": 2},
        "logistic_curvature": {"weights": two, "precision": "float64"},
        "softmax_gradient": {"weights": three, "trains": flags, "precision": "float64"},
        "softmax_curvature": {"weights": three, "precision": "float64"},
        "scores": {"weights": two, **judged},
        "binomial_confusion": {
            "weights": two,
            **judged,
            "labels": 2,
            "margin_above": np.array([0.0, 0.5]),
            "eps": 1e-6,
        },
        "multinomial_confusion": {
            "weights": three,
            **judged,
            "labels": 3,
            "thresholds": np.array([0.0, 0.5, 0.5]),
            "eps": 1e-6,
        },
    }[kernel]

    for blocks in data.blocks:
        expected = KERNELS[kernel](blocks, **request)
        cells = tuple(
            Cell(c.number, *(strict.asarray(part) for part in (c.dense, c.codes, c.label, c.weight)))
            for c in blocks.cells
        )
        moved = {
            name: strict.asarray(value) if isinstance(value, np.ndarray) else value for name, value in request.items()
        }
        found = KERNELS[kernel](Blocks(cells, blocks.levels), **moved)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(np.asarray(found[name]), values, **CLOSE)
