"""Derived columns and their types."""

from __future__ import annotations

from datetime import datetime

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import Row, SparkSession

from conf.schema import Source
from transforms.expressions import column_schema, derived_types, empty_frame, with_derived

TRIPS = Source.model_validate(
    {
        "files": "trips.csv",
        "columns": {"started_at": "timestamp!", "delay": "double", "fare": "decimal(10, 2)", "code": "string"},
        "derive": {
            "left_at": "started_at + make_dt_interval(0, 0, CAST(delay AS INT))",
            "late": "left_at > started_at + INTERVAL 15 MINUTES",
            "fare_cents": "CAST(fare * 100 AS INT)",
        },
    }
)


def test_a_later_derived_column_uses_an_earlier_one(spark: SparkSession) -> None:
    """`late` reads `left_at`, which is derived itself; nulls pass through."""
    rows = [(datetime(2020, 1, 1, 8), 20.0, None, "a"), (datetime(2020, 1, 1, 9), None, None, "b")]
    frame = spark.createDataFrame(rows, column_schema(TRIPS)).repartition(2)
    found = with_derived(frame, TRIPS).select("code", "left_at", "late", "fare_cents").orderBy("code").collect()
    assert found == [
        Row(code="a", left_at=datetime(2020, 1, 1, 8, 20), late=True, fare_cents=None),
        Row(code="b", left_at=None, late=None, fare_cents=None),
    ]


def test_types_are_those_that_spark_infers(spark: SparkSession) -> None:
    """The DDL types keep the order of `derive`."""
    assert derived_types(spark, TRIPS) == {"left_at": "timestamp", "late": "boolean", "fare_cents": "int"}
    assert list(derived_types(spark, TRIPS)) == list(TRIPS.derive)


def test_the_empty_frame_has_all_columns_and_no_rows(spark: SparkSession) -> None:
    """What expressions are analysed against."""
    frame = empty_frame(spark, TRIPS)
    assert frame.columns == ["started_at", "delay", "fare", "code", "left_at", "late", "fare_cents"]
    assert frame.schema["fare"].dataType.simpleString() == "decimal(10,2)"
    assert frame.isEmpty()


def test_an_expression_over_a_later_column_is_refused(spark: SparkSession) -> None:
    """Order matters: a column cannot be used before it is derived."""
    source = TRIPS.model_copy(update={"derive": {"late": "left_at > started_at", "left_at": "started_at"}})
    with pytest.raises(AnalysisException, match="left_at"):
        derived_types(spark, source)
