"""Whether a stage of training runs on GPUs: one switch, asked for each stage; what was decided, and why, is logged.

`spark.millrace.gpu` is `never` (the default), `auto` or `require`. Workers tell what they have, once a session: a driver may
have no GPU.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from models import gpu_task
from transforms.errors import ConfigError

SETTING = "spark.millrace.gpu"
MODES = ("never", "auto", "require")
Stage = Literal["arrays", "trees"]
_found: dict[str, Found] = {}
_chosen: dict[str, dict[str, str]] = {}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What a worker has.

    Attributes:
        gpus: names and memory.
        arrays, trees: what keeps arrays, and boosted trees, off them; empty for nothing.
    """

    gpus: tuple[str, ...]
    arrays: str
    trees: str


@dataclass(frozen=True)
class Choice:
    """Where a stage runs, and why there."""

    gpu: bool
    reason: str


def choose(spark: SparkSession, stage: Stage, *, passes: int | None = None) -> Choice:
    """Where a stage runs.

    Args:
        passes: over the rows, None where the data decide. With `auto` one or two stay: reading the rows takes longer than the
            arithmetic that a GPU would save (`scripts/bench gpu_linear`).

    Raises:
        ConfigError: the setting is none of its values, or GPUs are required and workers cannot use any.
    """
    mode = spark.conf.get(SETTING, "never")
    if mode not in MODES:
        raise ConfigError(f"{SETTING} is '{mode}'; expected one of {', '.join(MODES)}.")
    if mode == "never":
        return Choice(False, f"{SETTING} is never")
    choice = _choice(spark, stage, require=mode == "require", passes=passes)
    where = f"{'GPU' if choice.gpu else 'CPU'}: {choice.reason}"
    log.info("%s on %s", stage, where)
    _chosen.setdefault(spark.sparkContext.applicationId, {})[stage] = where
    return choice


def chosen(spark: SparkSession) -> dict[str, str]:
    """What the last choice of each stage was, and why; empty with `never`."""
    return dict(_chosen.get(spark.sparkContext.applicationId, {}))


def require(spark: SparkSession) -> None:
    """Before any work: make sure that GPUs that are required can be used.

    Raises:
        ConfigError: they cannot.
    """
    if spark.conf.get(SETTING, "never") == "require":
        choose(spark, "arrays")


def found(spark: SparkSession) -> Found:
    """What the first worker that answers has; asked once a session."""
    application = spark.sparkContext.applicationId
    if application not in _found:
        schema = from_arrow_schema(gpu_task.FOUND)
        row = spark.range(0, 1, 1, 1).mapInArrow(gpu_task.look, schema).collect()[0]
        _found[application] = Found(tuple(row["gpus"]), row["arrays"], row["trees"])
    return _found[application]


def _choice(spark: SparkSession, stage: Stage, *, require: bool, passes: int | None) -> Choice:
    has = found(spark)
    problem = has.arrays if stage == "arrays" else has.trees
    if problem:
        if require:
            raise ConfigError(f"A GPU is required ({SETTING}), and there is none to use: {problem}.")
        return Choice(False, problem)
    if not require and passes is not None:
        return Choice(False, f"of {passes} pass(es) over the rows, reading them takes most")
    return Choice(True, f"workers have {'; '.join(has.gpus)}")
