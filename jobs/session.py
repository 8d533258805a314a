"""The only builder of a SparkSession."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import resources
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from conf import secrets
from conf.schema import Environment
from jobs import class_archive, jars, rapids, sizes
from models import gpus
from transforms.errors import ConfigError

LOG4J = Path(str(resources.files("conf") / "log4j2.properties"))
EXTENSIONS, DELTA = "spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension"
# Group of jars -> what it brings, and a class of it.
BROUGHT = {"delta": ("Delta", DELTA), "s3": ("S3A", "org.apache.hadoop.fs.s3a.S3AFileSystem")}
SENSITIVE = "secret|password|token|access[.]?key|credential|api_?key|pepper|hmac|jceks|connection.?string"

# What is computed, kept and shown rests on these: neither an environment nor spark-submit can change them.
FIXED = {
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.storeAssignmentPolicy": "ANSI",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # the default, INT96, has no statistics
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.hadoop.parquet.page.verify-checksum.enabled": "true",  # a flipped bit is otherwise read as a wrong value
    # A commit that landed though its response was lost is not committed again.
    "spark.databricks.delta.commit.idempotencyCheck.enabled": "true",
    # Delta 4.4 otherwise refuses older versions though pinned files exist; `maintain` decides what is removed.
    "spark.databricks.delta.vacuum.enforceTimeTravelWithinDeletedFileRetentionDuration": "false",
    "spark.redaction.regex": f"(?i){SENSITIVE}",
    "spark.sql.redaction.string.regex": rf"(?i)({SENSITIVE})\S*\s*[=:]\s*\S+",
    "spark.sql.redaction.options.regex": f"(?i)url|{SENSITIVE}",
}
# How it runs; an environment's `spark` block and spark-submit's --conf come before these.
DEFAULTS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",  # jobs.progress shows progress
    # Whether a transaction was committed is read from the checksum, which leaves ids out once there are more (100 by default).
    "spark.databricks.delta.setTransactionsInCrc.maxAllowed": "1000",
    # The default, 64 MiB, has Spark add up the sizes of all columns after every row that it sends to Python: a third of the time
    # of narrow rows. The limit of 10,000 rows stays.
    "spark.sql.execution.arrow.maxBytesPerBatch": str(2**31 - 1),
    # The default, 20 tries at ever longer distances, waits for hours for a store that answers 503; this, for minutes.
    "spark.hadoop.fs.s3a.retry.throttle.limit": "10",
    "spark.sql.window.segmentTree.enabled": "true",  # off by default: long SQL windows cost width x rows without it
}


def build(environment: Environment, *, app: str) -> SparkSession:
    """The session of this process, started when there is none.

    Under spark-submit its master, jars, memory and --conf win over the environment's.

    Raises:
        ConfigError: Spark Connect is asked for, Spark does not start with these settings, a setting would change what is
            computed, or the session that is running lacks Delta.
        JarError: the Delta jars cannot be had.
        NoGpu: GPUs are required and workers have none to use.
        MillraceError: Java does not start.
    """
    _refuse_connect(environment)
    _refuse_changes(environment)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if submitted:
        _refuse_secrets()
    running = SparkSession.getActiveSession()
    if running is not None:
        running.conf.set(gpus.SETTING, environment.gpu)
        gpus.require(running)
        return _checked(running, environment)
    master = environment.master if not submitted else _given().get("spark.master", environment.master)
    environment = rapids.decided(environment, is_local=_is_local(master))
    builder = SparkSession.builder.appName(app)
    for name, value in settings(environment, given=_given() if submitted else None).items():
        builder = builder.config(name, value)
    if not submitted:
        _set_process_environment(environment)
    try:
        with jars.java_starts():
            started = _checked(builder.getOrCreate(), environment)
    except Py4JJavaError as error:
        raise ConfigError(
            f"Environment {environment.name}: Spark did not start with master {environment.master}: {error.java_exception.getMessage()}"
        ) from error
    # Before the first stage all that is read are logs: with 200 tasks each they would take minutes.
    sizes.fit(started, lambda: 0, holds_rows=False)
    gpus.require(started)
    return started


def settings(environment: Environment, *, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Every Spark setting that a session of this environment is built with.

    Args:
        given: what spark-submit was told, None without spark-submit. Those settings are left as they are; it has also
            started the JVM, so that memory and jars are its business.
    """
    master = environment.master if given is None else given.get("spark.master", environment.master)
    asked = {} if environment.gpu == "never" else {gpus.SETTING: environment.gpu}
    chosen = {**DEFAULTS, **asked, **(_local(master) if _is_local(master) else {}), **environment.spark}
    extensions = [
        *environment.spark.get(EXTENSIONS, "").split(","),
        *(given or {}).get(EXTENSIONS, "").split(","),
        DELTA,
    ]
    if given is None:
        locked = [str(path) for group in _jar_groups(environment) for path in jars.ensure(group)]
        if rapids.is_asked(environment):
            locked.append(str(rapids.ensure()))
            # It is looked for before Spark adds jars.
            chosen[rapids.CLASS_PATH] = os.pathsep.join(filter(None, [chosen.get(rapids.CLASS_PATH), locked[-1]]))
        files = [environment.spark.get("spark.jars", ""), *locked]
        chosen |= {
            "spark.master": master,
            "spark.driver.memory": environment.driver_memory,
            "spark.jars": ",".join(file for file in files if file),
        }
    else:
        chosen = {name: value for name, value in chosen.items() if name not in given}
    return {**chosen, **FIXED, EXTENSIONS: ",".join(dict.fromkeys(name for name in extensions if name))}


