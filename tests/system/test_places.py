"""One pipeline file and one code on every place where data can be: the same tables, folds and features, and metrics that agree.

Baseline is a run on this machine's disk. What does not depend on sums over rows is equal to the last bit; metrics of models agree to
1e-8 where our solvers made them and to 1e-6 where stock MLlib did, since sums over rows come in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.system import lakes, places
from tests.system.places import Ran, Run, Workload

Place = Callable[[Workload, Path], AbstractContextManager[Run]]

# Tables that hold figures of models. Rows are told apart by what is not a figure.
MEASURED = ("trials", "out_of_fold", "metrics", "curves", "predictions", "releases", "stages")


@pytest.fixture(scope="module")
def parcels(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return places.parcels(tmp_path_factory.mktemp("parcels"))


@pytest.fixture(scope="module")
def parcels_here(parcels: Workload, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    with places.folder_of_this_machine(parcels, tmp_path_factory.mktemp("here")) as run:
        return run()


@pytest.mark.parametrize(
    "place",
    [
        places.object_store,
        pytest.param(places.standalone_cluster, marks=pytest.mark.system),
        pytest.param(places.yarn, marks=pytest.mark.system),
    ],
)
@pytest.mark.timeout(1800)
def test_a_small_pipeline_is_the_same_everywhere(
    parcels: Workload, parcels_here: Ran, place: Place, tmp_path: Path
) -> None:
    """All jobs, what was promoted and scored included; a second run finds nothing to do."""
    with place(parcels, tmp_path) as run:
        there, again = run(), run()

    assert (there.summary["outcome"], again.summary["outcome"]) == ("done", "unchanged")
    assert again.tables == there.tables
    assert_same(there.tables, parcels_here.tables, measured_to=1e-6)


def assert_same(ours: Mapping[str, pa.Table], theirs: Mapping[str, pa.Table], *, measured_to: float) -> None:
    """The same tables with the same rows in any order; figures of models within a relative distance."""
    assert ours.keys() == theirs.keys()
    exact = [name for name in theirs if not any(word in name for word in MEASURED)]
    assert {name: lakes.checksum(ours[name], lakes.APART) for name in exact} == {
        name: lakes.checksum(theirs[name], lakes.APART) for name in exact
    }
    for name in theirs.keys() - set(exact):
        found, expected = (lakes.figures(tables[name], lakes.APART) for tables in (ours, theirs))
        assert [words for words, _ in found] == [words for words, _ in expected], name
        for (words, mine), (_, other) in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=measured_to, atol=1e-12, err_msg=f"{name}: {words}")
