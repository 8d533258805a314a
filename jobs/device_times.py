"""How long stages took on processors and on GPUs: the ledger keeps it, and `gpu: auto` goes by what either took when it was last measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession

from models import gpus
from models.gpus import Choice, Measured

if TYPE_CHECKING:
    from jobs.runs import Stage

# Keys of `details` in the ledger: where the SQL of a stage ran, and how long the models of a search took.
SQL, MODELS = "sql", "models"


@dataclass
class Models:
    """Collects where the models of one search are trained, and how long they take.

    Attributes:
        work: fingerprint of all that decides how much there is to do, but for the rows; times of other work tell nothing.
        choices: where each stage of training ran last, and why.
    """

    spark: SparkSession
    work: str
    choices: dict[gpus.Stage, Choice] = field(default_factory=dict)
    _sums: dict[tuple[gpus.Stage, bool], tuple[float, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        gpus.taken(self.spark)  # by whoever came before

    def add(self, seconds: float, count: int) -> None:
        """So many models took so long, since the last call; they count where they all are of one stage."""
        taken = gpus.taken(self.spark)
        self.choices |= taken
        if len(taken) == 1 and count:
            ((stage, choice),) = taken.items()
            before = self._sums.get((stage, choice.gpu), (0.0, 0))
            self._sums[stage, choice.gpu] = before[0] + seconds, before[1] + count

    def details(self) -> dict[str, Any]:
        """For the ledger: times, and where GPUs are not left out, where each stage ran and why."""
        found: dict[str, Any] = {}
        if self._sums:
            took = [
                {"stage": stage, "gpu": gpu, "seconds": seconds, "count": count}
                for (stage, gpu), (seconds, count) in self._sums.items()
            ]
            found[MODELS] = {"work": self.work, "took": took}
        if self.choices and self.spark.conf.get(gpus.SETTING, "never") != "never":
            found["devices"] = {stage: str(choice) for stage, choice in self.choices.items()}
        return found


def of_models(stages: Iterable[Stage], job: str, work: str) -> dict[gpus.Stage, Measured]:
    """What models of the same work took in earlier stages of a job, which are in the order they were recorded."""
    rates: dict[gpus.Stage, dict[bool, float]] = {}
    for stage in stages:
        found = stage.details.get(MODELS, {})
        if stage.job == job and stage.rows_in and found.get("work") == work:
            for each in found["took"]:
                rates.setdefault(each["stage"], {})[each["gpu"]] = each["seconds"] / each["count"] / stage.rows_in * 1e6
    pairs = {stage: _both("a model of a million rows", rate) for stage, rate in rates.items()}
    return {stage: both for stage, both in pairs.items() if both}


def of_sql(stages: Iterable[Stage], job: str) -> Measured | None:
    """What a job took in earlier stages, which are in the order they were recorded; None while one side is unknown.

    Stages of some days, which read more rows than they compute, are left out.
    """
    rates = {
        bool(stage.details.get(SQL, {}).get("gpu")): stage.seconds / stage.rows_in * 1e6
        for stage in stages
        if stage.job == job and stage.rows_in and stage.details.get("days_computed", "all") == "all"
    }
    return _both(f"a million rows of `{job}`", rates)


def _both(what: str, rates: Mapping[bool, float]) -> Measured | None:
    return Measured(what, cpu=rates[False], gpu=rates[True]) if len(rates) == 2 else None
