"""The lake on real Delta tables: once per transaction, exact versions, contracts; delta-rs reads the same rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from delta.exceptions import ConcurrentTransactionException
from deltalake import DeltaTable as RustTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from jobs.lake import Lake, Transaction
from transforms.contracts import Contract, Field
from transforms.errors import ContractError

TABLE = Contract(
    "silver/shop_orders",
    (Field("order", "int", "number of the order", True), Field("state", "string", "where it stands")),
    ("order",),
)


@pytest.fixture
def lake(spark: SparkSession, lake_root: str) -> Lake:
    return Lake(spark, str(lake_root))


def orders(spark: SparkSession, *rows: tuple[int, str]) -> DataFrame:
    return spark.createDataFrame(list(rows), TABLE.schema).repartition(2)


@pytest.mark.quick
def test_append_writes_once_per_transaction(spark: SparkSession, lake: Lake) -> None:
    """The second append under the same id writes nothing and gives back the first commit."""
    first = lake.append(orders(spark, (1, "new"), (2, "new")), TABLE, Transaction("a", 1), {"files": 3})
    again = lake.append(orders(spark, (9, "other")), TABLE, Transaction("a", 1), {"files": 9})

    assert (first.rows, first.skipped, first.metadata["files"]) == (2, False, 3)
    assert (again.version, again.rows, again.skipped, again.metadata) == (first.version, 2, True, first.metadata)
    assertDataFrameEqual(lake.read(TABLE), orders(spark, (1, "new"), (2, "new")))


def test_a_commit_is_found_after_later_commits_and_a_restore(spark: SparkSession, lake: Lake) -> None:
    """RESTORE does not undo a transaction id: the same attempt stays done, the next attempt writes."""
    first = lake.append(orders(spark, (1, "new")), TABLE, Transaction("a", 1))
    lake.append(orders(spark, (2, "new")), TABLE, Transaction("b", 1))
    lake.restore(TABLE, first.version - 1)

    assert lake.read(TABLE).count() == 0
    assert lake.append(orders(spark, (1, "new")), TABLE, Transaction("a", 1)).skipped
    assert not lake.append(orders(spark, (1, "new")), TABLE, Transaction("a", 2)).skipped
    assertDataFrameEqual(lake.read(TABLE), orders(spark, (1, "new")))


def test_partitions_stay_when_columns_change(spark: SparkSession, lake: Lake) -> None:
    """A rebuild under other columns keeps the folders that the contract asks for."""
    first = replace(TABLE, partition_by=("state",))
    wider = replace(first, fields=(*first.fields, Field("note", "string", "what was said")))
    lake.append(orders(spark, (1, "new"), (2, "paid")), first, Transaction("a", 1))
    rows = orders(spark, (3, "new")).selectExpr("*", "'late' AS note")

    lake.replace(rows, wider, Transaction("b", 1), new_columns=True)

    assert RustTable(lake.path(wider)).metadata().partition_columns == ["state"]
    assertDataFrameEqual(lake.read(wider), rows)


@pytest.mark.parametrize("allowed", ["1000", "1"])
def test_transactions_are_known_from_the_checksum_or_without_it(spark: SparkSession, lake: Lake, allowed: str) -> None:
    """Delta leaves ids out of the checksum once there are more than allowed; then its state is asked. A missing file is no answer."""
    known = "spark.databricks.delta.setTransactionsInCrc.maxAllowed"
    before = spark.conf.get(known)
    spark.conf.set(known, allowed)
    try:
        commits = [lake.append(orders(spark, (i, "new")), TABLE, Transaction(f"a{i}", 1)) for i in range(3)]
        checksum = Path(lake.path(TABLE), "_delta_log", f"{3:020d}.crc")
        assert ("setTransactions" in json.loads(checksum.read_text())) == (allowed == "1000")
        assert lake.committed(TABLE, Transaction("a1", 1)) == replace(commits[1], skipped=True)
        checksum.unlink()
        assert lake.committed(TABLE, Transaction("a1", 1)) == replace(commits[1], skipped=True)
        assert lake.committed(TABLE, Transaction("a3", 1)) is None
    finally:
        spark.conf.set(known, before)


def test_of_two_writers_of_one_transaction_one_commits(
    spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other had looked before that commit; Delta refuses what it wrote."""
    lake.create(TABLE)
    commit = Lake._commit

    def overtaken(self: Lake, *given: Any) -> None:
        monkeypatch.undo()
        Lake(spark, lake.root).append(orders(spark, (1, "first")), TABLE, Transaction("a", 1))
        commit(self, *given)

    monkeypatch.setattr(Lake, "_commit", overtaken)
    with pytest.raises(ConcurrentTransactionException):
        lake.append(orders(spark, (1, "second")), TABLE, Transaction("a", 1))
    assertDataFrameEqual(lake.read(TABLE), orders(spark, (1, "first")))


