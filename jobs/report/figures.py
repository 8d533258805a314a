"""The figures of the report: title, drawing, and one sentence that says what to read off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from jobs.report import drawing
from jobs.report.drawing import Scale
from jobs.report.facts import Facts, Measured, Point

UNIT = (0.0, 1.0)


@dataclass(frozen=True)
class Figure:
    """One figure of the page."""

    name: str
    title: str
    drawing: Markup
    caption: str
    legend: str = ""


def quality(facts: Facts) -> list[Figure]:
    """The figures of the task, as far as their curves were stored."""
    makers = {
        "roc": roc,
        "pr": precision_recall,
        "calibration": calibration,
        "lift": lift,
        "gain": gain,
        "threshold": threshold,
        "deciles": deciles,
        "residuals": residuals,
    }
    return [make(facts) for curve, make in makers.items() if facts.curves.get(curve)]


def _xy(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(point.x, point.y) for point in points if point.x is not None and point.y is not None]


def _through(points: Sequence[tuple[float, float]], across: Scale, up: Scale) -> list[tuple[float, float]]:
    return [(across(x), up(y)) for x, y in points]


def _diagonal(across: Scale, up: Scale, low: float = 0.0, high: float = 1.0) -> Markup:
    return drawing.line([(across(low), up(low)), (across(high), up(high))], "reference")


def _number(found: Measured | None) -> str:
    return "n/a" if found is None or found.value is None else f"{found.value:.3f}"


def roc(facts: Facts) -> Figure:
    """True against false positive rate."""
    points = _xy(facts.curves["roc"])

    def body(across: Scale, up: Scale) -> Markup:
        line = _through(points, across, up)
        return _diagonal(across, up) + drawing.area(line, up(0)) + drawing.line(line)

    found = facts.whole(facts.metrics).get("area_under_roc")
    return Figure(
        "roc",
        "ROC",
        drawing.plot("ROC curve", UNIT, UNIT, ("false positive rate", "true positive rate"), body),
        f"Area {_number(found)}: the chance that an event is ranked above a row that is none. Dashed: guessing, 0.5.",
    )


def precision_recall(facts: Facts) -> Figure:
    """Precision against recall, with the share of events as the floor."""
    points = _xy(facts.curves["pr"])
    metrics = facts.whole(facts.metrics)
    rate = metrics["event_rate"].value if "event_rate" in metrics else None

    def body(across: Scale, up: Scale) -> Markup:
        line = _through(points, across, up)
        floor = (
            drawing.line([(across(0), up(rate)), (across(1), up(rate))], "reference")
            if rate is not None
            else Markup("")
        )
        return floor + drawing.area(line, up(0)) + drawing.line(line)

    base = f" Dashed: always saying yes, {rate:.3f}." if rate is not None else ""
    return Figure(
        "pr",
        "Precision and recall",
        drawing.plot("Precision-recall curve", UNIT, UNIT, ("recall", "precision"), body),
        f"Average precision {_number(metrics.get('area_under_pr'))}.{base}",
    )


def calibration(facts: Facts) -> Figure:
    """Observed frequency against predicted probability, in bins of equally many rows."""
    points = facts.curves["calibration"]
    pairs = _xy(points)
    top = min(1.0, max(max(pair) for pair in pairs) * 1.08)
    most = max(point.rows or 0 for point in points) or 1

    def body(across: Scale, up: Scale) -> Markup:
        marks = [_diagonal(across, up, 0, top), drawing.line(_through(pairs, across, up), "series thin")]
        for point in points:
            if point.x is not None and point.y is not None:
                radius = 3 + 2.5 * ((point.rows or 0) / most) ** 0.5
                title = f"predicted {point.x:.3f}, observed {point.y:.3f}, {point.rows or 0:,.0f} rows"
                marks.append(drawing.dot(across(point.x), up(point.y), radius, title))
        return Markup("").join(marks)

    gap = max(abs(x - y) for x, y in pairs)
    what = "probability of the predicted class" if facts.pipeline.task == "multiclass" else "predicted probability"
    return Figure(
        "calibration",
        "Calibration",
        drawing.plot("Calibration", (0.0, top), (0.0, top), (what, "observed frequency"), body),
        f"Each dot is a tenth of the rows. Farthest from the dashed line: {gap:.3f}.",
    )


def lift(facts: Facts) -> Figure:
    """How many times the average each twentieth of the rows holds, highest scores first."""
    pairs = _xy(facts.curves["lift"])
    top = max(y for _, y in pairs) * 1.08 or 1.0

    def body(across: Scale, up: Scale) -> Markup:
        marks, before = [], 0.0
        for x, y in pairs:
            left, right = across(before), across(x)
            marks.append(drawing.bar(left + 1, up(y), right - left - 2, up(0) - up(y), f"up to {x:.0%}: {y:.2f} times"))
            before = x
        return Markup("").join(marks) + drawing.line([(across(0), up(1)), (across(1), up(1))], "reference")

    return Figure(
        "lift",
        "Lift",
        drawing.plot("Lift", UNIT, (0.0, top), ("rows, highest score first", "times the average rate"), body),
        f"The top {pairs[0][0]:.0%} of rows hold {pairs[0][1]:.1f} times as many events as rows taken at random.",
    )


def gain(facts: Facts) -> Figure:
    """Share of all events found against share of rows looked at."""
    pairs = [(0.0, 0.0), *_xy(facts.curves["gain"])]

    def body(across: Scale, up: Scale) -> Markup:
        line = _through(pairs, across, up)
        return _diagonal(across, up) + drawing.area(line, up(0)) + drawing.line(line)

    fifth = min(pairs, key=lambda pair: abs(pair[0] - 0.2))
    return Figure(
        "gain",
        "Cumulative gain",
        drawing.plot("Cumulative gain", UNIT, UNIT, ("rows looked at, highest score first", "events found"), body),
        f"Looking at {fifth[0]:.0%} of the rows finds {fifth[1]:.0%} of the events.",
    )


def threshold(facts: Facts) -> Figure:
    """Precision, recall and F1 for each threshold; the one in use stands out."""
    names = ("precision", "recall", "f1")
    series = {name: _xy([p for p in facts.curves["threshold"] if p.series == name]) for name in names}
    chosen = next((p.x for p in facts.curves["threshold"] if p.series == "chosen"), None)

    def body(across: Scale, up: Scale) -> Markup:
        marks = [
            drawing.line(_through(pairs, across, up), f"series-{i}") for i, pairs in enumerate(series.values()) if pairs
        ]
        if chosen is not None:
            marks.insert(0, drawing.line([(across(chosen), up(0)), (across(chosen), up(1))], "reference"))
        return Markup("").join(marks)

    caption = f"Dashed: the threshold in use, {chosen:.3f}." if chosen is not None else ""
    return Figure(
        "threshold",
        "Threshold",
        drawing.plot("Metrics by threshold", UNIT, UNIT, ("threshold", "metric"), body),
        caption + " It was chosen on out-of-fold predictions, not on these rows.",
        drawing.legend([(f"series-{i}", "F1" if name == "f1" else name) for i, name in enumerate(names)]),
    )


def deciles(facts: Facts) -> Figure:
    """Mean label against mean prediction, in ten bins of equally many rows."""
    points = facts.curves["deciles"]
    pairs = _xy(points)
    span = drawing.domain([value for pair in pairs for value in pair])

    def body(across: Scale, up: Scale) -> Markup:
        marks = [_diagonal(across, up, *span), drawing.line(_through(pairs, across, up), "series thin")]
        for x, y in pairs:
            marks.append(drawing.dot(across(x), up(y), 4.5, f"predicted {x:.4g}, actual {y:.4g}"))
        return Markup("").join(marks)

    return Figure(
        "deciles",
        "Predicted and actual",
        drawing.plot("Predicted and actual means", span, span, ("mean prediction", "mean of the label"), body),
        "Each dot is a tenth of the rows, ordered by prediction. Dashed: exact on average.",
    )


def residuals(facts: Facts) -> Figure:
    """Quantiles of prediction - label."""
    pairs = _xy(facts.curves["residuals"])
    # The extremes alone would flatten the rest: the figure shows the middle 90 % and says so.
    inner = [pair for pair in pairs if 0.05 <= pair[0] <= 0.95] or pairs

    def body(across: Scale, up: Scale) -> Markup:
        zero = drawing.line([(across(across.low), up(0)), (across(across.high), up(0))], "reference")
        return zero + drawing.line(_through(inner, across, up))

    low, high = drawing.domain([0.0, *(y for _, y in inner)])
    lower, upper = (min(pairs, key=lambda pair: abs(pair[0] - share))[1] for share in (0.25, 0.75))
    return Figure(
        "residuals",
        "Errors",
        drawing.plot(
            "Quantiles of the error",
            (inner[0][0], inner[-1][0]),
            (low, high),
            ("share of rows", "prediction - label"),
            body,
        ),
        f"Half of the errors lie between {lower:.4g} and {upper:.4g}. Shown: the middle 90 %.",
    )


def confusion(facts: Facts) -> Figure:
    """Rows by actual and predicted class; colour is the share of the actual class."""
    binary = facts.pipeline.task == "binary"
    classes = (
        (f"not {facts.pipeline.features.label.name}", facts.pipeline.features.label.name)
        if binary
        else facts.pipeline.classes
    )
    rows = {
        (int(p.x), int(p.y)): p.rows or 0.0 for p in facts.curves["confusion"] if p.x is not None and p.y is not None
    }
    size = len(classes)
    left, top = 92.0, 40.0
    side = min((drawing.WIDTH - left - 10) / size, (drawing.HEIGHT - top - 12) / size)
    marks = [drawing.text(left + size * side / 2, 12, "predicted", "name middle")]
    for actual, name in enumerate(classes):
        total = sum(rows.get((actual, predicted), 0.0) for predicted in range(size))
        marks.append(drawing.text(left + (actual + 0.5) * side, 30, _short(name, side / 6.5), "tick middle"))
        marks.append(drawing.text(left - 8, top + (actual + 0.5) * side + 4, _short(name, 13), "tick end"))
        for predicted in range(size):
            count = rows.get((actual, predicted), 0.0)
            marks.append(
                _cell(
                    left + predicted * side,
                    top + actual * side,
                    side,
                    count,
                    total,
                    f"{name} predicted as {classes[predicted]}",
                )
            )
    return Figure(
        "confusion",
        "Confusion",
        drawing.svg("Confusion matrix", drawing.WIDTH, drawing.HEIGHT, Markup("").join(marks)),
        "Each row is what happened, each column what was predicted"
        + (f" at the threshold {facts.train.details['threshold']:.3f}." if binary else ".")
        + " Shares are of the row.",
    )


def _cell(x: float, y: float, side: float, count: float, total: float, title: str) -> Markup:
    share = count / total if total else 0.0
    rect = Markup(
        '<rect class="cell" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" rx="4" fill-opacity="{:.3f}"><title>{}</title></rect>'
    ).format(x + 1.5, y + 1.5, side - 3, side - 3, 0.06 + 0.8 * share, f"{title}: {count:,.0f} rows, {share:.1%}")
    strong = " strong" if share > 0.55 else ""
    if side < 34:
        return rect
    number = drawing.text(
        x + side / 2,
        y + side / 2 + (0 if side > 50 else 4),
        drawing.tick_label(count) if side < 60 else f"{count:,.0f}",
        f"value middle{strong}",
    )
    under = (
        drawing.text(x + side / 2, y + side / 2 + 16, f"{share:.0%}", f"tick middle{strong}")
        if side > 50
        else Markup("")
    )
    return rect + number + under


def _short(name: str, most: float) -> str:
    return name if len(name) <= most else name[: max(int(most) - 1, 1)] + "…"
