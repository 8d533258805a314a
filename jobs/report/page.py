"""Facts to one HTML page that needs nothing but itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined

from jobs.report import figures, strips
from jobs.report.drawing import domain
from jobs.report.facts import Facts, Measured
from jobs.usage import size

# Names of metrics as a reader would write them; others lose their underscores.
_METRICS = {
    "area_under_roc": "area under ROC",
    "area_under_pr": "average precision",
    "log_loss": "log loss",
    "brier": "Brier score",
    "f1": "F1",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "mse": "mean squared error",
}


@dataclass(frozen=True)
class Verdict:
    """What came of the run, in words. `kind` is promoted, kept or open."""

    kind: str
    headline: str
    reason: str


def render(facts: Facts) -> str:
    """The page. Every text from files, data and configuration is escaped."""
    environment = Environment(
        loader=PackageLoader("jobs.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=count, metric=metric, duration=duration, metric_name=metric_name, instant=instant, begin=begin, size=size
    )
    return environment.get_template("page.html.jinja").render(
        facts=facts,
        verdict=verdict(facts),
        figures=figures.quality(facts),
        confusion=figures.confusion(facts) if facts.curves.get("confusion") else None,
        importances=[point for point in facts.curves.get("importance", []) if point.y],
        slices=_slices(facts),
        classes=_classes(facts),
        trials_span=domain([value for trial in facts.trials for value in trial.folds if value is not None]),
        longest=max((stage.seconds for stage in facts.stages), default=0.0),
        is_priced=any(stage.usage and stage.usage.cost is not None for stage in facts.stages),
        tables=_tables(facts),
        strips=strips,
        style=environment.get_template("page.css").render(),
    )


def verdict(facts: Facts) -> Verdict:
    """Who is champion now, and why."""
    version = facts.train.details["model_version"]
    if facts.promote is None:
        reason = "Nobody has decided on it yet: run `millrace promote`."
        return Verdict("open", f"Version {version} is evaluated", reason)
    champion, reason = facts.promote.details["champion"], facts.promote.details["reason"]
    if champion == version:
        return Verdict("promoted", f"Version {version} is champion", reason)
    return Verdict("kept", f"Version {champion} stays champion", reason)


def count(value: float | None) -> str:
    """1,234; n/a for what is not known."""
    return "n/a" if value is None else f"{value:,.0f}"


def metric(value: float | None) -> str:
    """Four significant digits at least, so that small differences show."""
    if value is None:
        return "n/a"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 5 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def begin(text: str) -> str:
    """With a capital letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def instant(text: str) -> str:
    """`2013-11-01 04:00 UTC` for an instant in ISO form."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def metric_name(name: str) -> str:
    """For readers, not for the pipeline file."""
    return _METRICS.get(name, name.replace("_", " "))


@dataclass(frozen=True)
class Slice:
    """The metric by the values of one column, on one scale."""

    column: str
    rows: list[tuple[str, Measured, Measured | None]]
    span: tuple[float, float]


def _slices(facts: Facts) -> list[Slice]:
    """Values with most rows first; beside the metric the rate of the event, or None where the task has none."""
    name = facts.pipeline.train.metric
    found = []
    for column in facts.pipeline.evaluate.slices:
        of_column = {
            value: m
            for (cut, value, metric, klass), m in facts.metrics.items()
            if (cut, metric, klass) == (column, name, "")
        }
        if not of_column:
            continue
        rates = {
            value: m for (cut, value, metric, _), m in facts.metrics.items() if (cut, metric) == (column, "event_rate")
        }
        rows = [
            (value, m, rates.get(value))
            for value, m in sorted(of_column.items(), key=lambda item: (-item[1].rows, item[0]))
        ]
        edges = [edge for m in of_column.values() for edge in (m.value, m.low, m.high) if edge is not None]
        found.append(Slice(column, rows, domain(edges)))
    return found


def _classes(facts: Facts) -> list[tuple[str, dict[str, Measured]]]:
    """Precision, recall and F1 of each class."""
    found: dict[str, dict[str, Measured]] = {}
    for (cut, _, name, klass), measured in facts.metrics.items():
        if not cut and klass:
            found.setdefault(klass, {})[name] = measured
    return [(name, found[name]) for name in facts.pipeline.classes if name in found]


def _tables(facts: Facts) -> list[tuple[str, int, str]]:
    """Exact table versions behind the model and the predictions: (table, version, job that wrote it)."""
    found: dict[str, tuple[int, str]] = {}
    for stage in facts.stages:
        found |= {table: (version, stage.job) for table, version in stage.outputs.items()}
    return [(table, version, job) for table, (version, job) in sorted(found.items())]