def test_merge_replaces_known_keys_and_inserts_the_rest(spark: SparkSession, lake: Lake) -> None:
    """`update` keeps stored rows that do not meet it; a repeated merge changes nothing; its settings do not leak."""
    lake.append(orders(spark, (1, "new"), (2, "paid")), TABLE, Transaction("a", 1))
    change = orders(spark, (1, "paid"), (2, "new"), (3, "new"))

    commit = lake.merge(change, TABLE, Transaction("m", 1), update="target.state = 'new'")
    again = lake.merge(change, TABLE, Transaction("m", 1), update="target.state = 'new'")
    later = lake.append(orders(spark, (4, "new")), TABLE, Transaction("c", 1))

    assert (commit.rows, commit.skipped, again.skipped, later.skipped) == (2, False, True, False)
    assertDataFrameEqual(lake.read(TABLE), orders(spark, (1, "paid"), (2, "paid"), (3, "new"), (4, "new")))


def test_every_version_stays_readable_and_delta_rs_agrees(spark: SparkSession, lake: Lake) -> None:
    """An independent reader of the format finds the same rows at the same version."""
    one = lake.append(orders(spark, (1, "new")), TABLE, Transaction("a", 1))
    two = lake.replace(orders(spark, (2, "new")), TABLE, Transaction("r", 1))
    lake.delete(TABLE, "order = 2", Transaction("d", 1))

    for commit, rows in ((one, [{"order": 1, "state": "new"}]), (two, [{"order": 2, "state": "new"}])):
        assertDataFrameEqual(lake.read(TABLE, commit.version), spark.createDataFrame(rows, TABLE.schema))
        assert RustTable(lake.path(TABLE), version=commit.version).to_pyarrow_table().to_pylist() == rows
    assert lake.read(TABLE).count() == 0


@pytest.mark.quick
def test_an_absent_table_or_version_is_a_sentence(spark: SparkSession, lake: Lake) -> None:
    with pytest.raises(ContractError) as absent:
        lake.read(TABLE)
    assert str(absent.value) == (
        f"{lake.path(TABLE)}: expected a Delta table, found none. Run the job that writes it first."
    )
    lake.create(TABLE)
    with pytest.raises(ContractError) as gone:
        lake.read(TABLE, 7)
    assert str(gone.value) == (
        f"{lake.path(TABLE)}: version 7 cannot be read (the latest is 0): DELTA_VERSION_NOT_FOUND."
        " Its log or files are gone; run the job that wrote it with --force."
    )


@pytest.mark.quick
def test_a_frame_that_breaks_its_contract_is_refused_with_all_differences(spark: SparkSession, lake: Lake) -> None:
    with pytest.raises(ContractError) as refused:
        lake.append(spark.createDataFrame([("x",)], "order string"), TABLE, Transaction("a", 1))
    assert str(refused.value) == (
        "silver/shop_orders: 2 difference(s) from its contract: 'order' is string, expected int; missing column 'state' (string)."
    )


