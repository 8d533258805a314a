"""The session: which setting comes from where, what is refused, and that Spark, Delta and MLlib run on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.schema import Environment
from jobs import class_archive, jars, session
from transforms.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.quick
def test_settings_of_a_local_environment() -> None:
    """Local mode: two shuffle partitions a core, loopback, jars from the cache, and the fixed settings."""
    built = session.settings(Environment(master="local[3]", driver_memory="1g"))

    assert built == {
        "spark.master": "local[3]",
        "spark.driver.memory": "1g",
        "spark.jars": ",".join(str(path) for path in jars.ensure("delta")),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.databricks.delta.setTransactionsInCrc.maxAllowed": "1000",
        "spark.sql.execution.arrow.maxBytesPerBatch": "2147483647",
        "spark.hadoop.fs.s3a.retry.throttle.limit": "10",
        "spark.sql.window.segmentTree.enabled": "true",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.python.daemon.module": "jobs.python_daemon",
        "spark.driver.extraJavaOptions": " ".join(
            [f"-Dlog4j2.configurationFile=file://{ROOT}/conf/log4j2.properties", *class_archive.options()]
        ),
        "spark.sql.shuffle.partitions": "6",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
        "spark.sql.warehouse.dir": str(jars.cache_folder().parent / "warehouse"),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        **session.FIXED,
    }


@pytest.mark.quick
def test_a_cluster_keeps_its_own_sizes() -> None:
    """What makes sense on one machine only is left out elsewhere; jars and extensions of the environment stay beside Delta's."""
    environment = Environment(
        master="yarn",
        driver_memory="8g",
        spark={"spark.jars": "/opt/x.jar", "spark.sql.extensions": "org.example.Extension"},
    )

    assert session.settings(environment) == {
        "spark.master": "yarn",
        "spark.driver.memory": "8g",
        "spark.jars": ",".join(["/opt/x.jar", *(str(path) for path in jars.ensure("delta"))]),
        **session.DEFAULTS,
        "spark.sql.extensions": "org.example.Extension,io.delta.sql.DeltaSparkSessionExtension",
        **session.FIXED,
    }


@pytest.mark.quick
def test_the_environment_overrides_defaults() -> None:
    """The `spark` block of an environment file comes before our sizes."""
    built = session.settings(Environment(spark={"spark.ui.enabled": "true", "spark.sql.shuffle.partitions": "7"}))

    assert (built["spark.ui.enabled"], built["spark.sql.shuffle.partitions"]) == ("true", "7")


@pytest.mark.quick
def test_the_gpu_switch_is_a_setting_of_the_session() -> None:
    """Which `models.gpus` asks; without it nothing is set."""
    assert session.settings(Environment(gpu="auto"))["spark.millrace.gpu"] == "auto"
    assert "spark.millrace.gpu" not in session.settings(Environment())


@pytest.mark.quick
def test_spark_submit_overrides_the_environment() -> None:
    """Master, memory, jars and --conf given to spark-submit are left alone; what results rest on is set nevertheless."""
    given = {"spark.master": "yarn", "spark.sql.shuffle.partitions": "400", "spark.sql.session.timeZone": "Asia/Tokyo"}
    environment = Environment(
        master="local[2]", spark={"spark.sql.shuffle.partitions": "7", "spark.executor.cores": "4"}
    )

    assert session.settings(environment, given=given) == {
        **session.DEFAULTS,
        "spark.executor.cores": "4",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        **session.FIXED,
    }


@pytest.mark.quick
def test_every_changed_fixed_setting_is_refused() -> None:
    """An environment says where a pipeline runs, never what it computes: all such settings are named at once."""
    environment = Environment(
        name="odd",
        spark={
            "spark.sql.session.timeZone": "Europe/Paris",
            "spark.sql.ansi.enabled": "false",
            "spark.sql.adaptive.enabled": "false",
        },
    )

    with pytest.raises(ConfigError) as caught:
        session.build(environment, app="test")

    assert caught.value.problems == (
        "Environment odd: spark.sql.session.timeZone: expected UTC, found Europe/Paris. Results rest on this setting; remove it.",
        "Environment odd: spark.sql.ansi.enabled: expected true, found false. Results rest on this setting; remove it.",
    )


