"""The DAGs in a real Airflow, whose tasks start a real spark-submit."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import cluster_package
from tests.system import deliveries, lakes, stores
from tests.system.hadoop import Hadoop, hadoop

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW = ROOT / ".venv-airflow/bin"
DAGS = ROOT / "jobs/dags"
JOBS = ["ingest", "features", "train", "evaluate", "promote", "score"]
SECRET = "never-in-a-log-4711"
RETRY = "up_for_retry"

pytestmark = pytest.mark.skipif(
    not (AIRFLOW / "airflow").exists(), reason=f"{AIRFLOW} has no airflow: run scripts/setup airflow"
)

# Prints what Airflow makes of the folder of DAGs, and the seconds that it took once Airflow itself was imported.
PARSE = """
import json, sys, time
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
started = time.perf_counter()
bag = DagBag(dag_folder=sys.argv[1])
seconds = time.perf_counter() - started
print(json.dumps({
    "seconds": seconds,
    "pyspark": "pyspark" in sys.modules,
    "errors": list(bag.import_errors.values()),
    "dags": {
        dag.dag_id: {
            "tasks": [task.task_id for task in dag.topological_sort()],
            "after": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
            "operators": sorted({base.__name__ for task in dag.tasks for base in type(task).__mro__[:2]}),
            "outlets": {task.task_id: [asset.uri for asset in task.outlets] for task in dag.tasks if task.outlets},
            "schedule": [asset.uri for asset in dag.schedule] if isinstance(dag.schedule, list) else dag.schedule,
            "catchup": dag.catchup,
            "active_runs": dag.max_active_runs,
            "retries": sorted({task.retries for task in dag.tasks}),
            "backoff": all(task.retry_exponential_backoff for task in dag.tasks),
            "hours": sorted({task.execution_timeout.total_seconds() / 3600 for task in dag.tasks}),
        }
        for dag in bag.dags.values()
    },
}))
"""

# Prints the run date that a task takes from each of the contexts that Airflow can give it.
DATES = """
import json, sys
from types import SimpleNamespace
from airflow.sdk import Asset
from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor
sys.path.insert(0, sys.argv[1])
from millrace import asked_run_date

def event(extra):
    return AssetEventDagRunReferenceResult.model_validate({
        "asset": {"name": "parcels", "uri": "parcels", "extra": {}}, "extra": extra, "source_task_id": "score",
        "source_dag_id": "parcels", "source_run_id": "earlier", "source_map_index": -1, "source_aliases": [],
        "timestamp": "2026-01-01T00:00:00Z",
    })

def date(conf=None, ds=None, events=()):
    context = {"dag_run": SimpleNamespace(conf=conf), "triggering_asset_events": TriggeringAssetEventsAccessor.build(events)}
    return asked_run_date({**context, "ds": ds} if ds else context)

print(json.dumps({
    "conf before all": date({"run_date": "2024-01-01"}, "2024-02-01", [event({"run_date": "2024-03-01"})]),
    "ds": date({}, "2024-02-01"),
    "event": date(events=[event({"run_date": "2024-03-01"})]),
    "latest event": date(events=[event({"run_date": day}) for day in ("2024-03-01", "2024-03-03", "2024-03-02")]),
    "event without date": date(events=[event({})]),
    "nothing": date(),
}))
"""

# Prints what the file that is named in the environment says to a task.
CONTENT = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from millrace import read_file
print(json.dumps(read_file(os.environ["FILE"])))
"""


