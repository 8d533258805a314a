"""A worker whose arrays lie elsewhere: the same answers, and NumPy's arrays on the way in and out.

The strict array library stands for a GPU's: its arrays and NumPy's do not mix either.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.exact.worker.answers import Failure, Rows
from models.exact.worker.blocks import Blocks, Cell
from models.exact.worker.devices import Gpu, Host
from tests.models.exact.logistic_data import make
from transforms.errors import ModelError

strict = pytest.importorskip(
    "array_api_strict", reason="array-api-strict is not installed: pip install array-api-strict"
)
pytestmark = pytest.mark.quick


class Elsewhere:
    """Arrays of the strict library."""

    def moved(self, blocks: Blocks) -> Blocks:
        return replace(
            blocks,
            cells=[
                replace(
                    cell,
                    **{name: strict.asarray(getattr(cell, name)) for name in ("dense", "codes", "label", "weight")},
                )
                for cell in blocks.cells
            ],
        )

    def there(self, array: Any) -> Any:
        return strict.asarray(array)

    def back(self, array: Any) -> Any:
        return np.asarray(array)


def request(size: int) -> dict[str, Any]:
    flags = np.array([[0, 1, 0, 1], [0, 1, 1, 1]], bool)
    weights = np.random.default_rng(0).normal(size=(size + 1, 2))
    return {"weights": weights, "trains": flags, "precision": "float64"}


def test_answers_are_those_of_the_machine() -> None:
    """Replies hold NumPy's arrays, whatever the device."""
    data = make(1, levels=(3, 2))
    asked = request(data.raw.shape[1])
    here, there = (Rows(lambda: data.blocks[0], device) for device in (Host, Elsewhere))
    expected, found = (rows.answer("logistic_gradient", asked) for rows in (here, there))
    assert isinstance(expected, dict)
    assert isinstance(found, dict)
    assert {name: type(value) for name, value in found.items()} == dict.fromkeys(expected, np.ndarray)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)


def test_blocks_that_a_kernel_replaces_stay_there() -> None:
    """Centring answers nothing, and the next pass sees it."""
    replies = []
    for device in (Host, Elsewhere):
        data = make(1)  # anew: it is centred in place
        dense = data.blocks[0].cells[0].dense.shape[1]
        centre = {"shift": np.full(dense, 0.5), "scale": np.full(dense, 2.0)}
        rows = Rows(lambda data=data: data.blocks[0], device)  # type: ignore[misc]
        assert rows.answer("set_centred", centre) == {}
        replies.append(rows.answer("logistic_gradient", request(data.raw.shape[1])))
    np.testing.assert_allclose(replies[1]["gradient"], replies[0]["gradient"], rtol=1e-12)  # type: ignore[index]


def test_rows_that_do_not_fit_on_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any of them is moved. CuPy is made up, with as much memory as the test says: it cannot be imported without a GPU's driver."""
    device = SimpleNamespace(use=lambda: None, mem_info=(90 * 2**20, 100 * 2**20))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(Device=lambda number: device)))
    rows = 500_000
    cell = Cell(0, np.zeros((rows, 10)), np.zeros((rows, 0), np.int32), np.zeros(rows), np.ones(rows))
    with pytest.raises(ModelError) as caught:
        Gpu(0, neighbours=2).moved(Blocks([cell]))
    assert str(caught.value) == (
        "GPU 0 has 90 MiB free of 100, shared by 2 worker(s) of this search: expected room for 45 MiB of rows and for sums over them. Use"
        " more GPUs, end what else runs on this one, or set gpu to never."
    )


def test_a_device_that_cannot_be_had_is_told_to_the_driver() -> None:
    """As any failure of a worker is, in answer to its request."""

    def broken() -> Host:
        raise RuntimeError("no such GPU")

    answer = Rows(lambda: Blocks([]), broken).answer("count", {})
    assert isinstance(answer, Failure)
    assert (answer.kind, answer.message) == ("RuntimeError", "no such GPU")
