"""The report in a real browser: nothing fetched, nothing complained about, every figure drawn, no sideways scrolling."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright
from pyspark.sql import SparkSession

from jobs import report
from tests.jobs import reported

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SECTIONS = [
    "verdict",
    "rows",
    "expectations",
    "trials",
    "quality",
    "slices",
    "importances",
    "time",
    "versions",
    "reproduce",
]
FIGURES = {
    "binary": ["confusion", "roc", "pr", "calibration", "lift", "gain", "threshold"],
    "multiclass": ["confusion", "calibration"],
    "regression": ["deciles", "residuals"],
}

# Each drawing: its size on the page, the number of its marks, and how many of them have no extent or lie outside of it.
DRAWINGS = """
() => [...document.querySelectorAll('svg')].map(svg => {
  const frame = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll('polyline,polygon,rect,circle,line,text')];
  const boxes = marks.map(mark => mark.getBoundingClientRect());
  return {
    name: svg.getAttribute('aria-label'), width: frame.width, height: frame.height, marks: marks.length,
    empty: boxes.filter(box => box.width === 0 && box.height === 0).length,
    outside: boxes.filter(box => box.left < frame.left - 3 || box.right > frame.right + 3
      || box.top < frame.top - 3 || box.bottom > frame.bottom + 3).length,
    invisible: marks.filter(mark => { const style = getComputedStyle(mark); return style.fill === 'none' && style.stroke === 'none'; }).length,
  };
})
"""
# Elements that stick out of the window; what scrolls inside its own frame does not.
OVERFLOW = """
() => [...document.querySelectorAll('body *')].filter(element => {
  if (element.closest('.scroll, pre, nav ul') && !element.matches('.scroll, pre, nav ul')) return false;
  return element.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
}).map(element => element.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", ["binary", *(pytest.param(task, marks=pytest.mark.system) for task in ("multiclass", "regression"))]
)
def test_the_page_in_chromium(spark: SparkSession, browser: Browser, tmp_path: Path, task: str) -> None:
    """Wide and narrow, light and dark: the same sections and figures."""
    path = report.write(reported.finished(spark, str(tmp_path), task))
    for width, scheme in ((1280, "light"), (400, "light"), (1280, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(f"file://{path}")
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]

        assert said == []
        assert asked == [f"file://{path}"]
        sections = page.eval_on_selector_all(
            "section", "all => all.map(one => [one.id, one.getBoundingClientRect().height > 60])"
        )
        assert sections == [[name, True] for name in SECTIONS]
        assert page.eval_on_selector_all("figure", "all => all.map(one => one.id)") == [
            f"figure-{name}" for name in FIGURES[task]
        ]
        _all_drawn(page.evaluate(DRAWINGS), width)
        assert page.evaluate(OVERFLOW) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        context.close()


def _all_drawn(drawings: list[dict[str, Any]], width: int) -> None:
    """Every drawing has a size and marks, and every mark is seen inside of it."""
    assert len(drawings) > 15
    for drawing in drawings:
        assert drawing["width"] > 60, drawing
        assert drawing["height"] > 8, drawing
        assert drawing["marks"] > 0, drawing
        assert drawing["width"] <= width, drawing
        assert (drawing["empty"], drawing["outside"], drawing["invisible"]) == (0, 0, 0), drawing
