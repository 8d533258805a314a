"""The only builder of a SparkSession."""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from conf.schema import Environment
from jobs import jars
from transforms.errors import ConfigError

LOG4J = Path(str(resources.files("conf") / "log4j2.properties"))
SENSITIVE = "secret|password|token|access[.]?key|credential|api_?key|pepper|hmac|jceks|connection.?string"

# What is computed rests on these, so neither an environment nor spark-submit can change them.
MEANING = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
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
    "spark.sql.window.segmentTree.enabled": "true",
}


def build(environment: Environment, *, app: str) -> SparkSession:
    """The session of this process, started when there is none; the one there is reused with our settings.

    Under spark-submit its master, jars, memory and --conf win over the environment's.

    Raises:
        ConfigError: Spark Connect is asked for, a setting would change what is computed, or the cluster lacks Delta.
        JarError: the Delta jars cannot be had.
    """
    _refuse_connect(environment)
    _refuse_changed_meaning(environment)
    running = SparkSession.getActiveSession()
    if running is not None:
        return _adopt(running)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    builder = SparkSession.builder.appName(app)
    for name, value in settings(environment, submitted=submitted).items():
        builder = builder.config(name, value)
    if not submitted:
        _set_process_environment(environment)
    spark = builder.getOrCreate()
    return _adopt(spark)


def settings(environment: Environment, *, submitted: bool = False) -> dict[str, str]:
    """Every Spark setting of a session in this environment.

    With `submitted` only those that change what is computed: spark-submit has decided the rest before Python started.
    """
    if submitted:
        from pyspark import SparkConf, SparkContext

        SparkContext._ensure_initialized()
        given = SparkConf(_jvm=SparkContext._jvm)
        sizes = {**DEFAULTS, **environment.spark}
        return {**{name: value for name, value in sizes.items() if not given.contains(name)}, **MEANING}
    chosen = {
        "spark.master": environment.master,
        "spark.driver.memory": environment.driver_memory,
        "spark.jars": ",".join(str(path) for path in jars.ensure("delta")),
        **DEFAULTS,
        **(_local(environment) if _is_local(environment) else {}),
        **environment.spark,
        **MEANING,
    }
    if "spark.jars" in environment.spark:
        chosen["spark.jars"] = ",".join(
            [environment.spark["spark.jars"], *(str(path) for path in jars.ensure("delta"))]
        )
    return chosen


def _is_local(environment: Environment) -> bool:
    return environment.master.startswith("local")


def _local(environment: Environment) -> dict[str, str]:
    """One machine, small tables: 200 shuffle partitions and Delta's 50 snapshot tasks would cost more than the work."""
    cores = environment.master.partition("[")[2].partition(",")[0].rstrip("]")
    count = int(cores) if cores.isdigit() else len(os.sched_getaffinity(0)) if cores == "*" else 1
    return {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": str(2 * count),
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
        "spark.sql.warehouse.dir": str(jars.cache_folder().parent / "warehouse"),  # stays empty: tables are paths
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={LOG4J.as_uri()}",
    }


def _set_process_environment(environment: Environment) -> None:
    """Python workers run this interpreter; in local mode every port, the UI's too, is bound to loopback."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if _is_local(environment):
        os.environ["PYSPARK_PYTHON"] = sys.executable
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")


def _refuse_connect(environment: Environment) -> None:
    remote = (
        "SPARK_REMOTE" in os.environ or "spark.remote" in environment.spark or environment.master.startswith("sc://")
    )
    if (
        remote
        or "SPARK_CONNECT_MODE_ENABLED" in os.environ
        or environment.spark.get("spark.api.mode", "classic") != "classic"
    ):
        raise ConfigError(
            f"Environment {environment.name}: expected a classic Spark session, found Spark Connect, which neither MLlib, Delta nor"
            " Great Expectations support fully. Unset SPARK_REMOTE and spark.remote, and name a master such as local[*], yarn or"
            " spark://host:7077."
        )


def _refuse_changed_meaning(environment: Environment) -> None:
    changed = [name for name, value in MEANING.items() if environment.spark.get(name, value) != value]
    if changed:
        raise ConfigError(
            [
                f"Environment {environment.name}: {name}: expected {MEANING[name]}, found {environment.spark[name]}. Results rest on"
                " this setting: remove it."
                for name in changed
            ]
        )


def _adopt(spark: SparkSession) -> SparkSession:
    """Check that Delta is there, and fix the settings that can still be fixed in a session that others started."""
    jvm = spark._jvm
    assert jvm is not None
    try:
        jvm.org.apache.spark.util.Utils.classForName(MEANING["spark.sql.catalog.spark_catalog"], True, False)
    except Py4JJavaError as error:
        raise ConfigError(
            "The Spark session that is running has no Delta on its class path; expected the jars of conf/jars.lock. Start it with"
            ' spark-submit --jars "$(python -m jobs.jars)".'
        ) from error
    fixed = [
        name
        for name, value in MEANING.items()
        if spark.conf.get(name, None) != value and not spark.conf.isModifiable(name)
    ]
    if fixed:
        raise ConfigError(
            [
                f"The Spark session that is running has {name}={spark.conf.get(name, None)}; expected {MEANING[name]}, which can be set"
                " only at its start."
                for name in fixed
            ]
        )
    for name, value in MEANING.items():
        if spark.conf.get(name, None) != value:
            spark.conf.set(name, value)
    return spark