@dataclass
class Deployment:
    """An Airflow of its own, the small pipeline, and a folder that stands for an installation of millrace."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    def environment(self) -> dict[str, str]:
        # What this process was told of Spark or Airflow is no business of the test.
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "SPARK", "MILLRACE"))
        }
        return {
            **inherited,
            "PATH": f"{AIRFLOW}{os.pathsep}{os.environ['PATH']}",
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "MILLRACE_HOME": str(self.folder / "home"),
            "MILLRACE_PIPELINES": str(self.folder / "pipelines"),
            "MILLRACE_ENVIRONMENT": str(self.folder / "lake.yaml"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            **self.settings,
        }

    def call(self, *command: str, seconds: int = 1500) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; everything that it says is in `stdout`."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), text=True, timeout=seconds,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def python(self, script: str) -> Any:
        """The JSON that a script prints in Airflow's environment."""
        done = self.call(str(AIRFLOW / "python"), "-c", script, str(DAGS))
        assert done.returncode == 0, done.stdout[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    def test_run(self, date: str, *options: str) -> str:
        """What `airflow dags test` says of a run that succeeds."""
        done = self.call("airflow", "dags", "test", *options, "parcels", date)
        assert done.returncode == 0, done.stdout[-8000:]
        assert SECRET not in done.stdout
        return done.stdout

    @contextmanager
    def running(self, *command: str, stdout: Any = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
        """A command in a process group of its own, of which nothing is left behind."""
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment(), text=True, start_new_session=True,
            stdout=stdout, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def outcome(self, job: str, date: str) -> dict[str, Any]:
        """What the job wrote to the lake."""
        found: dict[str, Any] = json.loads((self.lake / f"ops/outcomes/parcels/{date}-{job}.json").read_text())
        return found


def said_until(process: subprocess.Popen[str], text: str) -> str:
    """What a process says up to the line with `text`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"expected {text!r}, found:\n{seen[-8000:]}")


@pytest.fixture
def bare(tmp_path: Path) -> Deployment:
    """Airflow without a database, two pipelines, nothing to submit."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/parcels.yaml").write_text(deliveries.PIPELINE)
    (tmp_path / "pipelines/second.yaml").write_text(
        deliveries.PIPELINE.replace("pipeline: parcels", "pipeline: returns")
    )
    return Deployment(tmp_path)


@pytest.fixture
def packaged(bare: Deployment) -> Deployment:
    """With what scripts/package writes."""
    (bare.folder / "home").mkdir()
    for part in (".venv", "conf"):
        (bare.folder / "home" / part).symlink_to(ROOT / part)
    cluster_package.write(bare.folder / "home/build/package", ["delta", "s3"])
    return bare


@pytest.fixture
def deployment(packaged: Deployment) -> Deployment:
    """Ready to run: a database and raw files too."""
    deliveries.write(packaged.folder / "raw", rows=1_500)
    deliveries.write_environment(packaged.folder, "lake")
    done = packaged.call("airflow", "db", "migrate")
    assert done.returncode == 0, done.stdout[-4000:]
    return packaged


def test_every_pipeline_is_a_dag(bare: Deployment) -> None:
    """Parsed in under two seconds, again and again by a scheduler, hence without pyspark."""
    bare.settings["MILLRACE_SCHEDULES"] = '{"returns": "after parcels"}'
    found = bare.python(PARSE)

    assert found["errors"] == []
    assert not found["pyspark"]
    assert found["seconds"] < 2
    assert found["dags"].keys() == {"parcels", "returns"}
    parcels, returns = found["dags"]["parcels"], found["dags"]["returns"]
    assert parcels == {
        "tasks": JOBS,
        "after": {job: [before] if before else [] for before, job in zip(["", *JOBS], JOBS, strict=False)},
        "operators": ["JobOperator", "SparkSubmitOperator"],
        "outlets": {"score": ["millrace://parcels/predictions"]},
        "schedule": "@daily",
        "catchup": False,
        "active_runs": 1,
        "retries": [6],
        "backoff": True,
        "hours": [6.0],
    }
    assert returns == {
        **parcels,
        "outlets": {"score": ["millrace://returns/predictions"]},
        "schedule": ["millrace://parcels/predictions"],
    }


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ('{"parcel": "@daily"}', "(parcels, returns), found parcel."),
        ('{"returns": "after parcel"}', "(parcels, returns), found parcel."),
        ("after parcels", "MILLRACE_SCHEDULES: expected JSON such as"),
    ],
)
@pytest.mark.system
def test_a_wrong_schedule_is_an_error_of_the_dag_file(bare: Deployment, setting: str, sentence: str) -> None:
    """Else a pipeline would wait for ever."""
    bare.settings["MILLRACE_SCHEDULES"] = setting
    (error,) = bare.python(PARSE)["errors"]
    assert sentence in error