def test_a_commit_whose_version_has_left_the_log_is_a_sentence(spark: SparkSession, lake: Lake) -> None:
    """A checkpoint remembers the transaction, and no file of the log says which version it made."""
    lake.append(orders(spark, (1, "new")), TABLE, Transaction("a", 1))
    lake.append(orders(spark, (2, "new")), TABLE, Transaction("b", 1))
    assert spark._jvm is not None
    log = spark._jvm.org.apache.spark.sql.delta.DeltaLog
    log.forTable(spark._jsparkSession, lake.path(TABLE)).checkpoint()
    for version in (0, 1):
        Path(lake.path(TABLE), "_delta_log", f"{version:020}.json").unlink()
    log.clearCache()

    with pytest.raises(ContractError) as lost:
        lake.append(orders(spark, (1, "new")), TABLE, Transaction("a", 1))
    assert str(lost.value) == (
        f"{lake.path(TABLE)}: transaction a stands at attempt 1, expected attempt 1 in the table's history and found none. Use"
        " --force to start a new attempt."
    )
    assert lake.append(orders(spark, (2, "new")), TABLE, Transaction("b", 1)).skipped


def test_a_part_of_a_table_is_replaced(spark: SparkSession, lake: Lake) -> None:
    """Rows that meet the condition give way, others stay; rows that do not meet it are refused; once per transaction."""
    lake.append(orders(spark, (1, "new"), (2, "new"), (3, "paid")), TABLE, Transaction("a", 1))
    commit = lake.replace(orders(spark, (4, "new")), TABLE, Transaction("b", 1), {"days": "x"}, where="state = 'new'")
    again = lake.replace(orders(spark, (5, "new")), TABLE, Transaction("b", 1), where="state = 'new'")

    assert (commit.skipped, again.skipped, again.version, again.metadata["days"]) == (False, True, commit.version, "x")
    assertDataFrameEqual(lake.read(TABLE), orders(spark, (3, "paid"), (4, "new")))
    with pytest.raises(Exception, match="DELTA_REPLACE_WHERE_MISMATCH"):
        lake.replace(orders(spark, (6, "paid")), TABLE, Transaction("c", 1), where="state = 'new'")
    lake.replace(orders(spark), TABLE, Transaction("d", 1), where="state < ''")
    assertDataFrameEqual(lake.read(TABLE), orders(spark, (3, "paid"), (4, "new")))


@pytest.mark.parametrize("partition_by", [(), ("state",)])
def test_rows_that_two_versions_do_not_share(spark: SparkSession, lake: Lake, partition_by: tuple[str, ...]) -> None:
    """After an append, a merge that changes one row of a file of many, a delete, and a rewrite that changes nothing."""
    table = replace(
        TABLE, partition_by=partition_by, fields=(*TABLE.fields, Field("_file", "string", "where it came from"))
    )

    def rows(*given: tuple[int, str | None, str]) -> DataFrame:
        return spark.createDataFrame(list(given), table.schema).coalesce(1)

    first = lake.append(rows((1, "new", "f"), (2, "new", "f"), (3, None, "f")), table, Transaction("a", 1)).version
    appended = lake.append(rows((4, "a b", "g")), table, Transaction("b", 1)).version
    merged = lake.merge(rows((1, "paid", "h"), (2, "new", "h")), table, Transaction("c", 1)).version
    deleted = lake.delete(table, "order = 4", Transaction("d", 1)).version
    whole = lake.replace(lake.read(table), table, Transaction("e", 1)).version

    def changed(before: int, after: int) -> list[tuple[int, str | None]]:
        return sorted(tuple(row) for row in lake.changed(table, before, after).collect())  # type: ignore[arg-type]

    assert changed(first, appended) == [(4, "a b")]
    assert changed(appended, merged) == [(1, "new"), (1, "paid")]
    assert changed(merged, deleted) == [(4, "a b")]
    assert changed(deleted, whole) == []
    assert changed(first, whole) == [(1, "new"), (1, "paid")]
    assert changed(whole, first) == [(1, "new"), (1, "paid")]
