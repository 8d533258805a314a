"""NVIDIA's RAPIDS plugin, which runs Spark SQL on GPUs: where an environment asks for it, the locked jar, and what keeps this machine from it."""

from __future__ import annotations

import logging
import re
import zipfile
from pathlib import Path

import pyspark
from pyspark.sql import SparkSession

from conf.schema import Environment
from jobs import jars, nvidia_smi
from models.gpus import Choice, Measured, NoGpu
from transforms.errors import ConfigError

PLUGINS, PLUGIN = "spark.plugins", "com.nvidia.spark.SQLPlugin"
MODE, EXPLAINS = "spark.rapids.sql.mode", "explainOnly"
ENABLED = "spark.rapids.sql.enabled"
CLASS_PATH = "spark.driver.extraClassPath"
# One folder of classes for each version: `spark420` for Spark 4.2.0; `spark400db173` is a vendor's own.
_VERSION = re.compile(r"spark(\d)(\d)(\d+)/")
log = logging.getLogger(__name__)


def is_asked(environment: Environment) -> bool:
    """Whether the environment's sessions are to have the plugin."""
    return PLUGIN in _names(environment.spark.get(PLUGINS, ""))


def decided(environment: Environment, *, is_local: bool) -> Environment:
    """The environment with the plugin or without it: on this machine it needs a GPU, unless it only explains.

    A driver of a cluster knows nothing of its workers' GPUs: there the plugin is left as it is.

    Raises:
        ConfigError: the plugin is asked for, and `gpu` is never.
        NoGpu: `gpu` is require, and there is none.
    """
    explains = environment.spark.get(MODE, "") == EXPLAINS
    if not is_asked(environment) or explains:
        return environment
    if environment.gpu == "never":
        raise ConfigError(
            f"Environment {environment.name}: {PLUGINS} names NVIDIA's plugin, and `gpu` is never. Set `gpu` to auto or require, or remove"
            " the plugin."
        )
    problem = without_gpu() if is_local else ""
    if not problem:
        return environment
    if environment.gpu == "require":
        raise NoGpu(f"A GPU is required (environment {environment.name}), and there is none for Spark SQL: {problem}.")
    log.info("Spark SQL on CPU: %s", problem)
    others = [name for name in _names(environment.spark[PLUGINS]) if name != PLUGIN]
    spark = {name: value for name, value in environment.spark.items() if not name.startswith("spark.rapids.")}
    kept = {**spark, PLUGINS: ",".join(others)} if others else {k: v for k, v in spark.items() if k != PLUGINS}
    return environment.model_copy(update={"spark": kept})


def is_loaded(spark: SparkSession) -> bool:
    """Whether the session has the plugin."""
    return PLUGIN in _names(str(spark.sparkContext.getConf().get(PLUGINS, "")))


def _names(plugins: str) -> list[str]:
    """As Spark reads them."""
    return [name.strip() for name in plugins.split(",")]


def choose(spark: SparkSession, mode: str, times: Measured | None) -> Choice | None:
    """Where Spark SQL runs from here on, and why; it is logged. None for a session without the plugin, or with one that only explains.

    Args:
        mode: `gpu` of the environment. With `auto` the faster side has it, where both were measured.
    """
    if not is_loaded(spark) or spark.conf.get(MODE, "") == EXPLAINS:
        return None
    choice = times.choice if mode == "auto" and times else Choice(True, f"{PLUGINS} names NVIDIA's plugin")
    spark.conf.set(ENABLED, str(choice.gpu).lower())
    log.info("Spark SQL on %s", choice)
    return choice


def without_gpu() -> str:
    """Why this machine has no GPU to run Spark SQL on, empty where it has one."""
    if not nvidia_smi.is_there():
        return "there is no nvidia-smi on the PATH, as NVIDIA's driver has it"
    cards = nvidia_smi.asked("--list-gpus")
    if isinstance(cards, str):
        return cards
    return "" if cards else "nvidia-smi lists no card"


def ensure() -> Path:
    """The jar, fetched where it is not there yet.

    Raises:
        JarError: it cannot be had.
        ConfigError: it was not built for the Spark that is installed.
    """
    (jar,) = jars.ensure("gpu")
    require(jar, pyspark.__version__)
    return jar


def require(jar: Path, spark: str) -> None:
    """Make sure that the jar was built for a version of Spark: with another one it stops a session by a traceback.

    Raises:
        ConfigError: it was not.
    """
    with zipfile.ZipFile(jar) as archive:
        found = {match.groups() for name in archive.namelist() if (match := _VERSION.match(name))}
    versions = sorted((tuple(map(int, parts)) for parts in found), reverse=True)
    if spark not in (texts := [".".join(map(str, version)) for version in versions]):
        raise ConfigError(
            f"Expected NVIDIA's plugin for Spark {spark}, found {jar.name}, which is for {', '.join(texts) or 'none'}."
            " Lock a version that has it in conf/jars.lock, or install a Spark that it has."
        )