def test_where_the_run_date_comes_from(bare: Deployment) -> None:
    """The run's conf, the logical date, the asset events; else it is left to the job."""
    assert bare.python(DATES) == {
        "conf before all": "2024-01-01",
        "ds": "2024-02-01",
        "event": "2024-03-01",
        "latest event": "2024-03-03",
        "event without date": None,
        "nothing": None,
    }


def test_an_outcome_in_a_store_is_read_as_the_jobs_read_it(packaged: Deployment) -> None:
    """The address from the environment file, the credentials from the environment."""
    with stores.object_store() as store:
        deliveries.write_environment(packaged.folder, "lake", store.spark, lake="s3a://lake")
        store.client.put_object(Bucket="lake", Key="ops/one.json", Body='{"at": "Zürich"}'.encode())
        packaged.settings |= {**stores.CREDENTIALS, "FILE": "s3a://lake/ops/one.json"}
        assert packaged.python(CONTENT) == '{"at": "Zürich"}'

        packaged.settings["FILE"] = "s3a://lake/ops/none.json"
        done = packaged.call(str(AIRFLOW / "python"), "-c", CONTENT, str(DAGS))
    assert "OSError: cat: `s3a://lake/ops/none.json': No such file or directory" in done.stdout


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_a_run_and_the_same_again(deployment: Deployment) -> None:
    """Every job once, by spark-submit; the second run writes no table version."""
    deployment.test_run("2024-04-01")
    assert {job: deployment.outcome(job, "2024-04-01")["outcome"] for job in JOBS} == dict.fromkeys(JOBS, "done")
    before = lakes.versions(deployment.lake)
    assert "gold/parcels_predictions" in before

    deployment.test_run("2024-04-01")
    assert {job: deployment.outcome(job, "2024-04-01")["outcome"] for job in JOBS} == dict.fromkeys(JOBS, "unchanged")
    assert lakes.versions(deployment.lake) == before


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_a_champion_that_is_kept_goes_on_scoring(deployment: Deployment) -> None:
    """The model of the next day is no better on the same test rows: that is no failure. Dates may come in any order."""
    for date, promoted in (("2024-04-02", True), ("2024-04-01", False)):
        said = deployment.test_run(date)
        assert deployment.outcome("promote", date)["promote"]["promoted"] is promoted
        assert ("The champion stays, and scoring goes on with it." in said) is not promoted
        assert deployment.outcome("score", date)["exit_code"] == 0


@contextmanager
def held_elsewhere(lake: Path) -> Iterator[None]:
    """A run of another machine holds the pipeline: its lease, and a sign of life every second."""
    lease = lake / "ops/leases/parcels/1.json"
    lease.parent.mkdir(parents=True)
    ended = threading.Event()

    def give_signs() -> None:
        signs = 0
        while not ended.wait(1):
            signs += 1
            aside = lease.with_suffix(".new")
            aside.write_text(json.dumps({"machine": "another", "host": "elsewhere", "process": 17, "signs": signs}))
            aside.rename(lease)

    lease.write_text(json.dumps({"machine": "another", "host": "elsewhere", "process": 17, "signs": 0}))
    keeper = threading.Thread(target=give_signs)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        lease.unlink()


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_a_held_lease_is_tried_again(deployment: Deployment) -> None:
    """Exit code 5 ends in the state of a retry, and the retry goes on once the lease has ended."""
    with deployment.running("airflow", "dags", "test", "parcels", "2024-04-01") as run:
        with held_elsewhere(deployment.lake):
            said = said_until(run, RETRY)
            assert "ingest of parcels ended with exit code 5 (another run holds the pipeline" in said
            assert "process 17 on elsewhere is running pipeline parcels" in said
        said = said_until(run, " rows in, ")
    assert "ended with exit code" not in said


