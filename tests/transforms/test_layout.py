"""What is read from the columns that travel: keys that match meet in one place whatever their types."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from transforms.layout import Layout

pytestmark = pytest.mark.quick

TIME = pa.timestamp("us", "UTC")


def places(keys: pa.Array, *, wider: pa.DataType | None = None, times: list[int | None] | None = None) -> list[int]:
    table = pa.table({"at": pa.array([0] * len(keys) if times is None else times, TIME), "key": keys})
    layout = Layout(table.schema, 0, (1,), (wider,), {"key": 1})
    found: list[int] = layout.places(layout.table(table.to_batches())).tolist()
    return found


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1, -2, 3], pa.int16()),
        ([True, False], pa.bool_()),
        ([1.5, -2.0], pa.float32()),
        (["a", "é", ""], pa.string()),
        (["a", "é", ""], pa.large_string()),
        ([b"a", b""], pa.binary()),
        ([Decimal("1.5"), Decimal("-1.5")], pa.decimal128(30, 2)),
        ([1, 2], pa.date32()),
        ([1, 2], pa.duration("us")),
    ],
)
def test_equal_keys_have_one_place_and_others_another(values: list[object], type_: pa.DataType) -> None:
    """However often and in which order they come."""
    forward, backward = places(pa.array(values, type_)), places(pa.array([*values, *values][::-1], type_))
    assert len(set(forward)) == len(values)
    assert backward == [*forward, *forward][::-1]


def test_types_are_widened_and_what_sql_holds_equal_is_equal() -> None:
    """A short 7 meets a long 7, a float 0.5 a double 0.5, -0.0 meets 0.0 and NaN any other NaN."""
    assert places(pa.array([7], pa.int16()), wider=pa.int64()) == places(pa.array([7], pa.int64()))
    assert places(pa.array([0.5], pa.float32()), wider=pa.float64()) == places(pa.array([0.5], pa.float64()))
    assert len(set(places(pa.array([0.0, -0.0])))) == 1
    other_nan = np.array([0x7FF8000000000001], np.uint64).view(np.float64)
    assert len(set(places(pa.array(np.concatenate([[np.nan], other_nan]))))) == 1


def test_rows_that_match_nothing_are_spread_by_what_they_hold() -> None:
    """With a null key by the instant, without an instant by the key: never all in one place, the same when run again."""
    nothing = pa.nulls(50, pa.string())
    assert len(set(places(nothing, times=list(range(50))))) == 50
    keys = pa.array([str(i) for i in range(50)])
    assert len(set(places(keys, times=[None] * 50))) == 50
    assert (
        places(nothing.take(list(range(49, -1, -1))), times=list(range(49, -1, -1)))
        == places(nothing, times=list(range(50)))[::-1]
    )
