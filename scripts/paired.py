"""Two sides of one benchmark, taking turns in one session: cold once each, then warm pairs; and the record that they leave.

The line of JSON is {bench, size, ours_s, peer_s, ratio, scaling, quality, ok}; a row of it goes to BENCHMARKS.md with `--record`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

BENCHMARKS = Path(__file__).resolve().parents[1] / "BENCHMARKS.md"


@dataclass
class Timings:
    """Seconds of both sides: the first call of each, then pairs."""

    ours_cold: float
    peer_cold: float
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)

    @property
    def ours_s(self) -> float:
        return statistics.median(self.ours or [self.ours_cold])

    @property
    def peer_s(self) -> float:
        return statistics.median(self.peer or [self.peer_cold])

    @property
    def ratio(self) -> float:
        """Median of the ratios of pairs: each pair saw the machine in one state."""
        return statistics.median(p / o for o, p in zip(self.ours, self.peer, strict=True)) if self.ours else self.cold

    @property
    def cold(self) -> float:
        return self.peer_cold / self.ours_cold

    def line(
        self, bench: str, size: dict[str, Any], quality: dict[str, Any], *, ok: bool, **scaling: float
    ) -> dict[str, Any]:
        """The line of JSON; `scaling` is added to what the timings say of it."""
        return {
            "bench": bench,
            "size": size,
            "ours_s": self.ours_s,
            "peer_s": self.peer_s,
            "ratio": self.ratio,
            "scaling": {"cold_ratio": self.cold, "ours_cold_s": self.ours_cold, **scaling, "pairs": len(self.ours)},
            "quality": quality,
            "ok": ok,
        }


def take_turns(ours: Callable[[], Any], peer: Callable[[], Any], pairs: int) -> tuple[Timings, Any, Any]:
    """Call both once cold, then `pairs` times in turn; the timings and the last result of each side.

    Each call finds the session at rest: a side of ten thousand jobs leaves events and garbage for the next one to clear away.
    """
    first, our_result = seconds(ours)
    rest()
    second, peer_result = seconds(peer)
    timings = Timings(first, second)
    told(f"cold       ours {first:>8.2f} s  peer {second:>8.2f} s  {second / first:>7.1f}x")
    for pair in range(pairs):
        rest()
        ours_s, our_result = seconds(ours)
        rest()
        peer_s, peer_result = seconds(peer)
        timings.ours.append(ours_s)
        timings.peer.append(peer_s)
        told(f"pair {pair + 1}     ours {ours_s:>8.2f} s  peer {peer_s:>8.2f} s  {peer_s / ours_s:>7.1f}x")
    return timings, our_result, peer_result


def rest() -> None:
    """Wait until Spark has handled its events, and collect garbage."""
    context: Any = SparkSession.active().sparkContext
    context._jsc.sc().listenerBus().waitUntilEmpty()
    context._jvm.System.gc()


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def told(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def arguments(description: str | None) -> argparse.Namespace:
    """`--size`, `--pairs` and `--record`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--pairs", type=int, default=3, help="warm pairs after the cold one")
    parser.add_argument("--record", action="store_true", help="write the result to BENCHMARKS.md")
    return parser.parse_args()


def finish(found: dict[str, Any], given: argparse.Namespace) -> int:
    """Print the line, record it if asked, and give the exit code: 1 where results differ."""
    print(json.dumps(found))
    if given.record:
        BENCHMARKS.write_text(recorded(BENCHMARKS.read_text() if BENCHMARKS.exists() else "", found))
    return 0 if found["ok"] else 1


def recorded(text: str, found: dict[str, Any]) -> str:
    """BENCHMARKS.md with the section of this benchmark and size written anew."""
    if not text:
        text = (
            "# Benchmarks\n\nWritten by `scripts/bench NAME --size full --record` (or `small`): both sides in one session on one machine, in turn. Times vary\n"
            "between machines and hours; the ratios are what to compare. `ours_s` and `peer_s` are medians over the pairs of runs in seconds, `ratio` is the\n"
            "median of peer over ours, `strict_*` is against a peer that was run to a tolerance of 1e-12, `ok` says that the results are as close as\n"
            "that benchmark demands, and `targets_met` which of our own targets were met.\n"
        )
    title = f"## {found['bench']}, {found['size']['name']}"
    rows = "\n".join(
        f"| {name} | {_shown(value)} |" for name, value in _flat(found) if name not in ("bench", "size.name")
    )
    section = f"{title}\n\n{_machine()}\n\n| figure | value |\n|---|---|\n{rows}\n"
    pattern = re.compile(rf"^{re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: section + "\n", text).rstrip("\n") + "\n"
    return text.rstrip("\n") + "\n\n" + section


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, item in value.items():
        rows += _flat(item, f"{prefix}{name}.") if isinstance(item, dict) else [(f"{prefix}{name}", item)]
    return rows


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _machine() -> str:
    # Modules, since two packages have XGBoost.
    packages = ", ".join(
        f"{name} {import_module(name).__version__}" for name in ("pyspark", "numpy", "sklearn", "xgboost")
    )
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    today = datetime.now(UTC).date()
    return f"{today}: {os.cpu_count()} cores, {gigabytes:.0f} GiB, Python {platform.python_version()}, {packages}."