@pytest.mark.system
@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ("min_value: 1,", "min_value: 90,", "exit code 3 (data contract or quality gate)"),
        ("weight_kg < 1000", "weight < 1000", "exit code 2 (configuration)"),
    ],
)
def test_what_would_fail_again_is_not_tried_again(
    deployment: Deployment, right: str, wrong: str, sentence: str
) -> None:
    """Wrong data and wrong configuration stay wrong; the job's own sentence is in the log."""
    assert right in deliveries.PIPELINE
    (deployment.folder / "pipelines/parcels.yaml").write_text(deliveries.PIPELINE.replace(right, wrong))
    done = deployment.call("airflow", "dags", "test", "parcels", "2024-04-01")

    assert done.returncode != 0
    assert f"ingest of parcels ended with {sentence}" in done.stdout
    assert deployment.outcome("ingest", "2024-04-01")["error"].splitlines()[0] in done.stdout
    assert RETRY not in done.stdout


@pytest.mark.system
def test_a_task_that_is_ended_gives_its_lease_back(deployment: Deployment) -> None:
    """SIGTERM goes through Airflow and spark-submit to the job, which ends in order."""
    with deployment.running("airflow", "dags", "test", "parcels", "2024-04-01") as run:
        said_until(run, "ingest.parcels: started")
        run.send_signal(signal.SIGTERM)
        said = said_until(run, RETRY)
    assert "Ended by SIGTERM. What was committed stays; the same command goes on from there." in said
    assert list((deployment.lake / "ops/leases/parcels").iterdir()) == []


@pytest.mark.system
@pytest.mark.timeout(1200)
def test_a_driver_on_yarn_is_judged_by_the_outcome_in_the_lake(deployment: Deployment) -> None:
    """In cluster mode spark-submit knows success and failure alone."""
    pipeline = deployment.folder / "pipelines/parcels.yaml"
    with hadoop(deployment.folder / "hadoop") as cluster:
        deployment.settings = {
            **cluster.environment,
            "PATH": f"{AIRFLOW}{os.pathsep}{cluster.environment['PATH']}",
            "AIRFLOW_CONN_MILLRACE": json.dumps(
                {"conn_type": "spark", "host": "yarn", "extra": {"deploy-mode": "cluster"}}
            ),
        }
        deployment.settings.pop("SPARK_HOME")
        _small_containers(deployment, cluster.spark_jars)
        _on_hdfs(deployment, cluster)
        pipeline.write_text(deliveries.PIPELINE.replace("min_value: 1,", "min_value: 90,"))
        failed = deployment.call("airflow", "dags", "test", "parcels", "2024-04-01")
        pipeline.write_text(deliveries.PIPELINE)
        deployment.test_run("2024-04-01", "--mark-success-pattern", "(?!ingest).*")
        cluster.download(f"{cluster.root}/lake", deployment.lake)

    assert failed.returncode != 0
    assert "ingest of parcels ended with exit code 3 (data contract or quality gate)" in failed.stdout
    assert RETRY not in failed.stdout
    assert deployment.outcome("ingest", "2024-04-01")["outcome"] == "done"


