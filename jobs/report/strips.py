"""Small drawings that stand in tables and beside numbers: one row each, on a scale that its neighbours share."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from jobs.report import drawing
from jobs.report.drawing import Scale
from jobs.report.facts import Facts, Measured, TrialRow


def folds(trial: TrialRow, span: tuple[float, float]) -> Markup:
    """The metric of one grid point in each fold, and their mean."""
    scale = Scale(*span, 6, 154)
    marks = [Markup('<line class="grid" x1="2" x2="158" y1="10" y2="10"/>')]
    marks += [
        drawing.dot(scale(v), 10, 3, f"fold {i}: {v:.5g}", "fold") for i, v in enumerate(trial.folds) if v is not None
    ]
    if trial.mean is not None:
        at = scale(trial.mean)
        marks.append(Markup('<line class="mean" x1="{x:.2f}" x2="{x:.2f}" y1="3" y2="17"/>').format(x=at))
    return drawing.svg(
        f"{trial.candidate}, {trial.parameters}: metric by fold", 160, 20, Markup("").join(marks), kind="strip"
    )


def intervals(name: str, found: Measured, span: tuple[float, float], reference: float | None) -> Markup:
    """One metric with its interval on the scale that its table shares; dashed: the value on all rows."""
    scale = Scale(*span, 6, 194)
    marks = [Markup('<line class="grid" x1="2" x2="198" y1="10" y2="10"/>')]
    if reference is not None:
        marks.append(drawing.line([(scale(reference), 1), (scale(reference), 19)], "reference"))
    if found.value is not None:
        marks.append(drawing.whisker(scale, 10, found.value, found.low, found.high, f"{name}: {found.value:.5g}"))
    return drawing.svg(f"{name} with its interval", 200, 20, Markup("").join(marks), kind="strip")


def standing(facts: Facts) -> Markup | None:
    """The new model and the champion it was compared with, each with its interval, on one scale."""
    name = facts.pipeline.train.metric
    champion = facts.champion_metrics.get(("", "", name, ""))
    rows = [(f"version {facts.train.details['model_version']}", facts.headline, "dot")]
    if champion is not None:
        rows.append((f"version {facts.evaluate.details['champion_version']}", champion, "dot other"))
    values = [v for _, found, _ in rows for v in (found.value, found.low, found.high) if v is not None]
    if not values:
        return None
    scale = Scale(*drawing.domain(values), 86, 350)
    marks = []
    for index, (label, found, kind) in enumerate(rows):
        y = 14 + 26 * index
        marks.append(drawing.text(78, y + 4, label, "tick end"))
        marks.append(Markup('<line class="grid" x1="86" x2="350" y1="{y}" y2="{y}"/>').format(y=y))
        if found.value is not None:
            marks.append(drawing.whisker(scale, y, found.value, found.low, found.high, f"{found.value:.5g}", kind))
    height = 14 + 26 * len(rows)
    marks += [drawing.text(scale(tick), height + 6, drawing.tick_label(tick), "tick middle") for tick in scale.ticks(4)]
    return drawing.svg(f"{name} with its interval", 360, height + 12, Markup("").join(marks))


def share_bar(parts: Mapping[str, int]) -> Markup:
    """Parts of a whole as one bar; each class of the style sheet is a part's name."""
    total = sum(parts.values())
    marks, x = [], 0.0
    for name, count in parts.items():
        width = 300 * count / total if total else 0.0
        if count:
            marks.append(drawing.bar(x, 2, max(width - 1, 1.5), 12, f"{name}: {count:,} rows", f"part {name}"))
        x += width
    return drawing.svg("rows by outcome", 302, 16, Markup("").join(marks), kind="stretch")


def part_bar(name: str, value: float, longest: float) -> Markup:
    """One length on the scale of the longest."""
    width = 300 * value / longest if longest else 0.0
    return drawing.svg(name, 302, 14, drawing.bar(0, 2, width, 10, f"{name}: {value:.4g}"), kind="stretch")
