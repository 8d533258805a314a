"""Rows and labels of each cell."""

from __future__ import annotations

from typing import Any

from models.arrays import namespace
from models.exact.worker.blocks import Array, Blocks


def count(blocks: Blocks) -> dict[str, Any]:
    """Number of rows by number of cell; cells without rows in this worker are left out."""
    return {"rows": {cell.number: int(cell.label.shape[0]) for cell in blocks.cells}}


def count_classes(blocks: Blocks, *, most: int) -> dict[str, Array]:
    """Weight of the rows of each class, where labels are class numbers.

    Args:
        most: labels at or above it are not counted.

    Returns:
        cells: (c,) numbers of the cells that this worker has rows of; weight: (c, L), L one more than the largest label;
        rows: (c,); wrong: rows whose label is no whole number in [0, most).
    """
    if not blocks.cells:
        return {}
    xp = namespace(blocks.cells[0].label)
    largest, wrong = 0, 0
    for cell in blocks.cells:
        sound = (cell.label >= 0) & (cell.label < most) & (cell.label == xp.floor(cell.label))
        wrong += int(xp.sum(xp.astype(~sound, xp.int64)))
        largest = max(largest, int(xp.max(xp.where(sound, cell.label, 0.0))))
    classes = xp.arange(largest + 1, dtype=xp.float64)
    weight = [
        xp.stack([xp.sum(xp.where(cell.label == classes[k], cell.weight, 0.0)) for k in range(largest + 1)])
        for cell in blocks.cells
    ]
    return {
        "cells": xp.asarray([cell.number for cell in blocks.cells]),
        "weight": xp.stack(weight),
        "rows": xp.asarray([cell.label.shape[0] for cell in blocks.cells]),
        "wrong": xp.asarray(wrong),
    }
