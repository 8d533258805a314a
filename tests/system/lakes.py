"""Reads whole lakes with delta-rs, an implementation of the format independent of the one that wrote them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable


def tables(lake: Path) -> dict[str, pa.Table]:
    """Every Delta table of a lake by its folder, `_` columns left out."""
    found = {}
    for log in sorted(lake.glob("*/*/_delta_log")):
        table = DeltaTable(str(log.parent)).to_pyarrow_table()
        columns = [column for column in table.column_names if not column.startswith("_")]
        found[log.parent.relative_to(lake).as_posix()] = table.select(columns)
    return found


def versions(lake: Path) -> dict[str, int]:
    """Latest version of every Delta table of a lake."""
    return {
        log.parent.relative_to(lake).as_posix(): DeltaTable(str(log.parent)).version()
        for log in lake.glob("*/*/_delta_log")
    }


def checksum(table: pa.Table, leave_out: tuple[str, ...] = ()) -> tuple[int, str]:
    """Rows and a checksum of their multiset, whatever the order of rows."""
    columns = sorted(column for column in table.column_names if column not in leave_out)
    rows = sorted(repr(tuple(row.values())) for row in table.select(columns).to_pylist())
    return len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest()
