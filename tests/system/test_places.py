"""One pipeline file and one code on every place where data can be: the same tables, folds and features, and metrics that agree.

Baseline is a run on this machine's disk. What does not depend on sums over rows is equal to the last bit; metrics of models agree to
1e-8 where our solvers made them and to 1e-6 where stock MLlib did, since sums over rows come in another order; boosted trees, which
cut at other quantiles then, to 0.002.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.system import lakes, places, stores
from tests.system.places import Ran, Run, Workload

ROOT = Path(__file__).resolve().parents[2]
Place = Callable[[Workload, Path], AbstractContextManager[Run]]

# Tables that hold figures of models. Rows are told apart by what is not a figure.
MEASURED = ("trials", "out_of_fold", "metrics", "curves", "predictions", "releases", "stages")
TREES = 0.002
FLIGHTS = Workload(ROOT / "conf/flights.yaml", ROOT / "data/raw", memory="2g")


@pytest.fixture(scope="module")
def parcels(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return places.parcels(tmp_path_factory.mktemp("parcels"))


@pytest.fixture(scope="module")
def parcels_here(parcels: Workload, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    with places.folder_of_this_machine(parcels, tmp_path_factory.mktemp("here")) as run:
        return run()


@pytest.fixture(scope="module")
def depots(parcels: Workload, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return places.depots(parcels, tmp_path_factory.mktemp("depots"))


@pytest.fixture(scope="module")
def depots_here(depots: Workload, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    with places.folder_of_this_machine(depots, tmp_path_factory.mktemp("here")) as run:
        return run()


@pytest.fixture(scope="module")
def flights_here(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    with places.folder_of_this_machine(FLIGHTS, tmp_path_factory.mktemp("here")) as run:
        return run()


@pytest.mark.system
@pytest.mark.parametrize("place", [places.object_store, places.standalone_cluster, places.yarn])
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


def test_a_store_begins_empty() -> None:
    """Whatever another one in this process held: else a run there finds its work done."""
    with stores.object_store() as store:
        store.client.put_object(Bucket="lake", Key="left", Body=b"")
    with stores.object_store() as store:
        assert store.objects() == []


@pytest.mark.parametrize("place", [places.object_store, places.standalone_cluster, places.yarn])
@pytest.mark.timeout(600)
def test_a_source_is_the_same_everywhere(depots: Workload, depots_here: Ran, place: Place, tmp_path: Path) -> None:
    """The smoke of the tests of this module: one small source, by a job that Spark runs there."""
    with place(depots, tmp_path) as run:
        there = run()

    assert there.summary["outcome"] == "done"
    assert {"silver/parcels_depots", "quarantine/parcels_depots", "ops/parcels_files"} <= there.tables.keys()
    assert_same_data(there.tables, depots_here.tables)


@pytest.mark.system
@pytest.mark.parametrize("place", [places.standalone_cluster, places.yarn])
@pytest.mark.timeout(900)
def test_ingest_is_the_same_on_clusters(parcels: Workload, place: Place, tmp_path: Path) -> None:
    """All sources, by the one job that takes minutes; all jobs take a quarter of an hour."""
    work = replace(parcels, job="ingest")
    with places.folder_of_this_machine(work, tmp_path / "here") as run:
        here = run()
    with place(work, tmp_path / "there") as run:
        there = run()

    assert there.summary["outcome"] == "done"
    # The driver's log; on YARN it stays in its container.
    if place is places.standalone_cluster:
        assert re.search(r"ingest\.parcels: about 1 MiB of rows for 2 slots: 2 shuffle partitions \(", there.said)
    assert {"silver/parcels_parcels", "quarantine/parcels_parcels", "ops/parcels_files"} <= there.tables.keys()
    assert_same_data(there.tables, here.tables)


@pytest.mark.system
@pytest.mark.timeout(900)
def test_packed_packages_are_all_that_machines_need(parcels: Workload, parcels_here: Ran, tmp_path: Path) -> None:
    """Workers unpack Python with its packages, and run it."""
    with places.standalone_cluster(replace(parcels, job="ingest"), tmp_path, packed=True) as run:
        there = run()

    assert list(tmp_path.glob("work-*/app-*/*/environment/bin/python"))
    assert_same_data(there.tables, {name: parcels_here.tables[name] for name in there.tables})


@pytest.mark.system
@pytest.mark.parametrize("place", [places.object_store, places.standalone_cluster, places.yarn])
@pytest.mark.timeout(3600)
def test_the_flights_are_the_same_everywhere(flights_here: Ran, place: Place, tmp_path: Path) -> None:
    """All tables of data; each trial's metric; the champion, which are trees, by its metric on the test rows."""
    with place(FLIGHTS, tmp_path) as run:
        there = run()

    assert there.summary["outcome"] == "done"
    assert_same_data(there.tables, flights_here.tables)
    found, expected = (trials(ran.tables["ops/flights_trials"]) for ran in (there, flights_here))
    assert found.keys() == expected.keys()
    assert None not in expected.values()
    for trial, value in expected.items():
        assert found[trial] == pytest.approx(value, abs=TREES if trial[0] == "trees" else 1e-8), trial
    assert {name for name, *_ in found} == {"logistic", "trees"}
    ours, theirs = (area_on_test_rows(ran.tables["ops/flights_metrics"]) for ran in (there, flights_here))
    assert ours == pytest.approx(theirs, abs=TREES)


def trials(table: pa.Table) -> dict[tuple[str, int, int], float]:
    """(candidate, grid point, fold) -> metric."""
    return {(row["candidate"], row["point"], row["fold"]): row["value"] for row in table.to_pylist()}


def area_on_test_rows(table: pa.Table) -> float:
    """Of all test rows, by the one model."""
    (value,) = (row["value"] for row in table.to_pylist() if (row["metric"], row["slice"]) == ("area_under_roc", ""))
    return float(value)


def assert_same(ours: Mapping[str, pa.Table], theirs: Mapping[str, pa.Table], *, measured_to: float) -> None:
    """The same tables with the same rows in any order; figures of models within a relative distance."""
    assert_same_data(ours, theirs)
    for name in filter(is_measured, theirs):
        found, expected = (lakes.figures(tables[name], lakes.APART) for tables in (ours, theirs))
        assert [words for words, _ in found] == [words for words, _ in expected], name
        for (words, mine), (_, other) in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=measured_to, atol=1e-12, err_msg=f"{name}: {words}")


def assert_same_data(ours: Mapping[str, pa.Table], theirs: Mapping[str, pa.Table]) -> None:
    """The same tables; the same rows in any order in those that hold no figures of models."""
    assert ours.keys() == theirs.keys()
    found, expected = (
        {name: lakes.checksum(table, lakes.APART) for name, table in tables.items() if not is_measured(name)}
        for tables in (ours, theirs)
    )
    assert found == expected


def is_measured(name: str) -> bool:
    return any(word in name for word in MEASURED)