def _small_containers(deployment: Deployment, spark_jars: str) -> None:
    """Spark's settings for a cluster that is this machine; Spark's jars need not be sent."""
    defaults = deployment.folder / "conf"
    defaults.mkdir()
    settings = {
        "spark.yarn.jars": f"local:{spark_jars}",
        "spark.executor.memory": "1g",
        "spark.executor.instances": "1",
    }
    (defaults / "spark-defaults.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    deployment.settings["SPARK_CONF_DIR"] = str(defaults)


def _on_hdfs(deployment: Deployment, cluster: Hadoop) -> None:
    """The environment file, with raw files and lake on HDFS."""
    cluster.upload(deployment.folder / "raw", f"{cluster.root}/raw")
    file = deployment.folder / "lake.yaml"
    values = yaml.safe_load(file.read_text())
    values |= {"raw": f"{cluster.root}/raw", "lake": f"{cluster.root}/lake", "driver_memory": "1g"}
    values["mlflow"] = f"sqlite:///{deployment.folder}/mlflow.db"
    del values["master"]
    file.write_text(yaml.safe_dump(values))


def readme_commands() -> list[str]:
    """The commands of the README's section "Airflow"."""
    section = (ROOT / "README.md").read_text().split("### Airflow\n", 1)[1].split("\n## ", 1)[0]
    blocks = section.split("```")[1::2]
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()[1:]]
    return [line for line in lines if line]


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_the_readme_from_nothing_to_scheduled_runs(deployment: Deployment) -> None:
    """Its commands as they stand, with this pipeline and these dates, and a second pipeline after the first."""
    folder, lines = deployment.folder, readme_commands()
    for file in (folder / "pipelines").glob("*.yaml"):
        # As of the flights the test part begins on a day: a run of today finds rows of 2024 to test on.
        text = file.read_text()
        assert text.count("{last: 20 days}") == 1
        file.write_text(text.replace("{last: 20 days}", "{from: 2024-03-12}"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    deployment.settings = {
        "MILLRACE_HOME": "",  # the folder that the DAG file lies in
        "MILLRACE_SCHEDULES": '{"returns": "after parcels"}',
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
    }
    to_the_server, after_it = (
        lines[: lines.index("airflow standalone") + 1],
        lines[lines.index("airflow standalone") + 1 :],
    )
    exports = [line for line in lines if line.startswith("export ")]
    with (
        (folder / "server.log").open("w") as log,
        deployment.running("bash", "-ec", f"cd {ROOT}\n{_here(to_the_server, folder)}", stdout=log) as server,
    ):
        _await_runs(folder, server, {"parcels": 1})
        done = deployment.call(
            "bash", "-ec", f"cd {ROOT}\n{_here([*exports, *after_it, 'airflow dags unpause returns'], folder)}"
        )
        assert done.returncode == 0, done.stdout[-8000:]
        # One by `dags test`, one by the schedule, one by hand, two by the backfill.
        _await_runs(folder, server, {"parcels": 5, "returns": 1})

    days = ("2024-04-01", "2024-04-02", "2024-04-03")
    assert {day: deployment.outcome("score", day)["exit_code"] for day in days} == dict.fromkeys(days, 0)
    mine = {file.name for file in (deployment.lake / "ops/outcomes/parcels").glob("*-score.json")}
    assert {file.name for file in (deployment.lake / "ops/outcomes/returns").glob("*-score.json")} <= mine
    assert SECRET not in (folder / "server.log").read_text()
    assert [str(file) for file in (folder / "airflow/logs").rglob("*.log") if SECRET in file.read_text()] == []


def _here(lines: list[str], folder: Path) -> str:
    """The README's commands for the small pipeline, whose parcels are of early 2024, and with Airflow's home in the folder."""
    text = "\n".join(lines).replace("$PWD/build/airflow", str(folder / "airflow"))
    return text.replace("flights", "parcels").replace("2014-01-", "2024-04-")


def _await_runs(folder: Path, server: subprocess.Popen[str], expected: dict[str, int]) -> None:
    """Wait until so many runs of each DAG have succeeded; none may fail."""
    until = time.monotonic() + 3000
    states: list[tuple[str, str, int]] = []
    while time.monotonic() < until and server.poll() is None:
        with (
            suppress(sqlite3.OperationalError),
            sqlite3.connect(f"file:{folder}/airflow/airflow.db?mode=ro", uri=True) as db,
        ):
            states = db.execute("SELECT dag_id, state, count(*) FROM dag_run GROUP BY dag_id, state").fetchall()
        assert [found for found in states if found[1] == "failed"] == []
        counts = {dag: count for dag, state, count in states if state == "success"}
        if all(counts.get(dag, 0) >= count for dag, count in expected.items()):
            return
        time.sleep(1)
    raise AssertionError(f"expected {expected}, found {states}: {(folder / 'server.log').read_text()[-8000:]}")
