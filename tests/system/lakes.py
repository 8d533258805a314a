"""Reads whole lakes with delta-rs, an implementation of the format independent of the one that wrote them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

# What differs between two runs by nature: clocks, seconds, and MLflow's run ids in the details; between two places what says which
# content a file has too, for which a store has its own words.
CLOCKS = ("recorded_at", "seconds", "details", "inputs", "outputs")
APART = (*CLOCKS, "etag", "manifest", "fingerprint")


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


def figures(table: pa.Table, leave_out: tuple[str, ...] = ()) -> list[tuple[str, list[float]]]:
    """Rows as (all that is not a figure, the figures: doubles in the order of columns, null as NaN), in order."""
    columns = sorted(column for column in table.column_names if column not in leave_out)
    rows = []
    for row in table.select(columns).to_pylist():
        found: list[float] = []
        words = {name: _without_figures(value, table.schema.field(name).type, found) for name, value in row.items()}
        rows.append((repr(words), found))
    return sorted(rows)


def _without_figures(value: Any, kind: pa.DataType, found: list[float]) -> Any:
    """The value, or nothing once its doubles are added to those found."""
    if pa.types.is_floating(kind):
        found.append(float("nan") if value is None else value)
        return None
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        found += value or []
        return len(value or [])
    return sorted(value) if pa.types.is_map(kind) and value else value
