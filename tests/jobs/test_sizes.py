"""Sizes from bytes."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from jobs import sizes

MIB = 2**20

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("read", "slots", "expected"),
    [(0, 2, 2), (128 * MIB, 1, 1), (128 * MIB + 1, 1, 2), (5 * 1024 * MIB, 2, 40), (5 * 1024 * MIB, 64, 64), (10**16, 8, 10_000)],
)  # fmt: skip
def test_a_shuffle_has_128_mib_a_partition_and_one_for_each_slot(read: int, slots: int, expected: int) -> None:
    assert sizes.partitions(read, slots) == expected


def test_python_holds_its_share_of_the_rows_twice_where_it_holds_them() -> None:
    streams, holds = (sizes.python_memory(8 * 1024 * MIB, 4, holds_rows=held) for held in (False, True))

    assert (streams, holds) == (512 * MIB, (512 + 2 * 2048) * MIB)


def test_a_number_that_was_given_stays(spark: SparkSession) -> None:
    """The session of the tests has one. Nothing is asked for its sake."""
    assert sizes.fit(spark, pytest.fail, holds_rows=False) is None
    assert spark.conf.get(sizes.SHUFFLE) == "2"
