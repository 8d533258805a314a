"""Passes over a frame: in a barrier stage that waits, as jobs, and from one to the other. Each test ends within its minute or two."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.errors import PySparkException
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from models.exact import task
from models.exact.driver import barrier
from models.exact.driver.barrier import PORT, BarrierPasses, Unavailable
from models.exact.driver.cells import Cells
from models.exact.driver.jobs import JobPasses
from models.exact.driver.passes import InProcess, Passes
from models.exact.driver.rendezvous import Rendezvous
from models.exact.driver.workers import LARGE_REPLY, REPLIES, Design, Workers, open_passes, vector_values
from models.exact.worker.blocks import Blocks, Cell
from models.folds import Folds
from tests.models.exact.kernels_in_workers import ARM, arm
from tests.models.exact.standalone import found_by
from transforms.errors import ModelError

ROOT = Path(__file__).resolve().parents[3]
FOLDS = Folds(3, "fold")
N = 60

pytestmark = pytest.mark.timeout(180)


def columns() -> dict[str, np.ndarray]:
    """Three features, a categorical one of two levels, a label, a weight; small whole numbers, so that sums are exact."""
    random = np.random.default_rng(5)
    return {
        "x": random.integers(-4, 5, (N, 3)).astype(float),
        "code": random.integers(-1, 2, N).astype(np.int32),
        "label": random.integers(0, 2, N).astype(float),
        "weight": random.integers(1, 4, N).astype(float),
        "fold": random.integers(-1, 3, N),
    }


def frame(spark: SparkSession, partitions: int) -> DataFrame:
    """Every third vector sparse. The last of several partitions is empty."""
    c = columns()
    rows = [
        (
            Vectors.sparse(3, list(enumerate(x))) if i % 3 == 0 else Vectors.dense(x),
            int(c["code"][i]),
            float(c["label"][i]),
            float(c["weight"][i]),
            int(c["fold"][i]),
        )
        for i, x in enumerate(c["x"])
    ]
    schema = spark.createDataFrame(rows, ["features", "code", "label", "weight", "fold"]).schema
    filled = max(1, partitions - 1)
    parts = [rows[i::filled] for i in range(filled)] + [[]] * (partitions - filled)
    return spark.createDataFrame(
        spark.sparkContext.parallelize(parts, partitions).flatMap(lambda part: part), schema=schema
    )


def design() -> Design:
    return Design(
        vector_values(F.col("features")), F.col("label"), F.col("weight"), F.array("code").cast("array<int>"), (2,)
    )


def opened(data: DataFrame, **settings: Any) -> Workers:
    return open_passes(data, Cells.of(FOLDS), design(), **settings)


def expected(factor: float = 1.0) -> dict[int, Any]:
    """What `sums` replies in all workers together, from masks over all rows."""
    c = columns()
    sums = {}
    for cell in np.unique(c["fold"] + 1):
        rows = c["fold"] + 1 == cell
        weight = factor * c["weight"][rows]
        sums[int(cell)] = (
            int(rows.sum()),
            (weight @ c["x"][rows]).tolist(),
            [float(weight @ c["code"][rows])],
            float(weight @ c["label"][rows]),
        )
    return sums


def total(passes: Passes) -> dict[int, Any]:
    """Replies of all workers to `sums`, added up."""
    added: dict[int, Any] = {}
    for reply in passes.run("sums", {"arm": ARM}):
        for cell, (rows, x, codes, label) in reply["by_cell"].items():
            before = added.get(cell, (0, [0.0] * 3, [0.0], 0.0))
            x, codes = (np.add(a, b).tolist() for a, b in ((before[1], x), (before[2], codes)))
            added[cell] = (before[0] + rows, x, codes, before[3] + label)
    return added


@contextmanager
def spark_setting(spark: SparkSession, name: str, value: str) -> Iterator[None]:
    """A setting of the context, which Spark lets nobody change through its interface."""
    conf = spark.sparkContext._jsc.sc().conf()
    before = conf.get(name, "")
    conf.set(name, value)
    try:
        yield
    finally:
        conf.set(name, before) if before else conf.remove(name)


def settled(spark: SparkSession) -> bool:
    """No job runs any more, and no thread of ours waits for one."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        ours = [thread for thread in threading.enumerate() if thread.name.startswith("millrace-")]
        if not ours and not spark.sparkContext.statusTracker().getActiveJobsIds():
            return True
        time.sleep(0.1)
    return False


def way(workers: Workers) -> type:
    return type(workers._passes)


