"""Where a pipeline can run: a folder, an object store, a standalone cluster, HDFS with YARN. Each runs a job, all of them by default, and gives back its tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from scripts import cluster_package
from tests.models.exact.standalone import standalone
from tests.system import deliveries, lakes, stores
from tests.system.hadoop import hadoop
from tests.system.tracking import tracking_server

ROOT = Path(__file__).resolve().parents[2]
SECRET = stores.SECRET.encode()


@dataclass(frozen=True)
class Workload:
    """A pipeline file, its raw files, the memory of a driver and of each executor, the job to run and Spark's settings for it."""

    pipeline: Path
    raw: Path
    memory: str = "1g"
    job: str = "run"
    spark: Mapping[str, str] = field(default_factory=dict)


def parcels(folder: Path) -> Workload:
    """The small pipeline of `deliveries` with its raw files, written to a folder."""
    deliveries.write(folder / "raw", rows=1_500)
    (folder / "parcels.yaml").write_text(deliveries.PIPELINE)
    # Small tables: the 50 tasks that Delta takes to read a log by default cost more than all the rest.
    return Workload(folder / "parcels.yaml", folder / "raw", spark={"spark.databricks.delta.snapshotPartitions": "2"})


def depots(work: Workload, folder: Path) -> Workload:
    """Of the small pipeline no more than the ingest of its smallest source: what a cluster does in a minute."""
    spec = yaml.safe_load(work.pipeline.read_text())
    small = {
        "pipeline": spec["pipeline"],
        "timezone": spec["timezone"],
        "task": "regression",
        "sources": {"depots": spec["sources"]["depots"]},
        "features": {"spine": "depots", "label": {"name": "size", "value": "docks"}, "categorical": ["depot"]},
        "split": {"test": {"share": 0.2}, "folds": {"kind": "random", "count": 2}},
        "train": {"metric": "rmse", "candidates": {"linear": {"estimator": "linear_regression"}}},
    }
    pipeline = folder / "depots.yaml"
    pipeline.write_text(yaml.safe_dump(small, sort_keys=False))
    return replace(work, pipeline=pipeline, job="ingest")


@dataclass(frozen=True)
class Ran:
    """What a run said, its summary (the last line of JSON), and the tables of the lake after it."""

    said: str
    summary: dict[str, Any]
    tables: dict[str, pa.Table]


Run = Callable[[], Ran]
Heard = Callable[[str], None]


@contextmanager
def folder_of_this_machine(work: Workload, folder: Path) -> Iterator[Run]:
    """Local mode on the disk; models in sqlite."""
    folder.mkdir(exist_ok=True)
    environment = _environment(folder, work.spark, raw=str(work.raw), lake=str(folder / "lake"))

    def run() -> Ran:
        said = _said(_cli(work, environment), {})
        return Ran(said, _summary(said), lakes.tables(folder / "lake"))

    yield run


@contextmanager
def object_store(work: Workload, folder: Path) -> Iterator[Run]:
    """Local mode, raw files and lake on a store, models on it by way of a server. The credentials are found nowhere."""
    with _store(work, folder) as (store, environment):
        yield _on_store(store, folder, _cli(work, environment))


@contextmanager
def standalone_cluster(
    work: Workload, folder: Path, heard: Heard = lambda line: None, *, packed: bool = False
) -> Iterator[Run]:
    """Two workers in processes of their own, started by spark-submit; raw files and lake on a store.

    Args:
        packed: they run the Python packages that `scripts/package --environment` packs, not those of this folder.
    """
    with _store(work, folder) as (store, environment), standalone(folder, work.memory) as master:
        cluster_package.write(folder / "package", ["delta", "s3"])
        if packed:
            cluster_package.pack_environment(folder / "package")
        command = cluster_package.command("standalone", folder / "package", master=master, has_environment=packed)
        sizes = ["--conf", "spark.cores.max=2", "--executor-memory", work.memory, "--driver-memory", work.memory]
        yield _on_store(store, folder, _submit(command, sizes, work.job, work.pipeline, environment), heard)


