"""Deliveries into a real small lake, read back with delta-rs; what a table must hold is written down or worked out by pandas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from conf.schema import Environment, Pipeline
from jobs import ingest
from jobs.lake import Lake
from jobs.landing import Landing
from jobs.manifests import FileLedger
from jobs.runs import Ledger, Outcome, Run
from transforms.errors import ContractError, QualityError, RefusedError

SOURCE: dict[str, Any] = {
    "files": "orders/*.csv",
    "nulls": ["NA"],
    "columns": {"number": "int!", "item": "string", "price": "double", "ordered_at": "timestamp"},
    "key": ["number"],
    "at": "ordered_at",
    "rules": {"priced": "price >= 0"},
}
HEADER = "number,item,price,ordered_at\n"


class Shop:
    """A raw folder, a lake, and the job between them."""

    def __init__(self, spark: SparkSession, folder: Path, **changes: Any) -> None:
        self.spark, self.raw, self.lake = spark, folder / "raw", folder / "lake"
        (self.raw / "orders").mkdir(parents=True, exist_ok=True)
        self.source = {**SOURCE, **changes}

    def put(self, name: str, rows: Sequence[str], header: str = HEADER) -> None:
        (self.raw / "orders" / name).write_text(header + "".join(row + "\n" for row in rows))

    def run(self, *, force: bool = False) -> Run:
        pipeline = Pipeline.model_validate(
            {
                "pipeline": "shop",
                "task": "regression",
                "timezone": "Europe/Paris",
                "sources": {"orders": self.source},
                "features": {"spine": "orders", "label": {"name": "price", "value": "price"}},
                "split": {"test": {"share": 0.2}},
                "train": {"metric": "rmse", "candidates": {"linear": {"estimator": "linear_regression"}}},
            }
        )
        lake = Lake(self.spark, str(self.lake))
        environment = Environment(raw=str(self.raw), lake=str(self.lake))
        return Run(self.spark, pipeline, environment, lake, Ledger(lake, "shop"), force=force)

    def ingest(self, *, force: bool = False) -> Outcome:
        (outcome,) = ingest.run(self.run(force=force))
        return outcome

    def table(self, name: str) -> pd.DataFrame:
        return DeltaTable(str(self.lake / name)).to_pyarrow_table().to_pandas()

    def silver(self) -> list[tuple[Any, ...]]:
        rows = self.table("silver/shop_orders").sort_values("number")
        return list(rows[["number", "item", "_file"]].itertuples(index=False, name=None))

    def quarantined(self) -> list[tuple[Any, ...]]:
        rows = self.table("quarantine/shop_orders")
        found = rows[["kind", "raw", "reasons", "_file"]].itertuples(index=False, name=None)
        return sorted((kind, raw, tuple(reasons), file) for kind, raw, reasons, file in found)

    def versions(self) -> dict[str, int]:
        return {
            str(log.parent.relative_to(self.lake)): DeltaTable(str(log.parent)).version()
            for log in self.lake.glob("*/*/_delta_log")
        }


@pytest.fixture
def shop(spark: SparkSession, tmp_path: Path) -> Iterator[Shop]:
    yield Shop(spark, tmp_path)


def test_every_row_is_good_quarantined_or_duplicate_and_a_second_run_writes_nothing(shop: Shop) -> None:
    shop.put("2024-01-01.csv", ["1,a,1.5,2024-01-01 10:00:00", "2,b,NA,NA", "x,c,1,", "3,c,-1,", "4,d,2,", "4,d,2,"])
    shop.put("2024-01-02.csv", ["2.5,b,1", "extra,5,e,2024-01-02,7"], header="more,number,item,ordered_at,price\n")
    shop.put("empty.csv", [], header="")
    first = shop.ingest()

    assert shop.silver() == [
        (1, "a", "orders/2024-01-01.csv"),
        (4, "d", "orders/2024-01-01.csv"),
        (5, "e", "orders/2024-01-02.csv"),
    ]
    negative, null = (
        "rule priced: price >= 0 is false or null",
        '{"number":"2","item":"b","price":"NA","ordered_at":"NA"}',
    )
    again = "duplicate: another row of this delivery with the same key ranks before it"
    assert shop.quarantined() == [
        ("bad", "2.5,b,1", ("malformed: the line does not have 5 field(s)",), "orders/2024-01-02.csv"),
        ("bad", null, (negative,), "orders/2024-01-01.csv"),
        ("bad", '{"number":"3","item":"c","price":"-1","ordered_at":null}', (negative,), "orders/2024-01-01.csv"),
        (
            "bad",
            '{"number":"x","item":"c","price":"1","ordered_at":null}',
            ("number: 'x' is not an int",),
            "orders/2024-01-01.csv",
        ),
        ("duplicate", '{"number":4,"item":"d","price":2.0,"ordered_at":null}', (again,), "orders/2024-01-01.csv"),
    ]
    taken = shop.table("ops/shop_files").query("status == 'taken'").sort_values("path")
    counts = taken[["path", "rows_read", "rows_good", "rows_quarantined", "rows_duplicate"]]
    assert counts.values.tolist() == [
        ["orders/2024-01-01.csv", 6, 2, 3, 1],
        ["orders/2024-01-02.csv", 2, 1, 1, 0],
        ["orders/empty.csv", 0, 0, 0, 0],
    ]
    details = first.details
    assert (first.rows_in, first.rows_out, first.unchanged) == (8, 3, False)
    assert (details["undeclared"], details["empty"]) == (["more"], ["orders/empty.csv"])
    assert details["latest_at"] == "2024-01-01T23:00:00"
    assert details["reasons"][0] == {"reason": negative, "rows": 2}

    before = shop.versions()
    second = shop.ingest()
    assert (second.unchanged, second.outputs, second.details) == (True, first.outputs, first.details)
    assert shop.versions() == before
    assert ingest.new_files(shop.run()) == {"orders": []}


DELIVERIES = {
    "2024-01-01.csv": ["1,a,1,", "2,b,2,", "3,c,3,"],
    "2024-01-02.csv": ["1,Z,1,", "2,Y,2,", "3,X,3,", "5,e,5,", "5,f,5,"],
    "2024-01-03.csv": ["1,a,1,", "2,B,2,", "4,d,4,"],
}


@pytest.fixture(scope="module")
def at_once(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What one run over all deliveries leaves in the table."""
    whole = Shop(spark, tmp_path_factory.mktemp("at_once"))
    for name, lines in DELIVERIES.items():
        whole.put(name, lines)
    whole.ingest()
    return [row[:2] for row in whole.silver()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", [(0, 2, 1), *(pytest.param(order, marks=pytest.mark.system) for order in ((0, 1, 2), (2, 0, 1)))]
)
def test_the_table_does_not_depend_on_the_order_of_arrival(
    shop: Shop, at_once: list[Any], order: tuple[int, ...]
) -> None:
    """One file a run in any order gives the content of all at once, and of pandas; every row of every file stays accounted for."""
    names = list(DELIVERIES)
    for index in order:
        shop.put(names[index], DELIVERIES[names[index]])
        shop.ingest()

    assert [row[:2] for row in shop.silver()] == at_once
    rows = [row.split(",")[:2] for name in names for row in DELIVERIES[name]]
    last = dict(rows)
    last.pop("5")  # two rows of one file: by their content
    assert {str(number): item for number, item in at_once if number != 5} == last
    assert dict(at_once)[5] in "ef"

    quarantine, silver = shop.table("quarantine/shop_orders"), shop.table("silver/shop_orders")
    held = pd.concat([quarantine["_file"], silver["_file"]]).value_counts().to_dict()
    assert held == {f"orders/{name}": len(lines) for name, lines in DELIVERIES.items()}