@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_workers_that_wait_hold_all_rows_once(spark: SparkSession, partitions: int) -> None:
    """One partition, one with an empty one beside it, and more than slots; and what `set_` changes stays."""
    with opened(frame(spark, partitions)) as workers:
        assert way(workers) is BarrierPasses
        replies = workers.run("count", {})
        first, second = total(workers), total(workers)
        settings = workers.run("set_weights", {"arm": ARM, "factor": 4.0})
        third = total(workers)

    assert len(replies) == min(partitions, 2)
    assert first == second == expected()
    assert settings == [{}] * len(replies)
    assert third == expected(4.0)
    assert settled(spark)


@pytest.mark.parametrize("partitions", [1, 2, 7])
@pytest.mark.parametrize("several", [False, True])
def test_jobs_give_what_waiting_workers_give(
    spark: SparkSession, partitions: int, several: bool, caplog: pytest.LogCaptureFixture
) -> None:
    persistent = spark.sparkContext._jsc.getPersistentRDDs
    before = persistent().size()  # of other tests
    with (
        spark_setting(spark, "spark.network.crypto.enabled", "true"),
        opened(frame(spark, partitions), several=several) as workers,
    ):
        assert way(workers) is JobPasses
        assert total(workers) == expected()
        workers.run("set_weights", {"arm": ARM, "factor": 2.0})
        workers.run("set_weights", {"arm": ARM, "factor": 2.0})
        assert total(workers) == total(workers) == expected(4.0)
        assert len(workers.run("count", {})) == partitions

    said = [record.getMessage() for record in caplog.records if record.name == "models.exact.driver.workers"]
    assert said == (
        [
            "Each pass over the data is a Spark job of its own, which is slower, because spark.network.crypto.enabled is on, and"
            " the connections of waiting workers are not encrypted."
        ]
        if several
        else []
    )
    assert persistent().size() == before


