"""Maintenance on real tables: pinned versions stay whole, other old files go, small files become few."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable as RustTable
from pyspark.sql import SparkSession

from conf.schema import Environment
from jobs import maintain, plan, vacuum
from jobs.lake import Lake, Transaction
from jobs.maintain import Pin
from jobs.runs import Ledger, Run, Stage
from jobs.vacuum import Cleaned
from tests.jobs import shop
from transforms import contracts
from transforms.contracts import Contract, Field
from transforms.errors import RefusedError

TABLE = Contract("silver/stall_orders", (Field("order", "int", "number of the order", True),), ("order",))


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, f"{tmp_path}/the lake")


def written(lake: Lake, contract: Contract, *sizes: int) -> None:
    """A table replaced once per size: version 0 is empty, version n holds sizes[n - 1] rows in two files."""
    for number, size in enumerate(sizes):
        frame = lake.spark.range(size).selectExpr("CAST(id AS INT) AS order").repartition(2)
        lake.replace(frame, contract, Transaction("w", number + 1))


def keep_nothing(lake: Lake, contract: Contract, *, log: str = "400 days") -> None:
    """Let old files go at once. Delta compares the two times of one statement, hence both."""
    lake.spark.sql(
        f"ALTER TABLE delta.`{lake.path(contract)}` SET TBLPROPERTIES ('delta.deletedFileRetentionDuration' = 'interval 0 seconds',"
        f" 'delta.logRetentionDuration' = 'interval {log}')"
    )


def files(lake: Lake, contract: Contract) -> int:
    return len(list(Path(lake.path(contract)).glob("*.parquet")))


def rows(lake: Lake, contract: Contract, version: int) -> int:
    """Counted by delta-rs, which opens every file."""
    return RustTable(lake.path(contract), version=version).to_pyarrow_table().num_rows


def test_vacuum_leaves_the_latest_and_the_pinned_versions(lake: Lake) -> None:
    """Versions 1 and 3 go, the pinned version 2 and the latest stay; a second call finds nothing; an unfinished writer's old file goes."""
    written(lake, TABLE, 10, 20, 30, 40)
    keep_nothing(lake, TABLE)
    Path(lake.path(TABLE), "part-left-by-a-killed-writer.parquet").write_bytes(b"1234")
    size = sum(file.stat().st_size for file in Path(lake.path(TABLE)).glob("*.parquet"))

    before = vacuum.removable(lake, TABLE.table, {2})
    cleaned = vacuum.vacuum(lake, TABLE.table, {2})
    again = vacuum.vacuum(lake, TABLE.table, {2})

    left = sum(file.stat().st_size for file in Path(lake.path(TABLE)).glob("*.parquet"))
    assert cleaned == Cleaned(removed=5, bytes=size - left, pinned=2)
    assert again == Cleaned(removed=0, bytes=0, pinned=2)
    assert before == cleaned
    assert files(lake, TABLE) == 4
    assert [rows(lake, TABLE, version) for version in (2, 4)] == [20, 40]
    assert lake.read(TABLE, 2).count() == 20
    with pytest.raises(FileNotFoundError):
        rows(lake, TABLE, 3)
    assert vacuum.unreliable(lake, TABLE.table, {2, 3, 4}) == {3: "2 of its files are gone"}


def test_files_younger_than_the_retention_stay(lake: Lake) -> None:
    """A table has the seven days of its contract: neither old versions nor a writer that has not committed lose a file."""
    written(lake, TABLE, 10, 20)
    Path(lake.path(TABLE), "part-of-a-running-writer.parquet").write_bytes(b"1234")

    assert vacuum.vacuum(lake, TABLE.table, set()) == Cleaned(removed=0, bytes=0, pinned=0)
    assert files(lake, TABLE) == 5


def test_many_small_files_become_few_and_no_row_changes(lake: Lake) -> None:
    """A table of few files is left alone, one of many is compacted once; the version before stays readable."""
    written(lake, TABLE, 10)
    assert not vacuum.compact(lake, TABLE.table)
    part = lake.spark.range(100, 120, 1, 20).selectExpr("CAST(id AS INT) AS order")
    lake.append(part, TABLE, Transaction("a", 1))
    before = lake.version(TABLE)
    assert before is not None

    assert vacuum.compact(lake, TABLE.table)
    assert not vacuum.compact(lake, TABLE.table)

    expected = [*range(10), *range(100, 120)]
    assert len(RustTable(lake.path(TABLE)).file_uris()) == 1
    assert sorted(row["order"] for row in lake.read(TABLE).collect()) == expected
    assert sorted(row["order"] for row in lake.read(TABLE, before).collect()) == expected


