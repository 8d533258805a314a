"""Airflow: one DAG for each pipeline file, one spark-submit for each of its jobs. README, "Airflow", has the settings.

Airflow reads this file again and again: it imports neither pyspark nor millrace, and of a pipeline file it takes the name alone.
What is wrong with the file says the first job, with line and cure.

Jobs may be killed anywhere and started again, and a lease keeps a second run out. Hence retries need no cleaning up before them, and
runs of several dates may come in any order.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml
from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Asset, Connection, Context, chain
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException

JOBS = ("ingest", "features", "train", "evaluate", "promote", "score")
CONNECTION = "millrace"

HOME = Path(os.environ.get("MILLRACE_HOME") or Path(__file__).resolve().parents[2]).resolve()
PIPELINES = Path(os.environ.get("MILLRACE_PIPELINES") or HOME / "conf")
ENVIRONMENT = os.environ.get("MILLRACE_ENVIRONMENT") or "local"
SCHEDULES = os.environ.get("MILLRACE_SCHEDULES") or "{}"
TIMEOUT = timedelta(hours=float(os.environ.get("MILLRACE_TIMEOUT_HOURS") or 6))

PYTHON = HOME / ".venv/bin/python"
PACKAGE = HOME / "build/package"

# Exit codes of the jobs that mean the same result next time; 5 is a lease that ends, 1 may be anything.
FINAL = {2: "configuration", 3: "data contract or quality gate", 4: "model floor missed and no champion"}
OTHER = {5: "another run holds the pipeline, or the request is unsafe"}
# What of a summary later tasks and people may want to see beside the task.
SHOWN = ("job", "outcome", "run_date", "rows_in", "rows_out", "tables", "seconds", "promote")
# Seconds that a job has to stop Spark and give its lease back.
GRACE = 60


def asked_run_date(context: Context) -> str | None:
    """The date that a run is for; None leaves it to the job, whose default is the day after the latest event.

    First of: `run_date` in the run's conf; the logical date; the latest `run_date` of the asset events that triggered the run, which
    has no logical date then.
    """
    given = (context["dag_run"].conf or {}).get("run_date") or context.get("ds")
    if given:
        return str(given)
    events = [event for several in context["triggering_asset_events"].values() for event in several]
    return max((str(event.extra["run_date"]) for event in events if (event.extra or {}).get("run_date")), default=None)


def environment_file() -> Path:
    """`local` is conf/env/local.yaml; a path is itself."""
    is_path = Path(ENVIRONMENT).suffix in (".yaml", ".yml")
    return Path(ENVIRONMENT).resolve() if is_path else HOME / f"conf/env/{ENVIRONMENT}.yaml"


def environment() -> dict[str, Any]:
    """What the environment file says; the jobs check it.

    Raises:
        AirflowFailException: it cannot be read.
    """
    file = environment_file()
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AirflowFailException(
            f"MILLRACE_ENVIRONMENT: expected the environment file {file}, which cannot be read: {error}. Set it to a path, or to the"
            f" name of a file in {HOME / 'conf/env'}."
        ) from error
    return found if isinstance(found, dict) else {}


def process_environment() -> dict[str, str]:
    """This process's environment, with the product's Java and Python."""
    java = HOME / ".venv/java-home"
    found = {"JAVA_HOME": java.read_text().strip()} if java.exists() else {}
    return {
        **os.environ,
        **found,
        "PATH": os.pathsep.join([str(PYTHON.parent), os.environ.get("PATH", os.defpath)]),
    }


def read_file(path: str) -> str:
    """Content of a file on a disk, on HDFS or in a store: read by the jobs' own Hadoop, which has the same settings and finds the same credentials.

    Raises:
        OSError: it cannot be read.
    """
    hadoop = "spark.hadoop."
    settings = {name: value for name, value in (environment().get("spark") or {}).items() if name.startswith(hadoop)}
    given = [word for name, value in settings.items() for word in ("-D", f"{name.removeprefix(hadoop)}={value}")]
    with TemporaryDirectory() as folder:
        # It insists on this file, which machines without HADOOP_CONF_DIR do not have.
        Path(folder, "core-site.xml").write_text("<configuration/>")
        try:
            done = subprocess.run(
                [str(PYTHON.with_name("spark-class")), "org.apache.hadoop.fs.FsShell", *given, "-cat", path],
                env={**process_environment(), "SPARK_DIST_CLASSPATH": f"{PACKAGE}/jars/*:{folder}"},
                capture_output=True, text=True, timeout=GRACE,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise OSError(f"no answer within {GRACE} s") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line and not line[0].isspace()]
        raise OSError(said[-1] if said else f"exit code {done.returncode}")
    return done.stdout


class Submission(SparkSubmitHook):
    """One call of the product's spark-submit. `summary` is the JSON line that the job printed, None in cluster mode."""

    summary: Mapping[str, Any] | None = None

    @classmethod
    def get_connection(cls, conn_id: str) -> Connection:
        """Airflow's connection; without one, the master that the environment file names."""
        try:
            return super().get_connection(conn_id)
        except AirflowNotFoundException:
            return Connection(conn_id=conn_id, conn_type="spark", host=environment().get("master", "local[*]"))

    def submit(self, application: str = "", **kwargs: Any) -> str | None:
        """As the hook's own, with the product's Java, Python and working folder."""
        # Credentials go on in the environment alone: what is in the command line is in the log.
        submitted: str | None = super().submit(application, cwd=HOME, env=process_environment(), **kwargs)
        return submitted

    @property
    def exit_code(self) -> int | None:
        """That of spark-submit: in client mode the job's, else 1 for any failure."""
        return None if self._submit_sp is None else self._submit_sp.poll()

    @property
    def application_ids(self) -> set[str]:
        """What the cluster calls this submission."""
        return {name for name in (self._yarn_application_id, self._kubernetes_application_id) if name}

    def end_in_order(self) -> None:
        """SIGTERM to the job: it stops Spark and gives its lease back. Whatever is left after `GRACE` seconds is left running."""
        process = self._submit_sp
        if process is None or process.poll() is not None:
            return
        with suppress(psutil.NoSuchProcess, subprocess.TimeoutExpired):
            # The first process that spark-submit started is the driver; workers come after it. In cluster mode there is none.
            started = sorted(psutil.Process(process.pid).children(), key=lambda child: child.create_time())
            if started:
                started[0].terminate()
                process.wait(GRACE)

    def _process_spark_submit_log(self, itr: Iterator[Any]) -> None:
        super()._process_spark_submit_log(self._noticing_summary(itr))

    def _noticing_summary(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            self.summary = summary_in(line) or self.summary
            yield line


def summary_in(line: str) -> Mapping[str, Any] | None:
    """The summary that a line of output is, else None."""
    with suppress(ValueError):
        found = json.loads(line) if line.startswith("{") else None
        if isinstance(found, dict) and {"job", "exit_code"} <= found.keys():
            return found
    return None


class JobOperator(SparkSubmitOperator):
    """One job of a pipeline, by spark-submit; what it did is the task's result."""

    def __init__(self, *, pipeline: str, file: str, **kwargs: Any) -> None:
        # Not durable: a retry that finds the job of a lost worker still running finds its lease held, and comes back later.
        super().__init__(durable=False, **kwargs)
        self.pipeline = pipeline
        self.file = file
        self._asked: str | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit and wait.

        Raises:
            AirflowFailException: the same would come out next time, so there is no retry.
            AirflowException: anything else; there may be one.
        """
        self._asked = asked_run_date(context)
        self._hook = hook = self._get_hook()
        try:
            super().execute(context)
        except AirflowException as error:
            raise self._failure(hook) from error
        summary = hook.summary or {}
        if not summary.get("promote", {}).get("promoted", True):
            self.log.info("The champion stays, and scoring goes on with it. %s", summary["promote"]["reason"])
        date = self._asked or summary.get("run_date")
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"run_date": date} if date else {}
        return {name: summary[name] for name in SHOWN if name in summary}

    def on_kill(self) -> None:
        """At a timeout, or when somebody marks the task: in order first, then as the provider does, by SIGKILL."""
        if isinstance(self._hook, Submission):
            self._hook.end_in_order()
        super().on_kill()

    def _get_hook(self) -> Submission:
        """What `scripts/package` prints, for the master and the deploy mode of the connection."""
        if not (PACKAGE / "millrace.zip").exists():
            raise AirflowFailException(
                f"{PACKAGE}: expected what scripts/package writes, found no millrace.zip. Run scripts/package in {HOME}, or set"
                " MILLRACE_HOME to the folder of millrace."
            )
        connection = Submission.get_connection(CONNECTION)
        is_local = str(connection.host).startswith("local")
        on_cluster = connection.extra_dejson.get("deploy-mode") == "cluster"
        packed = PACKAGE / "environment.tar.gz"
        is_packed = packed.exists() and not is_local
        conf = {
            "spark.driver.memory": environment().get("driver_memory", "4g"),
            "spark.pyspark.python": "./environment/bin/python" if is_packed else str(PYTHON),
            "spark.yarn.maxAppAttempts": "1",  # Airflow retries, and knows when not to
        }
        if is_packed and not on_cluster:
            conf["spark.pyspark.driver.python"] = str(PYTHON)
        if not on_cluster:  # where Spark's own lines would bury the job's; on a cluster the hook reads ids in them
            conf["spark.driver.extraJavaOptions"] = (
                f"-Dlog4j2.configurationFile={(HOME / 'conf/log4j2.properties').as_uri()}"
            )
        files = (Path(self.file), environment_file())
        pipeline, place = (file.name if on_cluster else str(file) for file in files)
        return Submission(
            conn_id=CONNECTION,
            conf=conf,
            # A driver in a container finds them in its working folder.
            files=",".join(map(str, files)) if on_cluster else None,
            py_files=str(PACKAGE / "millrace.zip"),
            archives=f"{packed}#environment" if is_packed else None,
            jars=",".join(str(jar) for jar in sorted((PACKAGE / "jars").iterdir())),
            name=f"millrace {self.task_id} {self.pipeline}",
            application_args=[
                self.task_id, pipeline, "--env", place, *(("--run-date", self._asked) if self._asked else ())
            ],
            spark_binary=str(PYTHON.with_name("spark-submit")),
        )  # fmt: skip

    def _failure(self, hook: Submission) -> AirflowException:
        """The error to raise for what the job said, or for the exit code where it said nothing."""
        outcome = hook.summary or self._kept(hook.application_ids) or {}
        code: int = outcome.get("exit_code") or hook.exit_code or 1
        meaning = {**FINAL, **OTHER}.get(code, "see the log above")
        said = outcome.get("error", "It left no word of its own.")
        kind = AirflowFailException if code in FINAL else AirflowException
        return kind(f"{self.task_id} of {self.pipeline} ended with exit code {code} ({meaning}). {said}")

    def _kept(self, applications: set[str]) -> Mapping[str, Any] | None:
        """The outcome that the job wrote to the lake: YARN tells success from failure, and nothing more.

        None where there is none, or where it cannot be read: then nothing is known of the failure, and the task is retried.
        """
        lake = str(environment().get("lake", "lake"))
        lake = lake if "://" in lake else str(HOME / lake)
        path = f"{lake}/ops/outcomes/{self.pipeline}/{self._asked or 'none'}-{self.task_id}.json"
        try:
            found = json.loads(read_file(path))
        except (OSError, ValueError) as error:
            self.log.warning("%s: cannot be read: %s", path, error)
            return None
        # An earlier run of this date may have left it.
        return found if found.get("application") in applications else None


def pipelines() -> dict[str, Path]:
    """Every pipeline file by the name that it gives itself.

    Raises:
        ValueError: two have one name.
    """
    found: dict[str, Path] = {}
    for file in sorted(PIPELINES.glob("*.yaml")):
        named = re.search(
            r"""^pipeline:\s*["']?([A-Za-z]\w*)""", file.read_text(encoding="utf-8"), re.MULTILINE | re.ASCII
        )
        name = named[1] if named else re.sub(r"\W", "_", file.stem, flags=re.ASCII)
        if name in found:
            raise ValueError(
                f"{file}: expected a name of its own, found pipeline {name}, which is in {found[name]} too. Rename one of them."
            )
        found[name] = file
    return found


def schedules(known: Mapping[str, Path]) -> dict[str, str | list[Asset] | None]:
    """When each pipeline runs: daily, or as MILLRACE_SCHEDULES says.

    Raises:
        ValueError: that is no such mapping, or it names an unknown pipeline.
    """
    try:
        asked = json.loads(SCHEDULES)
        if not isinstance(asked, dict):
            raise ValueError("no mapping")
    except ValueError as error:
        raise ValueError(
            f'MILLRACE_SCHEDULES: expected JSON such as {{"flights": "@daily", "houses": "after flights"}}, found {SCHEDULES}: {error}.'
        ) from error
    after = {
        name: text.removeprefix("after ").strip() for name, text in asked.items() if str(text).startswith("after ")
    }
    unknown = sorted({*asked, *after.values()} - known.keys())
    if unknown:
        raise ValueError(
            f"MILLRACE_SCHEDULES: expected names of pipelines in {PIPELINES} ({', '.join(known)}), found {', '.join(unknown)}."
        )
    return {name: [predictions(after[name])] if name in after else asked.get(name, "@daily") for name in known}


def predictions(pipeline: str) -> Asset:
    """What a run of a pipeline makes; its events carry `run_date`."""
    return Asset(f"millrace://{pipeline}/predictions")


def build(pipeline: str, file: Path, schedule: str | list[Asset] | None) -> DAG:
    """The jobs of a pipeline in order."""
    with DAG(
        pipeline,
        schedule=schedule,
        start_date=datetime(1970, 1, 1, tzinfo=UTC),  # any date can be run by a backfill
        catchup=False,
        max_active_runs=1,
        tags=["millrace"],
        doc_md=f"`{file}`, in the environment `{ENVIRONMENT}`.",
        default_args={
            "retries": 6,  # with the delays below about an hour, as long as another run may hold the pipeline
            "retry_delay": timedelta(minutes=1),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(hours=1),
            "execution_timeout": TIMEOUT,
        },
    ) as dag:
        tasks = [
            JobOperator(
                task_id=job,
                pipeline=pipeline,
                file=str(file.resolve()),
                application=str(PACKAGE / "millrace.py"),
                outlets=[predictions(pipeline)] if job == JOBS[-1] else [],
            )
            for job in JOBS
        ]
        chain(*tasks)
    return dag


_known = pipelines()
for _name, _schedule in schedules(_known).items():
    build(_name, _known[_name], _schedule)