@pytest.mark.parametrize(
    "environment",
    [
        Environment(name="far", master="sc://host:15002"),
        Environment(name="far", spark={"spark.remote": "local"}),
        Environment(name="far", spark={"spark.api.mode": "connect"}),
    ],
    ids=["master", "spark.remote", "spark.api.mode"],
)
@pytest.mark.quick
def test_spark_connect_is_refused(environment: Environment) -> None:
    """However Spark Connect is asked for, one sentence says what to use."""
    with pytest.raises(ConfigError) as caught:
        session.build(environment, app="test")

    assert str(caught.value) == (
        "Environment far: expected a classic Spark session, found Spark Connect, which MLlib's tuning and Great Expectations do not"
        " support. Unset SPARK_REMOTE, spark.remote and spark.api.mode, and name a master such as local[*], yarn or spark://host:7077."
    )


@pytest.mark.quick
def test_spark_connect_from_the_process_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPARK_REMOTE would silently turn every session of this process into a remote one."""
    monkeypatch.setenv("SPARK_REMOTE", "sc://host")

    with pytest.raises(ConfigError, match="Environment local: expected a classic Spark session, found Spark Connect"):
        session.build(Environment(), app="test")


def test_the_running_session_is_reused_with_our_settings(spark: SparkSession) -> None:
    """A second job in one process gets the session that is there, settings that somebody changed set right again."""
    spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")

    again = session.build(Environment(), app="another")

    assert again is spark
    assert {name: spark.conf.get(name) for name in session.FIXED} == session.FIXED


def test_workers_find_libraries_imported(spark: SparkSession) -> None:
    """The daemon that forks them is ours, and has imported what they need."""

    def found(_: Iterator[int]) -> list[tuple[str, list[str]]]:
        daemon = Path(f"/proc/{os.getppid()}/cmdline").read_text()
        return [(daemon, sorted({"numpy", "pandas", "pyarrow", "models.exact.task"} & set(sys.modules)))]

    [(daemon, imported)] = spark.sparkContext.parallelize([0], 1).mapPartitions(found).collect()

    assert "jobs.python_daemon" in daemon
    assert imported == ["models.exact.task", "numpy", "pandas", "pyarrow"]


def test_beside_another_folder_of_jobs_the_daemon_is_sparks_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python looks into the working directory first."""
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "spark.python.daemon.module" not in session.settings(Environment(master="local[3]"))


def test_delta_tables_and_their_history_work(spark: SparkSession, lake_root: str) -> None:
    """The locked jars fit this Spark: write, update, read an older version."""
    path = f"{lake_root}/numbers"
    spark.range(3, numPartitions=2).write.format("delta").save(path)
    spark.sql(f"UPDATE delta.`{path}` SET id = id + 10 WHERE id = 2")

    versions = [
        sorted(row.id for row in spark.read.format("delta").option("versionAsOf", version).load(path).collect())
        for version in (0, 1)
    ]

    assert versions == [[0, 1, 2], [0, 1, 12]]


def test_secrets_do_not_show_in_plans(spark: SparkSession, capfd: pytest.CaptureFixture[str]) -> None:
    """An access key in an option of a reader appears in no printed plan."""
    frame = spark.range(1).selectExpr("'s3.access.key=AKIA1234 rest' AS text").filter("text <> 'password: hunter2'")

    frame.explain(True)

    printed = capfd.readouterr().out
    assert "AKIA1234" not in printed
    assert "hunter2" not in printed
    assert "*********(redacted)" in printed


STARTED = """
import json, sys
from conf.schema import Environment
from jobs import session
from transforms.errors import MillraceError
try:
    spark = session.build(Environment(**json.loads(sys.argv[1])), app="test")
except MillraceError as error:
    print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
else:
    names = ("spark.master", "spark.app.name", "spark.sql.shuffle.partitions", "spark.sql.session.timeZone", "spark.ui.enabled")
    spark.range(1).write.format("delta").mode("overwrite").save(sys.argv[2])
    print(json.dumps({name: spark.conf.get(name, None) for name in names}))
"""


