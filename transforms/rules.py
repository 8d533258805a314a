"""Which rows are good, and a sentence for each reason why one is not."""

from __future__ import annotations

from functools import reduce
from operator import and_, or_

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.classic.column import Column as ClassicColumn

from conf.schema import Source
from transforms.clock_changes import in_skipped_hour
from transforms.explained import FITS, PROBLEMS
from transforms.expressions import with_derived

REASONS = "_reasons"
_NUMBER = "_number"
_LARGEST = 1.7976931348623157e308  # the largest finite double; NaN counts as larger
_FRACTIONS = ("double", "float")


def clean(frame: DataFrame, source: Source, timezone: str) -> DataFrame:
    """The rows of `parse.plain` that are good beyond doubt, with the derived columns.

    One cheap comparison a column: this runs on every row. What it leaves out is judged again by `explain`, which is exact.
    Derived columns are computed on rows whose values are sound, and not guarded: the caller falls back on `explain` where one fails.
    """
    sound = [F.col(name).isNotNull() for name, column in source.columns.items() if column.required]
    sound += [
        F.col(name).isNull() | (F.abs(name) <= _LARGEST)
        for name, column in source.columns.items()
        if column.type in _FRACTIONS
    ]
    sound.append(~_doubtful_time(source, timezone))
    frame = with_derived(frame.filter(reduce(and_, sound)), source)
    return reduce(DataFrame.filter, [F.expr(rule) for rule in source.rules.values()], frame)


def explain(frame: DataFrame, source: Source, timezone: str) -> DataFrame:
    """Add the derived columns and REASONS to `explained.rows`: its sentences, and one for every rule that the row breaks.

    FITS then says whether `clean` keeps the row.

    A derived column that cannot be computed on a row (a division by zero, a cast that overflows) is null there and a reason;
    a rule that cannot be computed, or is null, is broken. A malformed line has no reason but that one.
    """
    spark = frame.sparkSession
    for name, expression in source.derive.items():
        frame = frame.withColumn(name, guarded(spark, expression))
    told = [_missing(name) for name, column in source.columns.items() if column.required]
    told += [_not_finite(name) for name, column in source.columns.items() if column.type in _FRACTIONS]
    # A struct of the value is null only where computing it failed.
    told += [
        F.when(guarded(spark, f"named_struct('value', {text})").isNull(), F.lit(f"{name}: {text} fails on this row"))
        for name, text in source.derive.items()
    ]
    told += [
        F.when(~F.coalesce(guarded(spark, text), F.lit(False)), F.lit(f"rule {name}: {text} is false or null"))
        for name, text in source.rules.items()
    ]
    reasons = F.concat(PROBLEMS, F.array_compact(F.array(*told))) if told else F.col(PROBLEMS)
    malformed = F.exists(PROBLEMS, lambda problem: problem.startswith("malformed: "))
    frame = frame.withColumn(REASONS, F.when(malformed, F.col(PROBLEMS)).otherwise(reasons))
    return frame.withColumn(FITS, F.col(FITS) & (F.size(REASONS) == 0) & ~_doubtful_time(source, timezone))


def left_out(frame: DataFrame) -> DataFrame:
    """Of the rows of `explain` those that `clean` does not keep.

    Spark pushes a filter below the projections that it stands on, and would repeat all parsers of the row in it, some 300 times
    instead of 5. Ids depend on the place of a row, so that no filter can be pushed below them.
    """
    numbered = frame.withColumn(_NUMBER, F.monotonically_increasing_id())
    return numbered.filter(~F.col(FITS) & (F.col(_NUMBER) >= 0)).drop(_NUMBER)


def guarded(spark: SparkSession, expression: str) -> Column:
    """A SQL expression that is null where computing it fails. SQL has this for single functions only (`try_divide`), Catalyst for all."""
    jvm = spark._jvm
    assert jvm is not None
    parsed = spark._jsparkSession.sessionState().sqlParser().parseExpression(expression)
    attempt = jvm.org.apache.spark.sql.catalyst.expressions.TryEval(parsed)
    return ClassicColumn(jvm.org.apache.spark.sql.classic.ExpressionUtils.column(attempt))


def kind_of(reason: Column) -> Column:
    """A reason without the value that it quotes, so that equal reasons can be counted."""
    return F.regexp_replace(reason, r"(?s)^(\w+: )'.*' (is not|does not exist)", "$1$2")


def _doubtful_time(source: Source, timezone: str) -> Column:
    """Whether an instant may be a local time that a clock change skips; only its text can tell."""
    times = [
        in_skipped_hour(F.col(name), timezone) for name, column in source.columns.items() if column.type == "timestamp"
    ]
    return reduce(or_, times, F.lit(False))


def _missing(name: str) -> Column:
    unread = F.exists(PROBLEMS, lambda problem: problem.startswith(f"{name}: "))
    return F.when(F.col(name).isNull() & ~unread, F.lit(f"{name}: required but null"))


def _not_finite(name: str) -> Column:
    text = F.concat(F.lit(f"{name}: '"), F.col(name).cast("string"), F.lit("' is not a finite number"))
    return F.when(F.abs(name) > _LARGEST, text)
