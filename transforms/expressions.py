"""SQL expressions of a source over its rows: the derived columns, and the types that Spark gives them."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructField, StructType

from conf.schema import Source


def column_schema(source: Source) -> StructType:
    """The typed columns as read from a file, without the derived ones; all may be null."""
    return StructType([StructField(name, DataType.fromDDL(column.type)) for name, column in source.columns.items()])


def with_derived(frame: DataFrame, source: Source) -> DataFrame:
    """Add the columns of `derive` in order; a later one may use an earlier one.

    Args:
        frame: has the columns of `source.columns`.

    Raises:
        pyspark.errors.AnalysisException: an expression does not fit the columns (`jobs.check` reports that earlier, with its line).
    """
    for name, expression in source.derive.items():
        frame = frame.withColumn(name, F.expr(expression))
    return frame


def empty_frame(spark: SparkSession, source: Source) -> DataFrame:
    """A frame without rows that has the columns of the source, the derived ones too."""
    return with_derived(spark.createDataFrame([], column_schema(source)), source)


def derived_types(spark: SparkSession, source: Source) -> dict[str, str]:
    """Derived column -> its Spark DDL type, in the order of `derive`."""
    schema = empty_frame(spark, source).schema
    return {name: schema[name].dataType.simpleString() for name in source.derive}
