"""One run at a time holds a pipeline: the living are respected, the dead give way, and who lost the lease writes no more."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import lease
from jobs.lake import Lake, Transaction
from jobs.lease import Lease, Pace, held
from jobs.storage import Storage
from tests.jobs.leases import kept_elsewhere
from transforms import contracts
from transforms.errors import RefusedError

FAST = Pace(beat=0.05, term=1.0)


def files(lake_root: str) -> list[str]:
    return sorted(path.name for path in Path(lake_root, "ops/leases/shop").iterdir())


def left_by(spark: SparkSession, lake_root: str, **differing: Any) -> None:
    """The first lease, as a run that ended without giving it back leaves it."""
    mine = Lease(Storage(spark), f"{lake_root}/ops/leases/shop", 1, FAST)
    mine._holder.update(differing)
    assert mine.take()


@pytest.mark.quick
def test_a_second_run_is_refused_while_the_first_holds_the_lease(spark: SparkSession, lake_root: str) -> None:
    with held(spark, lake_root, "shop"):
        assert files(lake_root) == ["1.json"]
        with pytest.raises(RefusedError) as refused, held(spark, lake_root, "shop"):
            raise AssertionError("both runs hold the lease")
    holder = f"process {lease.os.getpid()} on {lease.socket.gethostname()}"
    assert str(refused.value) == (
        f"{lake_root}/ops/leases/shop/1.json: {holder} is running pipeline shop. Expected no other run. Wait for it to end."
    )
    assert files(lake_root) == []
    with held(spark, lake_root, "shop"), held(spark, lake_root, "stock"):
        pass


def test_a_process_of_this_machine_that_is_gone_gives_way_at_once(spark: SparkSession, lake_root: str) -> None:
    """Known from its number and the time of its start: nobody watches for an hour, as this pace would ask."""
    left_by(spark, lake_root, process=2**22 + 1)
    with held(spark, lake_root, "shop", Pace(3600, 3600)):
        assert files(lake_root) == ["2.json"]
    assert files(lake_root) == []


def test_a_sign_of_life_from_another_machine_refuses(spark: SparkSession, lake_root: str) -> None:
    with (
        kept_elsewhere(spark, lake_root, FAST),
        pytest.raises(RefusedError, match=r"1\.json: process 17 on elsewhere is running pipeline shop\."),
        held(spark, lake_root, "shop", Pace(beat=0.05, term=60)),
    ):
        raise AssertionError("took the lease of a living run")


@pytest.mark.parametrize("content", ["{", "[]", "", json.dumps({"machine": "another", "host": "elsewhere"})])
def test_silence_from_another_machine_gives_way_after_the_term(
    spark: SparkSession, lake_root: str, content: str
) -> None:
    """So does a file that its writer did not finish."""
    Storage(spark).write(f"{lake_root}/ops/leases/shop/7.json", content)
    began = lease._now()
    with held(spark, lake_root, "shop", FAST):
        assert lease._now() - began >= FAST.term
        assert files(lake_root) == ["8.json"]


def test_of_many_that_find_a_dead_lease_one_gets_it(spark: SparkSession, lake_root: str) -> None:
    left_by(spark, lake_root, process=2**22 + 1)
    ready, done = threading.Barrier(8), threading.Barrier(8)

    def contend(_number: int) -> bool:
        ready.wait()
        try:
            with held(spark, lake_root, "shop"):
                done.wait()
                return True
        except RefusedError:
            done.wait()
            return False

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(contend, range(8))) == 1


@pytest.mark.parametrize(
    ("number", "silent", "why"),
    [(1, 5.0, r"none could be written for \d+ s"), (3, 0.0, "another run has taken this pipeline over")],
)
def test_who_was_silent_too_long_or_was_replaced_commits_nothing(
    spark: SparkSession, lake_root: str, number: int, silent: float, why: str
) -> None:
    """Delta's tables stay as they were, whichever way one writes."""
    folder = f"{lake_root}/ops/leases/shop"
    table, absent = contracts.metrics("shop"), contracts.curves("shop")
    Lake(spark, lake_root).create(table)
    mine = Lease(Storage(spark), folder, number, Pace(beat=1, term=5))
    Storage(spark).write(f"{folder}/4.json", "{}")

    lake = Lake(spark, lake_root, mine.require)
    rows = spark.createDataFrame([], table.schema)
    for write in (
        lambda: lake.append(rows, table, Transaction("a", 1)),
        lambda: lake.merge(rows, table, Transaction("b", 1)),
        lambda: lake.delete(table, "true", Transaction("c", 1)),
        lambda: lake.restore(table, 0),
        lambda: lake.create(absent),
    ):
        mine._last = lease._now() - silent
        with pytest.raises(RefusedError, match=why):
            write()
    assert (lake.version(table), lake.version(absent)) == (0, None)


def test_a_store_that_does_not_answer_costs_the_lease(
    spark: SparkSession, lake_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signs of life stop; the run goes on until it wants to commit, and stops there."""
    with held(spark, lake_root, "shop", FAST) as mine:
        failed = threading.Event()

        def fail(path: str, text: str) -> None:
            failed.set()
            raise OSError("no answer")

        monkeypatch.setattr(mine._storage, "write", fail)
        assert failed.wait(10)
        mine.require()
        while lease._now() - mine._last <= FAST.term - FAST.beat:
            failed.clear()
            failed.wait(0.1)
        with pytest.raises(RefusedError, match="expected a sign of life"):
            mine.require()
