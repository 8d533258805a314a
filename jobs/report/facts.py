"""What a page says, apart from how it was found and how it is drawn."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from conf.schema import METRICS, SMALLER_IS_BETTER, Pipeline
from jobs.runs import Stage, code_fingerprint


@dataclass(frozen=True)
class SourceRows:
    """Where the rows of one source went: all files taken so far. `reasons` counts quarantined rows by reason, values left out."""

    name: str
    files: int
    read: int
    good: int
    bad: int
    duplicates: int
    reasons: list[tuple[str, int]]
    undeclared: list[str]

    @property
    def adds_up(self) -> bool:
        return self.read == self.good + self.bad + self.duplicates


@dataclass(frozen=True)
class Expectation:
    """The verdict of Great Expectations on one expectation; `passed` is None where there was no row to judge."""

    source: str
    name: str
    arguments: str
    passed: bool | None
    observed: str


@dataclass(frozen=True)
class TrialRow:
    """One grid point: the metric in each fold (None: failed), what it cost, and the part of its rounds after which others that promised more
    stopped it (1: none did); the metric is then that of so small a model."""

    candidate: str
    parameters: str
    folds: list[float | None]
    seconds: float
    solver: str
    error: str | None
    share: float
    chosen: bool

    @property
    def mean(self) -> float | None:
        values = [value for value in self.folds if value is not None]
        return statistics.fmean(values) if values and len(values) == len(self.folds) else None


@dataclass(frozen=True)
class Measured:
    """One metric with its 95 % bootstrap interval."""

    value: float | None
    low: float | None
    high: float | None
    rows: int


@dataclass(frozen=True)
class Point:
    """A point of a figure; what x, y and rows are, `models.curves` says."""

    series: str
    x: float | None
    y: float | None
    rows: float | None


@dataclass(frozen=True)
class Facts:
    """Everything on the page. `metrics`: (slice, value, metric, class) -> measured; `champion_metrics` on the same rows.

    `gpu_plan` is `jobs.gpu_plan.page.Stage.summary` of each job, empty where nobody has asked.
    """

    pipeline: Pipeline
    environment: str
    run_date: date
    stages: list[Stage]
    train: Stage
    evaluate: Stage
    promote: Stage | None
    score: Stage | None
    features: Stage
    sources: list[SourceRows]
    expectations: list[Expectation]
    trials: list[TrialRow]
    metrics: dict[tuple[str, str, str, str], Measured]
    champion_metrics: dict[tuple[str, str, str, str], Measured]
    curves: dict[str, list[Point]]
    packages: dict[str, str]
    configuration: str
    configuration_text: str
    gpu_plan: list[dict[str, Any]]
    code: str = field(default_factory=code_fingerprint)

    @property
    def headline(self) -> Measured:
        """The metric that candidates were chosen by, on all test rows."""
        return self.metrics.get(("", "", self.pipeline.train.metric, ""), Measured(None, None, None, 0))

    @property
    def smaller_is_better(self) -> bool:
        return self.pipeline.train.metric in SMALLER_IS_BETTER

    def whole(self, of: Mapping[tuple[str, str, str, str], Measured]) -> dict[str, Measured]:
        """Metrics of all rows and all classes by name: those that candidates can be chosen by first, in a fixed order."""
        found = {name: measured for (cut, _, name, klass), measured in of.items() if not cut and not klass}
        order = [*METRICS[self.pipeline.task], *sorted(found)]
        return {name: found[name] for name in dict.fromkeys(order) if name in found}
