"""A year of flights that arrives month by month makes the tables of one run over all of it; a late file changes the planned days alone."""

from __future__ import annotations

import csv
import json
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from jobs.runtime import Arguments, execute
from tests.system import lakes

ROOT = Path(__file__).resolve().parents[2]
RAW = ROOT / "data/raw"
MONTHS = sorted((RAW / "flights").glob("2013-*.csv"))
# Parts that every month has rows for.
SETTINGS = ("split={test: {share: 0.2}, folds: {kind: random, count: 3}}",)

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


class Place:
    """Raw files and a lake."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.lake = folder / "raw", folder / "lake"
        (self.raw / "flights").mkdir(parents=True)
        for name in ("weather.csv", "planes.csv"):
            shutil.copy(RAW / name, self.raw)
        (folder / "env.yaml").write_text(f"name: test\nraw: {self.raw}\nlake: {self.lake}\nmaster: local[2]\n")
        self._given = {"pipeline": str(ROOT / "conf/flights.yaml"), "environment": str(folder / "env.yaml")}

    def add(self, file: Path) -> None:
        shutil.copy(file, self.raw / "flights")

    def run(self, day: date, capsys: pytest.CaptureFixture[str]) -> None:
        for job in ("ingest", "features"):
            capsys.readouterr()
            code = execute(job, Arguments(**self._given, run_dates=(day,), settings=SETTINGS))
            assert code == 0, capsys.readouterr().err

    def tables(self) -> dict[str, pa.Table]:
        """Silver and features."""
        found = lakes.tables(self.lake)
        return {name: table for name, table in found.items() if name.startswith(("silver/", "gold/flights_features"))}

    def days_computed(self) -> str:
        """What the last features stage says of itself."""
        stages = lakes.tables(self.lake)["ops/flights_stages"].to_pylist()
        last = max((stage for stage in stages if stage["job"] == "features"), key=lambda stage: stage["recorded_at"])
        details: dict[str, Any] = json.loads(last["details"])
        return str(details["days_computed"])


def checksums(tables: dict[str, pa.Table]) -> dict[str, tuple[int, str]]:
    return {name: lakes.checksum(table) for name, table in tables.items()}


def late_file(folder: Path) -> Path:
    """Fifty flights of the ninth of March with other delays, delivered after the year is over."""
    with MONTHS[2].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    late = [
        row | {"dep_delay": "120", "arr_delay": "118"} for row in rows if row["day"] == "9" and row["air_time"] != "NA"
    ]
    path = folder / "2013-03b.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(late[:50])
    return path


def test_months_one_by_one_and_a_late_file(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Order-free checksums of silver and features, read by delta-rs; days outside of the plan keep their rows."""
    monthly, bulk = Place(tmp_path / "monthly"), Place(tmp_path / "bulk")
    after = [date(2013, month % 12 + 1, 1).replace(year=2013 + month // 12) for month in range(1, 13)]
    for file, day in zip(MONTHS, after, strict=True):
        monthly.add(file)
        monthly.run(day, capsys)
        bulk.add(file)
    bulk.run(after[-1], capsys)

    before = monthly.tables()
    assert checksums(before) == checksums(bulk.tables())
    # December, and as long after it as windows of 28 days from four hours after a landing would see it.
    assert monthly.days_computed() == "2013-12-01 to 2014-01-29"

    late = late_file(tmp_path)
    afresh = Place(tmp_path / "afresh")
    for file in (*MONTHS, late):
        afresh.add(file)
    monthly.add(late)
    monthly.run(after[-1] + timedelta(days=1), capsys)
    afresh.run(after[-1] + timedelta(days=1), capsys)

    now = monthly.tables()
    assert checksums(now) == checksums(afresh.tables())
    (name,) = (name for name in now if name.startswith("gold/"))
    differing = days_that_differ(before[name], now[name])
    first, last = monthly.days_computed().split(" to ")
    assert differing
    assert date.fromisoformat(first) <= min(differing)
    assert max(differing) <= date.fromisoformat(last)
    # Routes are looked at over 28 days, from four hours after landing.
    assert (first, last) == ("2013-03-09", "2013-04-07")


def days_that_differ(before: pa.Table, after: pa.Table) -> set[date]:
    """Days of `as_of` whose rows are not the same in both."""

    def by_day(table: pa.Table) -> dict[date, tuple[int, str]]:
        days = pc.cast(table["as_of"], pa.date32())
        return {day: lakes.checksum(table.filter(pc.equal(days, day))) for day in pc.unique(days).to_pylist()}

    old, new = by_day(before), by_day(after)
    return {day for day in old.keys() | new.keys() if old.get(day) != new.get(day)}