@contextmanager
def yarn(work: Workload, folder: Path) -> Iterator[Run]:
    """YARN in cluster mode, the driver in a container too; raw files and lake on HDFS; models at a server behind HTTP."""
    with tracking_server(folder / "mlflow") as mlflow, hadoop(folder / "hadoop") as cluster:
        cluster.upload(work.raw, f"{cluster.root}/raw")
        environment = _environment(
            folder, work.spark, raw=f"{cluster.root}/raw", lake=f"{cluster.root}/lake", mlflow=mlflow
        )
        cluster_package.write(folder / "package", ["delta"])
        command = cluster_package.command("yarn-cluster", folder / "package")
        sizes = ["--driver-memory", work.memory, "--executor-memory", work.memory, "--executor-cores", "1"]
        # Spark's jars are on every machine: 456 MB need not be sent.
        sizes += ["--num-executors", "2", "--conf", f"spark.yarn.jars=local:{cluster.spark_jars}"]
        sizes += ["--files", f"{work.pipeline},{environment}"]
        line = _submit(command, sizes, work.job, Path(work.pipeline.name), Path(environment.name))

        def run() -> Ran:
            said = _said(line, cluster.environment)
            copy = Path(tempfile.mkdtemp(dir=folder)) / "lake"
            cluster.download(f"{cluster.root}/lake", copy)
            # The driver's output stays in its container.
            (outcome,) = (copy / "ops/outcomes").rglob("*.json")
            return Ran(said, json.loads(outcome.read_text()), lakes.tables(copy))

        yield run


@contextmanager
def _store(work: Workload, folder: Path) -> Iterator[tuple[stores.Store, Path]]:
    """A store that holds the raw files, and the environment file that names it."""
    with stores.object_store() as store, tracking_server(folder / "mlflow") as mlflow:
        store.upload(work.raw)
        (folder / "events").mkdir(parents=True)
        spark = {
            **work.spark,
            **store.spark,
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": f"{folder}/events",
            "spark.eventLog.compress": "false",  # secrets are looked for in it
        }
        yield store, _environment(folder, spark, raw="s3a://raw", lake="s3a://lake", mlflow=mlflow)


def _on_store(store: stores.Store, folder: Path, command: list[str], heard: Heard = lambda line: None) -> Run:
    def run() -> Ran:
        said = _said(command, stores.CREDENTIALS, heard)
        # Neither in the log nor in tables, models, reports and leases; nor in MLflow's database and Spark's event log.
        assert stores.SECRET not in said
        assert store.holding(stores.SECRET) == []
        assert [file for file in sorted(folder.rglob("*")) if file.is_file() and SECRET in file.read_bytes()] == []
        return Ran(said, _summary(said), store.tables())

    return run


def told(words: list[str]) -> str:
    """What a command of `millrace` says to its end with exit code 0, its answer last."""
    return _said([sys.executable, "-m", "jobs.cli", *words], {})


def _summary(said: str) -> dict[str, Any]:
    # Spark may say goodbye after it.
    found: dict[str, Any] = json.loads([line for line in said.splitlines() if line.startswith("{")][-1])
    return found


def _environment(folder: Path, spark: Mapping[str, str], **settings: str) -> Path:
    """An environment file; under spark-submit its master and memory do not count."""
    path = folder / "place.yaml"
    values = {
        "name": "place",
        "master": "local[2]",
        "driver_memory": "2g",
        **settings,
        "spark": dict(spark),
    }
    path.write_text(yaml.safe_dump(values))
    return path


def _cli(work: Workload, environment: Path) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", work.job, str(work.pipeline), "--env", str(environment)]


def _submit(command: list[str], sizes: list[str], job: str, pipeline: Path, environment: Path) -> list[str]:
    """The line that `scripts/package` prints, with the sizes of a small machine."""
    return [*command[:-1], *sizes, command[-1], job, str(pipeline), "--env", str(environment)]


def _said(command: list[str], environment: dict[str, str], heard: Heard = lambda line: None) -> str:
    """Standard error and output of a run that ends with exit code 0; `heard` is told each line of it as it comes.

    Under spark-submit the log of a Python driver comes on standard output.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", **environment},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            heard(line)
        process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    said = "".join(lines)
    assert process.returncode == 0, said[-8000:]
    return said
