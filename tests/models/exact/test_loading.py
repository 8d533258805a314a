"""Rows of a partition from Arrow batches to blocks, in memory and in files."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.exact import task
from models.exact.worker.blocks import Blocks
from models.exact.worker.loading import InputFailed, load
from models.exact.worker.memory import budget
from transforms.errors import ModelError

pytestmark = pytest.mark.quick
Columns = dict[str, np.ndarray]


def rows(n: int, q: int, g: int, seed: int = 1) -> Columns:
    random = np.random.default_rng(seed)
    return {
        "cell": random.choice([0, 2, 3, 7], n).astype(np.int32),
        "dense": random.normal(size=(n, q)),
        "codes": random.integers(-1, 4, (n, g)).astype(np.int32),
        "label": random.normal(size=n),
        "weight": random.uniform(0.5, 2.0, n),
    }


def batches(columns: Columns, *sizes: int) -> Iterator[pa.RecordBatch]:
    """As Spark sends them: a list column's elements in one buffer."""
    start = 0
    for size in sizes:
        part = {name: array[start : start + size] for name, array in columns.items()}
        start += size
        yield pa.RecordBatch.from_pydict({
            "cell": pa.array(part["cell"], pa.int32()),
            "dense": pa.array(part["dense"].tolist(), pa.list_(pa.float64())),
            "codes": pa.array(part["codes"].tolist(), pa.list_(pa.int32())),
            "label": pa.array(part["label"]),
            "weight": pa.array(part["weight"]),
        })  # fmt: skip
    assert start == len(columns["cell"])


def one_batch(**changed: Any) -> Iterator[pa.RecordBatch]:
    """Three rows of two features."""
    columns = {
        "cell": pa.array([0, 0, 1], pa.int32()),
        "dense": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float64())),
        "codes": pa.array([[], [], []], pa.list_(pa.int32())),
        "label": pa.array([1.0, 2.0, 3.0]),
        "weight": pa.array([1.0, 1.0, 1.0]),
    }
    yield pa.RecordBatch.from_pydict(columns | changed)


def assert_holds(blocks: Blocks, columns: Columns) -> None:
    """Cells in order, each with its rows as they came: against a mask over all rows."""
    assert [cell.number for cell in blocks.cells] == np.unique(columns["cell"]).tolist()
    for cell in blocks.cells:
        mine = columns["cell"] == cell.number
        for name in ("dense", "codes", "label", "weight"):
            array = getattr(cell, name)
            np.testing.assert_array_equal(array, columns[name][mine])
            assert array.dtype == columns[name].dtype
            assert array.flags.c_contiguous and array.flags.writeable
            assert type(array) is np.ndarray


@pytest.mark.parametrize("memory", [None, 10**9, 3000, 0], ids=["no limit", "fits", "some in files", "all in files"])
@pytest.mark.parametrize(("q", "g"), [(5, 0), (5, 2), (0, 3)])
def test_rows_are_put_in_order_of_cells(q: int, g: int, memory: int | None, tmp_path: Path) -> None:
    columns = rows(200, q, g)

    blocks = load(batches(columns, 1, 0, 100, 60, 39), (4,) * g, memory, str(tmp_path))

    assert_holds(blocks, columns)
    assert blocks.levels == (4,) * g
    assert list(tmp_path.iterdir()) == []


def test_rows_in_files_can_be_changed_in_place(tmp_path: Path) -> None:
    columns = rows(50, 3, 0)
    blocks = load(batches(columns, 50), (), 0, str(tmp_path))
    for cell in blocks.cells:
        np.subtract(cell.dense, 1.0, out=cell.dense)

    assert_holds(blocks, columns | {"dense": columns["dense"] - 1.0})


def test_few_bytes_are_held_beside_the_files(tmp_path: Path) -> None:
    """Only what fits the budget is held while batches come."""
    columns = rows(400, 4, 0)
    alive: list[Any] = []

    def watched() -> Iterator[pa.RecordBatch]:
        before = pa.total_allocated_bytes()
        for batch in batches(columns, *[40] * 10):
            alive.append(pa.total_allocated_bytes() - before)
            yield batch
            del batch

    load(watched(), (), 3000, str(tmp_path))

    assert max(alive) < 10_000 < 400 * 4 * 8


def test_a_partition_without_rows_has_no_cells(tmp_path: Path) -> None:
    assert load(iter(()), (), 0, str(tmp_path)) == Blocks([], ())
    assert load(batches(rows(0, 3, 0), 0), (), None, str(tmp_path)) == Blocks([], ())