def test_a_copy_under_another_name_changes_nothing_and_a_correction_replaces_its_rows(shop: Shop) -> None:
    shop.put("2024-01-01.csv", ["1,a,1,", "2,b,2,"])
    first = shop.ingest()
    shop.put("copy of 2024-01-01.csv", ["1,a,1,", "2,b,2,"])
    copied = shop.ingest()
    assert copied.outputs["silver/shop_orders"] == first.outputs["silver/shop_orders"]
    assert (copied.rows_out, copied.details["rows_duplicate"]) == (0, 2)

    shop.put("copy of 2024-01-01.csv", ["1,a,1,", "2,corrected,2,"])
    corrected = shop.ingest()
    assert (corrected.rows_out, corrected.details["rows_duplicate"]) == (1, 1)
    assert shop.silver() == [(1, "a", "orders/2024-01-01.csv"), (2, "corrected", "orders/copy of 2024-01-01.csv")]


def test_a_failed_expectation_restores_the_table_and_the_corrected_file_is_taken(
    spark: SparkSession, tmp_path: Path
) -> None:
    mean = {"expect_column_mean_to_be_between": {"column": "price", "min_value": 0, "max_value": 10}}
    shop = Shop(
        spark, tmp_path, expect=[mean], expect_table=[{"expect_table_row_count_to_be_between": {"min_value": 1}}]
    )
    shop.put("2024-01-01.csv", ["1,a,1,", "2,b,3,"])
    shop.ingest()
    silver = shop.silver()
    shop.put("2024-01-02.csv", ["1,dear,500,", "3,c,700,", "bad,,,"])
    with pytest.raises(QualityError) as caught:
        shop.ingest()
    assert caught.value.problems == (
        "sources.orders.expect:1: expected expect_column_mean_to_be_between of price (min_value=0, max_value=10): found 600.0."
        " The table is as it was before; correct the files or the expectation.",
    )
    assert shop.silver() == silver
    assert [row[0] for row in shop.quarantined()] == ["bad"]
    status = shop.table("ops/shop_files").query("path == 'orders/2024-01-02.csv'")["status"]
    assert sorted(status) == ["planned", "refused"]

    shop.put("2024-01-02.csv", ["1,dear,5,", "3,c,7,"])
    assert shop.ingest().rows_out == 2
    assert [row[:2] for row in shop.silver()] == [(1, "dear"), (2, "b"), (3, "c")]


