"""scripts/fetch_flights: the published rows, byte for byte, one file a month."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    27004,
    24951,
    28834,
    28330,
    28796,
    28243,
    29425,
    29327,
    27574,
    28889,
    27268,
    28135,
]  # the package's own count by month


def fetch(folder: Path) -> dict[str, str]:
    """Run the script; file -> sha256."""
    subprocess.run([sys.executable, str(ROOT / "scripts/fetch_flights"), str(folder)], check=True)
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.mark.quick
def test_every_published_row_lies_in_the_file_of_its_month(tmp_path: Path) -> None:
    """Twelve files of flights and four tables, nothing else; no row lost, none in two files."""
    files = fetch(tmp_path)
    months = [pandas.read_csv(tmp_path / f"flights/2013-{month:02}.csv") for month in range(1, 13)]

    assert list(files) == [
        "airlines.csv",
        "airports.csv",
        *(f"flights/2013-{month:02}.csv" for month in range(1, 13)),
        "planes.csv",
        "weather.csv",
    ]
    assert [set(frame["month"]) for frame in months] == [{month} for month in range(1, 13)]
    assert [len(frame) for frame in months] == ROWS
    key = ["carrier", "flight", "origin", "time_hour", "minute"]
    assert not pandas.concat(months).duplicated(key).any()


@pytest.mark.quick
def test_fetching_again_mends_and_changes_nothing_else(tmp_path: Path) -> None:
    """A lost file comes back with the same bytes; a file that somebody edited is left alone."""
    files = fetch(tmp_path)
    (tmp_path / "flights/2013-07.csv").unlink()
    (tmp_path / "planes.csv").write_text("tailnum\nN1\n")

    again = fetch(tmp_path)

    assert again == {**files, "planes.csv": hashlib.sha256(b"tailnum\nN1\n").hexdigest()}
