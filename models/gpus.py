"""Whether a stage of training runs on GPUs: one switch, asked for each stage; what was decided, and why, is logged.

`spark.millrace.gpu` is `never` (the default), `auto` or `require`. Workers tell what they have, once a session: a driver may
have no GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pyspark.sql import SparkSession

from transforms.errors import ConfigError, MillraceError

SETTING = "spark.millrace.gpu"
MODES = ("never", "auto", "require")
Stage = Literal["arrays", "trees", "estimators"]
# What a pipeline is expected to have; estimators that spark-rapids-ml knows are asked for when there are any.
STAGES: tuple[Stage, ...] = ("arrays", "trees")
_found: dict[str, Found] = {}
_taken: dict[str, dict[Stage, Choice]] = {}
_measured: dict[str, Mapping[Stage, Measured]] = {}
log = logging.getLogger(__name__)


class NoGpu(MillraceError):
    """A GPU is required and cannot be used. Not the failure of a fit, which would be a trial like others."""

    exit_code = 2


@dataclass(frozen=True)
class Found:
    """What a worker has.

    Attributes:
        gpus: names and memory.
        arrays, trees, estimators: what keeps arrays, boosted trees and the estimators of spark-rapids-ml off them; empty for nothing.
    """

    gpus: tuple[str, ...]
    arrays: str
    trees: str
    estimators: str = ""


@dataclass(frozen=True)
class Choice:
    """Where a stage runs, and why there."""

    gpu: bool
    reason: str

    def __str__(self) -> str:
        return f"{'GPU' if self.gpu else 'CPU'}: {self.reason}"


@dataclass(frozen=True)
class Measured:
    """Seconds that something took on either side, when it was last measured."""

    what: str
    cpu: float
    gpu: float

    @property
    def choice(self) -> Choice:
        """The faster side."""
        took = (
            f"{self.what} took {self.gpu:.3g} s on GPUs and {self.cpu:.3g} s on processors when they were last measured"
        )
        return Choice(self.gpu < self.cpu, took)


def choose(spark: SparkSession, stage: Stage, *, passes: int | None = None, against: str = "") -> Choice:
    """Where a stage would run.

    Args:
        against: what of this stage keeps it off any GPU; empty for nothing.
        passes: over the rows, None where the data decide. With `auto` a stage of known passes, which are one or two, stays where no
            measurement says otherwise: reading the rows takes longer than the arithmetic that a GPU would save
            (`scripts/bench gpu_linear`).

    Raises:
        ConfigError: the setting is none of its values.
        NoGpu: GPUs are required and workers cannot use any.
    """
    mode = spark.conf.get(SETTING, "never")
    if mode not in MODES:
        raise ConfigError(f"{SETTING} is '{mode}'; expected one of {', '.join(MODES)}.")
    if mode == "never":
        return Choice(False, f"{SETTING} is never")
    problem = getattr(found(spark), stage) or against
    if problem and mode == "require":
        raise NoGpu(f"A GPU is required ({SETTING}), and there is none to use for {stage}: {problem}.")
    if problem:
        return Choice(False, problem)
    if mode == "auto" and (times := _measured.get(spark.sparkContext.applicationId, {}).get(stage)):
        return times.choice
    if mode == "auto" and passes is not None:
        return Choice(False, f"of {passes} pass(es) over the rows, reading them takes most")
    return Choice(True, f"workers have {'; '.join(found(spark).gpus)}")


def take(spark: SparkSession, stage: Stage, *, passes: int | None = None, against: str = "") -> bool:
    """As `choose`, for a stage that runs now: where it does is logged, unless it is never a GPU, and kept for `taken`."""
    choice = choose(spark, stage, passes=passes, against=against)
    if spark.conf.get(SETTING, "never") != "never":
        log.info("%s on %s", stage, choice)
    _taken.setdefault(spark.sparkContext.applicationId, {})[stage] = choice
    return choice.gpu


def taken(spark: SparkSession) -> dict[Stage, Choice]:
    """Where each stage ran last, and why, since this was asked before."""
    return _taken.pop(spark.sparkContext.applicationId, {})


@contextmanager
def measured(spark: SparkSession, times: Mapping[Stage, Measured]) -> Iterator[None]:
    """Until the end of the context `auto` goes by these times, stage by stage where there are any."""
    application = spark.sparkContext.applicationId
    _measured[application] = times
    try:
        yield
    finally:
        del _measured[application]


def is_required(spark: SparkSession) -> bool:
    """Whether nothing may run without GPUs."""
    return spark.conf.get(SETTING, "never") == "require"


def require(spark: SparkSession) -> None:
    """Before any work: make sure that GPUs that are required can be used.

    Raises:
        ConfigError: the setting is none of its values.
        NoGpu: they cannot.
    """
    for stage in STAGES if is_required(spark) else ():
        choose(spark, stage)


def found(spark: SparkSession) -> Found:
    """What the first worker that answers has; asked once a session."""
    application = spark.sparkContext.applicationId
    if application not in _found:
        # They bring NumPy and pyarrow, a tenth of a second that no command has to wait for that asks for no GPU.
        from pyspark.sql.pandas.types import from_arrow_schema

        from models import gpu_task

        schema = from_arrow_schema(gpu_task.FOUND)
        row = spark.range(0, 1, 1, 1).mapInArrow(gpu_task.look, schema).collect()[0]
        _found[application] = Found(tuple(row["gpus"]), row["arrays"], row["trees"], row["estimators"])
    return _found[application]