def a_run(lake: Lake) -> tuple[Run, Callable[..., None]]:
    """A run of the pipeline `stall`, and a function that records a stage."""
    ledger = Ledger(lake, "stall")

    def record(job: str, inputs: dict[str, int], outputs: dict[str, int]) -> None:
        number = len(ledger.stages())
        stamp = datetime(2024, 1, 1, 0, number)
        ledger.record(Stage(job, None, str(number), 1, inputs, outputs, None, None, 1.0, {}, "c0de", stamp))

    environment = Environment(lake=lake.root)
    return Run(lake.spark, shop.pipeline("stall"), environment, lake, ledger), record


def release(lake: Lake, challenger: int, tables: dict[str, int], *, promoted: bool = True) -> None:
    contract = contracts.releases("stall")
    row: dict[str, Any] = {
        "decision": f"d{challenger}",
        "challenger": challenger,
        "champion_before": None,
        "champion_after": challenger,
        "promoted": promoted,
        "reason": "r",
        "tables": tables,
        "recorded_at": datetime(2024, 1, challenger, tzinfo=UTC),
    }
    frame = lake.spark.createDataFrame([row], contract.schema).coalesce(1)
    lake.append(frame, contract, Transaction(f"r{challenger}", 1))


def test_models_and_last_runs_keep_their_versions(lake: Lake) -> None:
    """Pinned are the tables of every promoted model and of each job's last run; only they survive, and a table of another pipeline."""
    written(lake, TABLE, 10, 20, 30, 40, 50, 60)
    neighbour = Contract("silver/stall_eu_orders", TABLE.fields, TABLE.key)
    written(lake, neighbour, 10, 20)
    for contract in (TABLE, neighbour):
        keep_nothing(lake, contract)
    run, record = a_run(lake)
    record("features", {TABLE.table: 3}, {})
    record("features", {TABLE.table: 5}, {})
    release(lake, 1, {TABLE.table: 1})
    release(lake, 2, {TABLE.table: 2})
    release(lake, 3, {TABLE.table: 4}, promoted=False)

    assert maintain.pins(run) == [
        Pin(TABLE.table, 1, "model version 1", retired=True),
        Pin(TABLE.table, 2, "model version 2"),
        Pin(TABLE.table, 5, "the last run of features"),
    ]
    assert plan.describe(run, "maintain").splitlines()[3].startswith("  would remove at most 4 file(s), ")
    outcome = maintain.run(run)

    assert outcome.details["tables"][TABLE.table] | {"bytes": 0} == {
        "compacted": False,
        "removed": 4,
        "bytes": 0,
        "pinned": 6,
    }
    assert sorted(outcome.details["tables"]) == ["ops/stall_releases", "ops/stall_stages", TABLE.table]
    assert not outcome.unchanged
    assert [rows(lake, TABLE, version) for version in (1, 2, 5, 6)] == [10, 20, 50, 60]
    assert set(vacuum.unreliable(lake, TABLE.table, range(1, 7))) == {3, 4}
    assert files(lake, neighbour) == 4


def test_a_pin_that_cannot_be_kept_is_refused_before_anything_is_removed(lake: Lake) -> None:
    """The champion's version older than the log retention, and a version that never was; a retired model's is let go."""
    written(lake, TABLE, 10, 20, 30)
    run, record = a_run(lake)
    release(lake, 1, {TABLE.table: 99})
    release(lake, 2, {TABLE.table: 1})
    keep_nothing(lake, TABLE, log="0 seconds")
    record("features", {TABLE.table: 98}, {})

    with pytest.raises(RefusedError) as error:
        maintain.run(run)

    cure = (
        " Nothing was removed. Run that job again, or train and promote a new model; to keep the log for longer, set the table's"
        " delta.logRetentionDuration."
    )
    assert error.value.problems == (
        f"{TABLE.table}: model version 2 needs version 1, and it is older than the 0 days for which the table keeps its log.{cure}",
        f"{TABLE.table}: the last run of features needs version 98, and its log is gone.{cure}",
    )
    assert files(lake, TABLE) == 6
