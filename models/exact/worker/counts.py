"""Rows of each cell: the smallest kernel."""

from __future__ import annotations

from typing import Any

from models.exact.worker.blocks import Blocks


def count(blocks: Blocks) -> dict[str, Any]:
    """Number of rows by number of cell; cells without rows in this worker are left out."""
    return {"rows": {cell.number: int(cell.label.shape[0]) for cell in blocks.cells}}
