"""How rows are packed into blocks and unpacked into whole buckets; what needs no Spark."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from transforms import blocks
from transforms.blocks import Packing, Unpacking, microseconds
from transforms.layout import Layout
from transforms.time_buckets import bucket_width

pytestmark = pytest.mark.quick

WIDTH = 100
REACH = 60
KEYS = 7


def layout(table: pa.Table) -> Layout:
    """Of a table whose columns are a number, an instant and a key."""
    return Layout(table.schema, 1, (2,), (None,), {table.column_names[0]: 0})


def packed(queries: pa.Table, events: pa.Table, *, rows_in_batch: int) -> list[pa.RecordBatch]:
    """What the last stage reads: blocks sorted by bin, events first, in small batches."""
    packing = Packing(layout(queries), layout(events), WIDTH, REACH, bins=16)
    packed_rows = [
        *packing.queries(queries.to_batches(max_chunksize=rows_in_batch)),
        *packing.events(events.to_batches(max_chunksize=rows_in_batch)),
    ]
    table = pa.Table.from_batches(packed_rows)
    return table.sort_by([("bin", "ascending"), ("kind", "ascending")]).to_batches(max_chunksize=5)


def instants(micros: list[int | None]) -> pa.Array:
    return pa.array(micros, pa.timestamp("us", "UTC"))


def side(rng: np.random.Generator, name: str, rows: int) -> pa.Table:
    key = rng.integers(0, KEYS, rows)
    return pa.table(
        {
            name: np.arange(rows),
            "time": instants(rng.integers(-500, 500, rows).tolist()),
            "key": pa.array([f"key {k}" for k in key]),
        }
    )


@pytest.mark.parametrize("largest_code", [1 << 62, 2 * 2 * WIDTH])
@pytest.mark.parametrize("rows_at_once", [1, 150, 1 << 19])
def test_every_query_meets_all_it_can_see_wherever_the_stream_is_cut(
    monkeypatch: pytest.MonkeyPatch, rows_at_once: int, largest_code: int
) -> None:
    """However many rows are packed and unpacked at once, each query appears once, with exactly the events of its window."""
    monkeypatch.setattr(blocks, "_ROWS_PACKED", 70)
    monkeypatch.setattr(blocks, "_ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(blocks, "_LARGEST_CODE", largest_code)
    rng = np.random.default_rng(0)
    queries, events = side(rng, "id", 900), side(rng, "event", 300)
    unpacking = Unpacking(layout(queries), layout(events), WIDTH)

    seen: dict[int, set[int]] = {}
    for both in unpacking.sides(packed(queries, events, rows_in_batch=30)):
        ends = both.ends()
        starts = both.starts(timedelta(microseconds=REACH), ends)
        numbers = both.events.column("event").to_pylist()
        for query, start, end in zip(both.queries.column("id").to_pylist(), starts, ends, strict=True):
            assert query not in seen
            seen[query] = set(numbers[start:end])
            assert len(seen[query]) == end - start

    key, time = events["key"].to_numpy(), events["time"].cast(pa.int64()).to_numpy()
    expected = {
        query: set(np.flatnonzero((key == k) & (time < t) & (time >= t - REACH)).tolist())
        for query, k, t in zip(
            queries["id"].to_pylist(),
            queries["key"].to_pylist(),
            queries["time"].cast(pa.int64()).to_pylist(),
            strict=True,
        )
    }
    assert seen == expected
    assert max(map(len, seen.values())) > 3


def test_rows_that_match_nothing_are_answered_all_the_same() -> None:
    """Without events, without an instant or without a key a query comes back, matching nothing."""
    queries = pa.table({"id": [1, 2, 3], "time": instants([5, None, 5]), "key": pa.array(["a", "a", None])})
    told = pa.table({"event": [0, 1], "time": instants([4, -3]), "key": ["a", "a"]})
    for events, expected in ((told, {1: 2, 2: 0, 3: 0}), (told.slice(2), {1: 0, 2: 0, 3: 0})):
        unpacking = Unpacking(layout(queries), layout(events), WIDTH)
        found = {}
        for both in unpacking.sides(packed(queries, events, rows_in_batch=10)):
            ends = both.ends()
            counts = ends - both.starts(timedelta(microseconds=REACH), ends)
            found |= dict(zip(both.queries.column("id").to_pylist(), counts.tolist(), strict=True))
        assert found == expected


@pytest.mark.parametrize(
    ("reach", "width"),
    [
        ("1 hour", "8 hours"),
        ("1 day", "7 days"),
        ("7 days", "14 days"),
        ("28 days", "56 days"),
        ("1 minute", "8 minutes"),
    ],
)
def test_buckets_are_at_least_twice_as_wide_as_the_reach(reach: str, width: str) -> None:
    """Short looks back get wider buckets, so that few events are sent to two."""

    def length(text: str) -> timedelta:
        count, unit = text.split()
        return timedelta(**{unit if unit.endswith("s") else unit + "s": int(count)})

    assert bucket_width(length(reach)) == microseconds(length(width))
