"""Two selections of the same rows, and frames that are not."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from transforms.same_rows import same_rows


@pytest.fixture
def frame(spark: SparkSession) -> DataFrame:
    return spark.range(6, numPartitions=3).select("id", (F.col("id") % 4).alias("rest"))


@pytest.mark.quick
@pytest.mark.parametrize("cached", [False, True], ids=["computed", "cached"])
def test_equal_columns_stand_once(frame: DataFrame, *, cached: bool) -> None:
    """Columns under other names, and through several selections, are equal."""
    if cached:
        frame.cache()
    left = frame.select("rest", (F.col("id") + 1).alias("next"))
    right = frame.withColumn("more", F.col("id") + 1).select(
        F.col("more").alias("a"), F.lit("x"), F.col("rest").alias("b")
    )

    found = same_rows(left, right)

    assert found is not None
    rows, mine, theirs = found
    assert (mine, theirs) == ([0, 1], [1, 2, 0])
    assertDataFrameEqual(
        rows, frame.select(F.col("rest").alias("column_0"), (F.col("id") + 1).alias("column_1"), F.lit("x").alias("column_2"))
    )  # fmt: skip
    frame.unpersist()


@pytest.mark.quick
def test_a_frame_in_memory_is_the_same_under_other_names(frame: DataFrame) -> None:
    """Spark takes all columns renamed for the frame itself, which has other names then."""
    frame.cache()
    renamed = frame.select(F.col("id").alias("a"), F.col("rest").alias("b"))
    assert [same_rows(*both)[1:] for both in ((renamed, frame.select("rest")), (frame.select("rest"), renamed))] == [  # type: ignore[index]
        ([0, 1], [1]),
        ([0], [1, 0]),
    ]
    frame.unpersist()


@pytest.mark.quick
def test_other_rows_or_columns_that_change_are_refused(frame: DataFrame) -> None:
    """A filter, a limit, a window, another reading, and numbers drawn anew each time."""
    over = F.row_number().over(Window.orderBy("id"))
    others = [
        frame.where("id > 2"), frame.limit(3), frame.withColumn("number", over), frame.distinct(), frame.unionAll(frame),
        frame.withColumn("each", F.explode(F.array("id", "rest"))), frame.withColumn("drawn", F.rand(3)),
        frame.sparkSession.range(7, numPartitions=3).select("id", "id"),
    ]  # fmt: skip
    assert [same_rows(frame, other) for other in others] == [None] * len(others)
    assert same_rows(frame, frame) is not None
