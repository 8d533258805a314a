"""How rows are packed into blocks and unpacked into whole buckets; what needs no Spark."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from transforms import blocks
from transforms.blocks import Packing, Unpacking, microseconds
from transforms.time_buckets import bucket_width

pytestmark = pytest.mark.quick

WIDTH = 100
REACH = 60
KEYS = 7


def packed(queries: pa.Table, events: pa.Table, *, rows_in_batch: int) -> list[pa.RecordBatch]:
    """What the last stage reads: blocks sorted by bin, events first, in small batches."""
    packing = Packing(WIDTH, REACH, bins=16)
    packed_rows = [
        *packing.queries(queries.to_batches(max_chunksize=rows_in_batch)),
        *packing.events(events.to_batches(max_chunksize=rows_in_batch)),
    ]
    table = pa.Table.from_batches(packed_rows)
    return table.sort_by([("bin", "ascending"), ("is_query", "ascending")]).to_batches(max_chunksize=5)


def side(rng: np.random.Generator, name: str, rows: int) -> pa.Table:
    key = rng.integers(0, KEYS, rows)
    return pa.table(
        {
            name: np.arange(rows),
            "time": rng.integers(-500, 500, rows),
            "key_0": pa.array([f"key {k}" for k in key]),
            "place": key * 1_000_003,
        }
    )


def packed_schema(table: pa.Table) -> pa.Schema:
    return table.drop_columns(["place"]).schema.append(pa.field("bucket", pa.int64()))


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
    queries, events = side(rng, "query_0", 900), side(rng, "event", 300)
    unpacking = Unpacking(packed_schema(queries), packed_schema(events), 1, WIDTH, ("id",))

    seen: dict[int, set[int]] = {}
    for both in unpacking.sides(packed(queries, events, rows_in_batch=30)):
        ends = both.ends()
        starts = both.starts(timedelta(microseconds=REACH), ends)
        numbers = both.events.column("event").to_pylist()
        for query, start, end in zip(both.queries.column("id").to_pylist(), starts, ends, strict=True):
            assert query not in seen
            seen[query] = set(numbers[start:end])
            assert len(seen[query]) == end - start

    key, time = events["key_0"].to_numpy(), events["time"].to_numpy()
    expected = {
        query: set(np.flatnonzero((key == k) & (time < t) & (time >= t - REACH)).tolist())
        for query, k, t in zip(*(queries[n].to_pylist() for n in ("query_0", "key_0", "time")), strict=True)
    }
    assert seen == expected
    assert max(map(len, seen.values())) > 3


def test_rows_that_match_nothing_are_answered_all_the_same() -> None:
    """Without events, without an instant or without a key a query comes back, matching nothing."""
    queries = pa.table(
        {
            "query_0": [1, 2, 3],
            "time": pa.array([5, None, 5], pa.int64()),
            "key_0": pa.array(["a", "a", None]),
            "place": pa.array([0, 77, 78]),
        }
    )
    told = pa.table({"event": [0, 1], "time": [4, -3], "key_0": ["a", "a"], "place": [0, 0]})
    for events, expected in ((told, {1: 2, 2: 0, 3: 0}), (told.slice(2), {1: 0, 2: 0, 3: 0})):
        unpacking = Unpacking(packed_schema(queries), packed_schema(events), 1, WIDTH, ("id",))
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
        ("7 days", "7 days"),
        ("28 days", "28 days"),
        ("1 minute", "8 minutes"),
    ],
)
def test_buckets_are_as_wide_as_the_reach_or_wider(reach: str, width: str) -> None:
    """Short looks back get wider buckets, so that few events are sent to two."""

    def length(text: str) -> timedelta:
        count, unit = text.split()
        return timedelta(**{unit if unit.endswith("s") else unit + "s": int(count)})

    assert bucket_width(length(reach)) == microseconds(length(width))