@pytest.mark.parametrize("memory", [None, 0])
def test_missing_values_are_counted_by_column(memory: int | None, tmp_path: Path) -> None:
    def two() -> Iterator[pa.RecordBatch]:
        dense = [[1.0, None], [float("nan"), 4.0], [5.0, float("nan")]]
        yield from one_batch(dense=pa.array(dense, pa.list_(pa.float64())))
        yield from one_batch(label=pa.array([1.0, None, 2.0]))
        dense = [[1.0, np.inf], [2.0, -np.inf], [5.0, float("nan")]]
        yield from one_batch(dense=pa.array(dense, pa.list_(pa.float64())))

    with pytest.raises(ModelError) as raised:
        load(two(), (), memory, str(tmp_path))

    assert [problem.partition(" rows")[0] for problem in raised.value.problems] == [
        "Feature 0 (counted from 0) is null or NaN in 1",
        "Feature 1 (counted from 0) is null or NaN in 3",
        "Column 'label' is null or NaN in 1",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dense": pa.array([[1.0], None, [2.0]], pa.list_(pa.float64()))}, "'dense' is null in 1 rows"),
        ({"dense": pa.array([[1.0], [1.0, 2.0], [2.0]], pa.list_(pa.float64()))}, "'dense' has 2 elements in one row and 1"),
        ({"codes": pa.array([[1], [1], [2]], pa.list_(pa.int32()))}, "'codes' has 1 elements in one row and 0"),
        ({"cell": pa.array([0, None, 1], pa.int32())}, "'cell' is null or NaN in 1 rows"),
        ({"weight": pa.array([1.0, float("nan"), None])}, "'weight' is null or NaN in 2 rows"),
    ],
)  # fmt: skip
def test_rows_that_are_not_a_matrix_are_named(changed: dict[str, pa.Array], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        load(one_batch(**changed), (), None, str(tmp_path))


def test_infinities_are_no_missing_values(tmp_path: Path) -> None:
    dense = pa.array([[np.inf, 1.0], [-np.inf, 2.0], [3.0, 4.0]], pa.list_(pa.float64()))

    blocks = load(one_batch(dense=dense), (), None, str(tmp_path))

    np.testing.assert_array_equal(blocks.cells[0].dense, [[np.inf, 1.0], [-np.inf, 2.0]])


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ModelError, match=rf"could not be written to {tmp_path}: .*Free space in spark.local.dir"):
            load(batches(rows(2000, 5, 0), 1000, 1000), (), 0, str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_mapped_are_a_sentence(tmp_path: Path) -> None:
    """`spark.executor.pyspark.memory` limits the address space, of which mapped files take their size."""
    n, q, count = 4096, 128, 64
    dense = pa.ListArray.from_arrays(np.arange(0, n * q + 1, q, dtype=np.int32), np.ones(n * q))
    none = pa.ListArray.from_arrays(np.zeros(n + 1, dtype=np.int32), pa.array([], pa.int32()))
    ones = pa.array(np.ones(n))
    batch = pa.RecordBatch.from_arrays(
        [pa.array(np.zeros(n, dtype=np.int32)), dense, none, ones, ones],
        ["cell", "dense", "codes", "label", "weight"],
    )
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (128 << 20), hard))
    try:
        with pytest.raises(ModelError) as error:
            load((batch for _ in range(count)), (), 1 << 20, str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    size = count * n * (q + 2) * 8 >> 20
    assert error.value.problems == (
        f"{count * n} rows of one partition lie in files of {size} MiB, which cannot be mapped into memory: Cannot allocate"
        " memory. spark.executor.pyspark.memory limits addresses, files included: raise it or leave it unset, or use more"
        " executors.",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_spark_is_not_ours(tmp_path: Path) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from one_batch()
        raise EOFError("stream ended")

    with pytest.raises(InputFailed, match="stream ended"):
        load(broken(), (), None, str(tmp_path))


def test_the_budget_is_shared_and_below_the_machine() -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    alone, four = budget(1), budget(4)

    assert 0 < alone <= machine // 2
    assert four == pytest.approx(alone / 4, rel=0.1)


def test_a_new_worker_does_not_import_pandas(tmp_path: Path) -> None:
    """Neither to read rows nor to answer: it would take as long as the whole search of a linear model."""
    file = tmp_path / "rows.arrow"
    first, *others = batches(rows(30, 3, 1), 10, 20)
    with pa.ipc.new_stream(file, first.schema) as stream:
        for batch in (first, *others):
            stream.write_batch(batch)
    code = """
import sys
import pyarrow as pa
from models.exact import task
from models.exact.worker.answers import Rows
from models.exact.worker.loading import load
rows = Rows(lambda: load(pa.ipc.open_stream(sys.argv[1]), (4,), None, "."))
rows.answer("moments", {})
task._row(0, 0, b"reply")
print("pandas" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_the_row_of_a_part_of_a_reply() -> None:
    row = task._row(3, 1, b"reply")
    assert row.to_pylist() == [{"worker": 3, "part": 1, "answer": b"reply"}]