def _jar_groups(environment: Environment) -> list[str]:
    """Groups of `conf/jars.lock` that the environment's addresses need."""
    on_s3 = any(address.startswith("s3a:") for address in (environment.raw, environment.lake))
    return ["delta", "s3"] if on_s3 else ["delta"]


def _given() -> dict[str, str]:
    """What spark-submit was told: it hands its settings over as system properties of the JVM that it has started."""
    SparkContext._ensure_initialized()
    return dict(SparkConf(_jvm=SparkContext._jvm).getAll())


def _is_local(master: str) -> bool:
    return master.partition("[")[0] == "local"


def _local(master: str) -> dict[str, str]:
    """One machine, small tables: 200 shuffle partitions and Delta's 50 snapshot tasks would cost more than the work."""
    cores = master.partition("[")[2].partition(",")[0].rstrip("]")
    count = int(cores) if cores.isdigit() else len(os.sched_getaffinity(0)) if cores == "*" else 1
    return {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        **_daemon(),
        "spark.driver.extraJavaOptions": " ".join(
            [f"-Dlog4j2.configurationFile={LOG4J.as_uri()}", *class_archive.options()]
        ),
        "spark.sql.shuffle.partitions": str(2 * count),
        "spark.databricks.delta.snapshotPartitions": "1",
        # The default sends VACUUM's listing through 10,000 tasks: 30 s for a tiny table.
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
        "spark.sql.warehouse.dir": str(jars.cache_folder().parent / "warehouse"),  # stays empty: tables are paths
    }


def _daemon() -> dict[str, str]:
    """Spark's own, where that could not import ours: executors of a cluster may lack it yet, and so may Python in a folder with other `jobs`."""
    here = Path(__file__)
    found = PathFinder.find_spec("jobs", [os.getcwd()])
    is_foreign = found is not None and found.origin != str(here.with_name("__init__.py"))
    return {} if is_foreign or not here.exists() else {"spark.python.daemon.module": "jobs.python_daemon"}


def _set_process_environment(environment: Environment) -> None:
    """Python workers run this interpreter; in local mode every port, the UI's too, is bound to loopback."""
    if _is_local(environment.master):
        os.environ["PYSPARK_PYTHON"] = sys.executable
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    else:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def _refuse_connect(environment: Environment) -> None:
    remote = "spark.remote" in environment.spark or environment.master.startswith("sc://")
    remote = remote or environment.spark.get("spark.api.mode", "classic") != "classic"
    if remote or not {"SPARK_REMOTE", "SPARK_CONNECT_MODE_ENABLED"}.isdisjoint(os.environ):
        raise ConfigError(
            f"Environment {environment.name}: expected a classic Spark session, found Spark Connect, which MLlib's tuning and Great"
            " Expectations do not support. Unset SPARK_REMOTE, spark.remote and spark.api.mode, and name a master such as"
            " local[*], yarn or spark://host:7077."
        )


def _refuse_secrets() -> None:
    """What spark-submit was told on its command line stands in process lists and in the scheduler's logs."""
    SparkContext._ensure_initialized()
    jvm: Any = SparkContext._jvm
    found = secrets.in_command(str(jvm.System.getProperty("sun.java.command") or ""))
    if found:
        raise ConfigError(
            [
                f"spark-submit: {name}: expected no secret on a command line. {secrets.CURE}."
                for name in dict.fromkeys(found)
            ]
        )


def _refuse_changes(environment: Environment) -> None:
    changed = [name for name, value in FIXED.items() if environment.spark.get(name, value) != value]
    if changed:
        raise ConfigError(
            [
                f"Environment {environment.name}: {name}: expected {FIXED[name]}, found {environment.spark[name]}. Results rest on"
                " this setting; remove it."
                for name in changed
            ]
        )


def _checked(spark: SparkSession, environment: Environment) -> SparkSession:
    """The session with our settings; it may have been started by others.

    Raises:
        ConfigError: Delta, or S3A where it is needed, is not on its class path, or a setting that is fixed at the start differs.
    """
    jvm = spark._jvm
    assert jvm is not None
    groups = _jar_groups(environment)
    for name, class_name in (BROUGHT[group] for group in groups):
        try:
            jvm.org.apache.spark.util.Utils.classForName(class_name, True, False)
        except Py4JJavaError as error:
            raise ConfigError(
                f"The Spark session that is running has no {name} on its class path; expected the jars of conf/jars.lock. Start it with"
                f' spark-submit --jars "$(python -m jobs.jars {" ".join(groups)})".'
            ) from error
    differing = {name: value for name, value in FIXED.items() if spark.conf.get(name, None) != value}
    late = [name for name in differing if not spark.conf.isModifiable(name)]
    if DELTA not in str(spark.conf.get(EXTENSIONS, "")).split(","):
        late.append(EXTENSIONS)
    if late:
        raise ConfigError(
            [
                f"The Spark session that is running has {name}={spark.conf.get(name, None)}; expected {FIXED.get(name, DELTA)}, which"
                " can be set only at its start: let millrace start the session."
                for name in late
            ]
        )
    for name, value in differing.items():
        spark.conf.set(name, value)
    return spark
