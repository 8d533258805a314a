"""Scalable drawings without a library: axes, lines, bars and whiskers as SVG that takes its colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 44


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels, with round ticks."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (value - self.low) / span * (self.end - self.start) if span else (self.start + self.end) / 2

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values within the domain."""
        span = self.high - self.low
        if span <= 0 or not math.isfinite(span):
            return [self.low]
        raw = span / count
        size = 10.0 ** math.floor(math.log10(raw))
        step = min((m * size for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def domain(values: Iterable[float], *, zero: bool = False) -> tuple[float, float]:
    """Lowest and highest value with a margin of 4 %; `zero`: from 0 on."""
    found = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(found), max(found)
    margin = (high - low) * 0.04 or abs(high) * 0.04 or 1.0
    return (0.0 if zero else low - margin), high + margin


def tick_label(value: float) -> str:
    """Short and without needless zeros: 0.2, 15, 120k."""
    size = abs(value)
    if size >= 10_000:
        return f"{value / 1000:g}k" if size < 1e6 else f"{value / 1e6:g}M"
    return f"{value:.4g}"


def plot(
    label: str,
    x: tuple[float, float],
    y: tuple[float, float],
    names: tuple[str, str],
    body: Callable[[Scale, Scale], Markup],
) -> Markup:
    """A figure with axes.

    Args:
        label: what the figure shows, for readers that cannot see it.
        x, y: domains.
        names: of the axes.
        body: draws the marks with the two scales.
    """
    across, up = Scale(*x, LEFT, WIDTH - RIGHT), Scale(*y, HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in up.ticks():
        at = up(tick)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, at, at)
        )
        parts.append(
            Markup('<text x="{}" y="{:.1f}" class="tick end">{}</text>').format(LEFT - 7, at + 3.5, tick_label(tick))
        )
    for tick in across.ticks():
        parts.append(
            Markup('<text x="{:.1f}" y="{}" class="tick middle">{}</text>').format(
                across(tick), HEIGHT - BOTTOM + 16, tick_label(tick)
            )
        )
    parts.append(
        Markup('<line class="axis" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(LEFT, WIDTH - RIGHT, y=HEIGHT - BOTTOM)
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(Markup('<text x="{}" y="{}" class="name middle">{}</text>').format(middle, HEIGHT - 8, names[0]))
    centre = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        Markup('<text x="12" y="{c}" class="name middle" transform="rotate(-90 12 {c})">{}</text>').format(
            names[1], c=centre
        )
    )
    parts.append(body(across, up))
    return svg(label, WIDTH, HEIGHT, Markup("").join(parts))


def svg(label: str, width: float, height: float, body: Markup, *, kind: str = "figure") -> Markup:
    """A drawing that is as wide as its place allows: in proportion (`figure`), or only in width (`stretch`); or one of fixed size (`strip`)."""
    size = {
        "figure": Markup(""),
        "stretch": Markup('height="{:g}" preserveAspectRatio="none" ').format(height),
        "strip": Markup('width="{:g}" height="{:g}" ').format(width, height),
    }[kind]
    return Markup('<svg class="{}" viewBox="0 0 {:g} {:g}" {}role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, size, label, body
    )


def line(points: Sequence[tuple[float, float]], kind: str = "series") -> Markup:
    """A line through pixel coordinates."""
    text = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return Markup('<polyline class="line {}" points="{}"/>').format(kind, text)


def area(points: Sequence[tuple[float, float]], floor: float) -> Markup:
    """The surface between a line and a horizontal `floor`."""
    closed = [(points[0][0], floor), *points, (points[-1][0], floor)]
    text = " ".join(f"{x:.2f},{y:.2f}" for x, y in closed)
    return Markup('<polygon class="area" points="{}"/>').format(text)


def dot(x: float, y: float, radius: float, title: str, kind: str = "dot") -> Markup:
    """A mark with a tooltip."""
    return Markup('<circle class="{}" cx="{:.2f}" cy="{:.2f}" r="{:.2f}"><title>{}</title></circle>').format(
        kind, x, y, radius, title
    )


def bar(x: float, y: float, width: float, height: float, title: str, kind: str = "bar") -> Markup:
    """A rectangle with a tooltip; never invisible: what exists is at least half a pixel wide."""
    return Markup(
        '<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" rx="1.5"><title>{}</title></rect>'
    ).format(kind, x, y, max(width, 0.5), max(height, 0.5), title)


def text(x: float, y: float, content: str, kind: str = "tick") -> Markup:
    """A label."""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, kind, content)


def whisker(
    scale: Scale, y: float, value: float, low: float | None, high: float | None, title: str, kind: str = "dot"
) -> Markup:
    """A value with its interval on a horizontal scale."""
    parts = []
    if low is not None and high is not None:
        parts.append(
            Markup('<line class="interval {}" x1="{:.2f}" x2="{:.2f}" y1="{y}" y2="{y}"/>').format(
                kind, scale(low), scale(high), y=y
            )
        )
    parts.append(dot(scale(value), y, 3.6, title, kind))
    return Markup("").join(parts)


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Names of the lines of a figure: (class, name)."""
    items = [Markup('<span><i class="key {}"></i>{}</span>').format(kind, name) for kind, name in entries]
    return Markup('<p class="legend">{}</p>').format(Markup("").join(items))