def test_files_that_lack_a_column_are_all_named(shop: Shop) -> None:
    shop.put("a.csv", ["1"], header="number\n")
    shop.put("b.csv", ["1,1"], header="number,NUMBER\n")
    shop.put("c.csv", ["1,a,1,"])
    with pytest.raises(ContractError) as caught:
        shop.ingest()
    root = f"file:{shop.raw}/orders"
    missing = "expected column(s) item, price, ordered_at; found"
    assert sorted(caught.value.problems) == [
        f"{root}/a.csv: {missing} number",
        f"{root}/b.csv: {missing} number, NUMBER",
        f"{root}/b.csv: the header has 'number' and 'NUMBER'; expected each name once",
    ]
    assert shop.silver() == []


def test_no_files_at_all_is_an_error(shop: Shop) -> None:
    with pytest.raises(ContractError) as caught:
        shop.ingest()
    assert (
        str(caught.value)
        == f"sources.orders.files: expected files that match file:{shop.raw}/orders/*.csv, found none."
    )


def test_a_file_that_changes_after_it_was_listed_is_refused(shop: Shop) -> None:
    """A run was killed after its manifest; the file is another one when the next run comes to finish it."""
    shop.put("a.csv", ["1,a,1,"])
    run = shop.run()
    files = Landing(shop.spark, str(shop.raw)).files("orders/*.csv")
    ledger = FileLedger(run.lake, "shop", "orders")
    ledger.plan(files, ingest._versions(run, "orders", rebuilds=False), None, rebuilds=False)
    shop.put("a.csv", ["1,other,1,"])
    with pytest.raises(
        ContractError, match=r"a\.csv: was listed with content sha256:.* Nothing of its delivery is kept"
    ):
        shop.ingest()
    assert shop.ingest().rows_out == 1
    assert [row[:2] for row in shop.silver()] == [(1, "other")]


def test_force_reads_everything_again_under_todays_columns_but_loses_no_rows(
    spark: SparkSession, tmp_path: Path
) -> None:
    shop = Shop(spark, tmp_path)
    shop.put("2024-01-01.csv", ["1,a,1,", "2,b,-2,"])
    shop.ingest()
    changed = Shop(spark, tmp_path, rules={}, columns={**SOURCE["columns"], "price": "string"})
    changed.put("2024-01-02.csv", ["3,c,3,"])
    with pytest.raises(ContractError, match="`--force` reads all files again"):
        changed.ingest()
    forced = changed.ingest(force=True)
    assert (forced.rows_in, forced.rows_out) == (3, 3)
    assert changed.table("silver/shop_orders").sort_values("number")["price"].tolist() == ["1", "-2", "3"]

    (changed.raw / "orders" / "2024-01-01.csv").unlink()
    with pytest.raises(RefusedError, match=r"1 file\(s\) whose rows it holds are gone: orders/2024-01-01\.csv"):
        changed.ingest(force=True)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


@pytest.mark.slow
@pytest.mark.system
def test_killed_after_any_commit_and_run_again_gives_the_same_tables(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that really dies takes half a minute for each of a dozen commits; raising in its place is the same to the lake."""

    def deliver(shop: Shop) -> None:
        shop.put("2024-01-01.csv", ["1,a,1,", "2,b,2,", "2,b,2,", "x,,,"])
        shop.ingest()
        shop.put("2024-01-02.csv", ["1,A,1,", "2,b,2,", "3,c,3,", "y,,,"])
        shop.ingest()

    def content(shop: Shop) -> tuple[Any, ...]:
        files = shop.table("ops/shop_files")[["path", "status", "attempt", "rows_read", "rows_good", "rows_duplicate"]]
        return shop.silver(), shop.quarantined(), sorted(map(repr, files.values.tolist()))

    whole = Shop(spark, tmp_path / "whole")
    deliver(whole)
    finish = Lake._latest
    countdown = 0  # every run dies after its first commit that no earlier run has made

    def killed(lake: Lake, *arguments: Any) -> Any:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            raise Killed
        return finish(lake, *arguments)

    monkeypatch.setattr(Lake, "_latest", killed)
    broken, runs = Shop(spark, tmp_path / "broken"), 0
    while countdown <= 0:
        runs, countdown = runs + 1, 1
        with suppress(Killed):
            deliver(broken)
    assert runs > 10
    assert content(broken) == content(whole)