def test_dynamic_allocation_makes_jobs(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    """Spark would refuse the stage. In local mode it heeds the setting only where it tests itself."""
    with (
        spark_setting(spark, "spark.dynamicAllocation.enabled", "true"),
        spark_setting(spark, "spark.dynamicAllocation.testing", "true"),
        opened(frame(spark, 2)) as workers,
    ):
        assert way(workers) is JobPasses
        assert total(workers) == expected()
    assert "because dynamic allocation is on" in caplog.text


def test_a_large_reply_of_one_pass_comes_over_a_socket(spark: SparkSession) -> None:
    with opened(frame(spark, 2), several=False, reply=LARGE_REPLY + 1) as workers:
        assert way(workers) is BarrierPasses
        assert total(workers) == expected()


def test_large_replies_of_jobs_come_from_few_partitions_and_in_parts(
    spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no workers can wait. For one pass that is no slower, and nothing is said of it."""
    numbers = 2 * task.PART // 8 + 1
    with (
        spark_setting(spark, "spark.network.crypto.enabled", "true"),
        opened(frame(spark, 7), several=False, reply=REPLIES // 3) as workers,
    ):
        assert way(workers) is JobPasses
        assert total(workers) == expected()
        replies = workers.run("long", {"arm": ARM, "count": numbers})

    assert len(replies) == 3
    assert sum(reply["rows"] for reply in replies) == N
    for reply in replies:
        np.testing.assert_array_equal(reply["numbers"], np.arange(numbers, dtype=float))
    assert "Each pass over the data" not in caplog.text


def test_waiting_workers_with_large_replies_are_few(spark: SparkSession) -> None:
    with opened(frame(spark, 7), reply=REPLIES) as workers:
        assert way(workers) is BarrierPasses
        assert total(workers) == expected()
        assert len(workers.run("count", {})) == 1


def test_in_process_workers_answer_alike() -> None:
    """The third way, for tests of solvers."""
    arm()
    c = columns()
    cells = []
    for number in np.unique(c["fold"] + 1):
        rows = c["fold"] + 1 == number
        cells.append(Cell(int(number), c["x"][rows], c["code"][rows][:, None], c["label"][rows], c["weight"][rows]))
    passes = InProcess([Blocks(cells, (2,)), Blocks([], (2,))])

    assert total(passes) == expected()
    assert passes.run("set_weights", {"arm": ARM, "factor": 4.0}) == [{}, {}]
    assert total(passes) == expected(4.0)


def test_a_frame_that_shuffles_is_dealt_out(spark: SparkSession) -> None:
    """Spark decides on its number of partitions at run time; and a cached one keeps its own."""
    shuffled = frame(spark, 2).repartition(5, "label").groupBy("fold", "features", "code", "label").agg(
        F.sum("weight").alias("weight"), F.count(F.lit(1)).alias("rows")
    )  # fmt: skip
    rows = shuffled.count()
    with opened(shuffled) as workers:
        assert way(workers) is BarrierPasses
        assert sum(sum(reply["rows"].values()) for reply in workers.run("count", {})) == rows


def test_data_beyond_the_budget_lies_in_files(spark: SparkSession) -> None:
    with opened(frame(spark, 2), memory=0) as workers:
        first = total(workers)
        workers.run("set_weights", {"arm": ARM, "factor": 4.0})

        assert (first, total(workers)) == (expected(), expected(4.0))


@pytest.mark.parametrize("several", [False, True])
def test_an_error_of_a_kernel_is_the_error_of_the_pass(spark: SparkSession, several: bool) -> None:
    started = time.monotonic()
    with opened(frame(spark, 1), several=several) as workers:
        with pytest.raises(
            ModelError, match=r"^Pass 'refuse' failed in worker 0: ZeroDivisionError: seven by nothing$"
        ):
            workers.run("refuse", {"arm": ARM})
        assert total(workers) == expected()

    assert time.monotonic() - started < 30


@pytest.mark.parametrize("several", [False, True])
def test_missing_values_are_a_sentence(spark: SparkSession, several: bool) -> None:
    """The worker's own, without the pass before it."""
    data = frame(spark, 1).withColumn("weight", F.when(F.col("label") == 1, F.col("weight")))
    missing = int((columns()["label"] != 1).sum())
    with (
        opened(data, several=several) as workers,
        pytest.raises(ModelError, match=f"^Column 'weight' is null or NaN in {missing} rows of one partition"),
    ):
        workers.run("count", {})


def test_no_partitions_are_a_sentence(spark: SparkSession) -> None:
    data = spark.createDataFrame(spark.sparkContext.emptyRDD(), frame(spark, 1).schema)
    with opened(data) as workers, pytest.raises(ModelError, match="no rows"):
        workers.run("count", {})


def test_an_error_of_spark_is_sparks(spark: SparkSession) -> None:
    """What comes before the workers fails: the user sees that."""
    data = frame(spark, 1).withColumn("label", F.raise_error(F.lit("no such label")).cast("double"))
    with pytest.raises(PySparkException, match="no such label"), opened(data) as workers:
        workers.run("count", {})
    assert settled(spark)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["exit", "worker"])
def test_a_worker_that_dies_is_started_anew(
    spark: SparkSession, who: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a pass: all load again, repeat what was set, and answer the pass."""
    with opened(frame(spark, 2)) as workers:
        workers.run("set_weights", {"arm": ARM, "factor": 2.0})
        workers.run("set_weights", {"arm": ARM, "factor": 2.0})
        replies = workers.run("die", {"arm": ARM, "folder": str(tmp_path), "times": 1, "who": who})

        assert sum(reply["rows"] for reply in replies) == N
        assert total(workers) == expected(4.0)
        assert way(workers) is BarrierPasses
    assert (tmp_path / "death-0").exists()
    assert any("Attempt 1 of pass 'die' failed: worker" in record.getMessage() for record in caplog.records)
    assert settled(spark)


@pytest.mark.slow
def test_workers_that_die_again_and_again_are_an_error(spark: SparkSession, tmp_path: Path) -> None:
    with (
        opened(frame(spark, 2)) as workers,
        pytest.raises(
            ModelError, match=r"^Workers died in each of 3 attempts of pass 'die': worker . went away .* lacks memory"
        ),
    ):
        workers.run("die", {"arm": ARM, "folder": str(tmp_path), "times": 100, "who": "exit"})
    assert settled(spark)


def test_a_port_in_use_makes_jobs(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with spark_setting(spark, PORT, str(port)), opened(frame(spark, 2)) as workers:
            assert way(workers) is JobPasses
            assert total(workers) == expected()
    assert f"because the driver cannot listen on 127.0.0.1:{port} (Address already in use" in caplog.text


def test_the_port_can_be_fixed(spark: SparkSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with spark_setting(spark, PORT, str(port)), opened(frame(spark, 1)) as workers:
        assert isinstance(workers._passes, BarrierPasses)
        assert workers._passes._stage is not None
        assert workers._passes._stage.rendezvous.address.port == port


@pytest.mark.slow
def test_workers_that_cannot_reach_the_driver_make_jobs(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections refused, as by a firewall."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        blocked = free.getsockname()[1]

    class Behind(Rendezvous):
        def __init__(self, *where: Any) -> None:
            super().__init__(*where)
            self.address = replace(self.address, port=blocked)

    monkeypatch.setattr(barrier, "Rendezvous", Behind)
    with opened(frame(spark, 2)) as workers:
        assert way(workers) is JobPasses
        assert total(workers) == expected()
    assert "Each pass over the data is a Spark job of its own" in caplog.text
    assert settled(spark)


@pytest.mark.slow
def test_workers_without_a_slot_make_jobs(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    """Another job holds one of the two slots, and a barrier stage starts all its tasks or none."""
    sleep = F.udf(lambda i: time.sleep(8) or i, "long")
    other = threading.Thread(target=spark.range(0, 1, 1, 1).select(sleep("id")).collect)
    other.start()
    while not spark.sparkContext.statusTracker().getActiveStageIds():
        time.sleep(0.05)
    time.sleep(0.5)
    with opened(frame(spark, 2), connect_seconds=1.0) as workers:
        assert way(workers) is JobPasses
        assert total(workers) == expected()
    other.join()
    assert "because 0 of all workers connected to" in caplog.text
    assert settled(spark)


def test_workers_that_do_not_come_back_make_jobs(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a search: the jobs take over what was set."""
    with opened(frame(spark, 2)) as workers:
        workers.run("set_weights", {"arm": ARM, "factor": 4.0})

        def gone(*_: Any) -> None:
            raise Unavailable("0 of 2 workers connected")

        monkeypatch.setattr(BarrierPasses, "run", gone)
        assert total(workers) == expected(4.0)
        assert way(workers) is JobPasses
    assert settled(spark)


def test_leaving_in_the_middle_of_a_pass_ends_the_stage(spark: SparkSession) -> None:
    """Ctrl-C: the workers are busy, so their job is cancelled, and no other."""
    left = threading.Event()
    other = spark.range(4).select(F.udf(lambda i: time.sleep(0.2) or i, "long")("id").alias("id"))
    with pytest.raises(KeyboardInterrupt), opened(frame(spark, 1)) as workers:
        total(workers)
        rendezvous = workers._passes._stage.rendezvous  # type: ignore[union-attr]
        send: Callable[..., Any] = rendezvous.exchange

        def interrupted(message: Any, seconds: float) -> Any:
            threading.Timer(0.5, left.set).start()
            with pytest.raises(Exception, match="did not answer"):
                send(message, 0.5)
            raise KeyboardInterrupt

        rendezvous.exchange = interrupted
        workers.run("rest", {"arm": ARM, "seconds": 60.0})

    assert left.is_set()
    assert settled(spark)
    assert len(other.collect()) == 4


def test_the_workers_side_knows_no_spark() -> None:
    """In a process of its own: importing all of it brings in neither pyspark nor the driver's side."""
    code = (
        "import importlib, pkgutil, sys, models.exact.worker as w\n"
        "for m in pkgutil.iter_modules(w.__path__): importlib.import_module('models.exact.worker.' + m.name)\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('pyspark', 'jobs') or m.startswith('models.exact.driver')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.stdout.strip(), done.stderr) == ("[]", "")


CLUSTER = """
import json, logging, sys
from models.exact.driver import workers as ways
from tests.models.exact import test_passes as t
from tests.models.exact.standalone import session
logging.basicConfig(level=logging.WARNING)
master, root, folder = sys.argv[1:]
spark = session(master, root)
found = {"slots": spark.range(2).count() and ways._slots(spark)}
for who in ("worker", "executor"):
    (t.Path(folder) / who).mkdir()
    with t.opened(t.frame(spark, 5)) as workers:
        workers.run("set_weights", {"arm": t.ARM, "factor": 4.0})
        replies = workers.run("die", {"arm": t.ARM, "folder": f"{folder}/{who}", "times": 1, "who": who})
        right = t.total(workers) == t.expected(4.0)
        found[who] = [sum(r["rows"] for r in replies), right, len(replies), t.way(workers).__name__]
print("FOUND " + json.dumps(found))
spark.stop()
"""


@pytest.mark.system
@pytest.mark.timeout(400)
def test_deaths_on_a_cluster(tmp_path: Path) -> None:
    """Two executors of a standalone cluster: a killed Python worker, then a killed executor, each in the middle of a pass."""
    right = found_by(["-c", CLUSTER], tmp_path)

    assert right["slots"] == 2
    assert right["worker"] == [N, True, 2, "BarrierPasses"]
    # With one slot until the executor is back: fewer workers, or jobs.
    assert right["executor"][:2] == [N, True]