def start(tmp_path: Path, environment: dict[str, object], *command: str) -> tuple[dict[str, object], str]:
    """Build a session in a process of its own; returns what it printed and its standard error."""
    script = tmp_path / "started.py"
    script.write_text(STARTED)
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }
    done = subprocess.run(
        [*(command or (sys.executable,)), str(script), json.dumps(environment), str(tmp_path / "table")],
        capture_output=True,
        text=True,
        env=variables,
        cwd=tmp_path,
        timeout=240,
        check=True,
    )
    result: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return result, done.stderr


@pytest.mark.slow
def test_a_session_of_its_own_process_is_quiet(tmp_path: Path) -> None:
    """A start and a Delta commit print nothing to standard error but the JVM's own line, and leave nothing in the folder."""
    result, stderr = start(tmp_path, {"master": "local[1]", "driver_memory": "1g"})

    assert result == {
        "spark.master": "local[1]",
        "spark.app.name": "test",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
    }
    assert stderr.splitlines() == ["WARNING: Using incubator modules: jdk.incubator.vector"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["started.py", "table"]


@pytest.mark.slow
def test_spark_submit_decides_master_and_sizes(tmp_path: Path) -> None:
    """The same code under spark-submit takes its master, jars and --conf, and still reads and writes Delta in UTC."""
    submit = str(Path(sys.executable).parent / "spark-submit")
    options = [
        "--master",
        "local[1]",
        "--driver-memory",
        "1g",
        "--jars",
        ",".join(str(path) for path in jars.ensure("delta")),
    ]
    sizes = ["--conf", "spark.sql.shuffle.partitions=3", "--conf", "spark.sql.session.timeZone=Asia/Tokyo"]

    result, _ = start(
        tmp_path, {"master": "yarn", "spark": {"spark.sql.shuffle.partitions": "9"}}, submit, *options, *sizes
    )

    assert result == {
        "spark.master": "local[1]",
        "spark.app.name": "test",
        "spark.sql.shuffle.partitions": "3",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
    }


@pytest.mark.slow
def test_spark_submit_without_delta_is_refused(tmp_path: Path) -> None:
    """Forgotten --jars are answered with the option to add, not with a missing class at the first table."""
    submit = str(Path(sys.executable).parent / "spark-submit")

    result, _ = start(tmp_path, {}, submit, "--master", "local[1]", "--driver-memory", "1g")

    assert result == {
        "error": "The Spark session that is running has no Delta on its class path; expected the jars of conf/jars.lock. Start it with"
        ' spark-submit --jars "$(python -m jobs.jars delta)".',
        "exit_code": 2,
    }


@pytest.mark.slow
def test_a_secret_on_the_command_line_of_spark_submit_is_refused(tmp_path: Path) -> None:
    """It stands in process lists by then, and is not repeated."""
    submit = str(Path(sys.executable).parent / "spark-submit")
    options = ["--master", "local[1]", "--driver-memory", "1g", "--conf", "spark.hadoop.fs.s3a.secret.key=canary"]

    result, stderr = start(tmp_path, {}, submit, *options)

    assert result == {
        "error": "spark-submit: spark.hadoop.fs.s3a.secret.key: expected no secret on a command line. Give it in the environment of"
        " the process (AWS_SECRET_ACCESS_KEY), by the machine's role, or by a credential provider"
        " (spark.hadoop.hadoop.security.credential.provider.path).",
        "exit_code": 2,
    }
    assert "canary" not in stderr


@pytest.mark.slow
def test_a_master_that_spark_does_not_know_is_a_sentence(tmp_path: Path) -> None:
    """The user's mistake in the environment file is no traceback."""
    result, _ = start(tmp_path, {"name": "odd", "master": "locale", "driver_memory": "1g"})

    assert result == {
        "error": "Environment odd: Spark did not start with master locale: Could not parse Master URL: 'locale'",
        "exit_code": 2,
    }
