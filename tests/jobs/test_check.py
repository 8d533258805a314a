"""SQL expressions of a pipeline, analysed by Spark before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf import references
from conf.errors import ConfigError
from conf.load import load
from jobs import expressions
from jobs.check import analyse
from jobs.expressions import Analysis, allowed_functions
from models import search

TRIPS = """\
pipeline: trips
task: binary
sources:
  trips:
    files: trips/*.csv
    columns: {id: int!, city: string!, started_at: timestamp!, day: date, fare: double, ended_at: timestamp, tipped: boolean}
    derive:
      minutes: timestampdiff(MINUTE, started_at, ended_at)
      slow: minutes > 60
    key: [id]
    at: started_at
    latest: started_at desc nulls last
    outcomes: [{columns: [ended_at, tipped], known_at: ended_at}]
    rules: {paid: fare > 0}
  cities:
    files: cities.csv
    static: true
    columns: {name: string!, people: long, id: int}
    key: [name]
  stops:
    files: stops.csv
    columns: {trip: int!, stop: int!, wait: double}
    key: [trip, stop]
features:
  spine: trips
  as_of: started_at
  label: {name: has_tip, value: CAST(tipped AS DOUBLE)}
  columns: {hour: hour(started_at)}
  joins: [{source: cities, by: {city: name}, take: [people]}]
  windows: [{of: trips, by: [city], over: [1 day], take: {tips: avg(has_tip), last_fare: last(fare), trips_before: count(*)}}]
  children: [{of: stops, by: {id: trip}, take: {waited: sum(wait)}}]
  numeric: [fare, hour, people, tips, last_fare, trips_before, waited]
  categorical: [city]
split: {test: {last: 10 days}}
train: {metric: area_under_roc, candidates: {logistic: {estimator: logistic_regression}}}
"""


def complaints(spark: SparkSession, folder: Path, *changes: tuple[str, str]) -> list[str]:
    """What the check says after pieces of the file were replaced."""
    text = TRIPS
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "trips.yaml"
    file.write_text(text)
    try:
        analyse(spark, load(file))
    except ConfigError as error:
        return [problem.removeprefix(f"{file}:") for problem in error.problems]
    return []


@pytest.mark.quick
def test_a_sound_pipeline_passes(spark: SparkSession, tmp_path: Path) -> None:
    """Nothing is read: none of its files exists."""
    assert complaints(spark, tmp_path) == []


def test_the_flights_pipeline_passes(spark: SparkSession) -> None:
    """The one that the README runs."""
    analyse(spark, load("flights"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("slow: minutes > 60", "slow: minute > 60", "9: sources.trips.derive.slow: there is no column minute here. Did you mean minutes?"),
        ("at: started_at\n    l", "at: city\n    l", "11: sources.trips.at: expected a timestamp or date, found the type string of `city`."),
        ("known_at: ended_at", "known_at: fare", "13: sources.trips.outcomes.0.known_at: expected a timestamp or date, found the type double of `fare`."),
        ("latest: started_at desc", "latest: upadted_at desc", "12: sources.trips.latest: there is no column upadted_at here. Did you mean started_at?"),
        ("paid: fare > 0", "paid: fare", "14: sources.trips.rules.paid: expected a condition, true or false, found the type double of `fare`."),
        ("as_of: started_at", "as_of: fare", "26: features.as_of: expected a timestamp or date, found the type double of `fare`."),
        ("CAST(tipped AS DOUBLE)", "upper(city || tipped)", "27: features.label.value: expected 0 or 1, or a condition, found the type string of `upper(city || tipped)`."),
        ("hour(started_at)", "hour(fare)", "28: features.columns.hour: cannot resolve \"hour(fare)\" due to data type mismatch: The first parameter requires the \"(TIMESTAMP OR TIMESTAMP WITHOUT TIME ZONE)\" type, however \"fare\" has the type \"DOUBLE\"."),
        ("by: {city: name}", "by: {city: id}", "29: features.joins.0.by.city: city is string and id of cities is int, expected one type. Declare both alike, or derive a column with CAST."),
        ("avg(has_tip)", "median(has_tip)", "30: features.windows.0.take.tips: 'median(has_tip)' is not an aggregate for a trailing window: expected one of count, sum, avg, min, max, variance, stddev, last over one expression, or count(*)."),
        ("avg(has_tip)", "avg(has_tips)", "30: features.windows.0.take.tips: there is no column has_tips here. Did you mean has_tip?"),
        ("sum(wait)", "wait", "31: features.children.0.take.waited: expected an aggregate such as count(*) or sum(x), found a value of single rows."),
        ("numeric: [fare, hour,", "numeric: [started_at, fare, hour,", "32: features.numeric.0: expected a number, found started_at of type timestamp."),
        ("  columns: {hour", "  function: trips.add\n  columns: {hour", "28: features.function: trips.add cannot be imported: No module named 'trips'. Expected a function DataFrame -> DataFrame."),
        ("  columns: {hour", "  function: pathlib.sep\n  columns: {hour", "28: features.function: pathlib.sep cannot be imported: module 'pathlib' has no attribute 'sep'. Expected a function DataFrame -> DataFrame."),
        ("  columns: {hour", "  function: string.digits\n  columns: {hour", "28: features.function: string.digits is no function, expected DataFrame -> DataFrame."),
    ],
)  # fmt: skip
def test_one_problem_one_sentence(spark: SparkSession, tmp_path: Path, old: str, new: str, message: str) -> None:
    """Line, setting, and Spark's own judgement without its jargon."""
    assert complaints(spark, tmp_path, (old, new)) == [message]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{estimator: logistic_regression}", "{estimator: logistic_regression, grid: {reg_parm: [1.0]}}", "35: train.candidates.logistic.grid.reg_parm: LogisticRegression has no parameter 'reg_parm'. Did you mean 'reg_param'?"),
        ("{estimator: logistic_regression}", "{estimator: logistic_regression, halving: 2}", "35: train.candidates.logistic.halving: LogisticRegression does not grow round by round, as boosted_trees do. Remove it."),
    ],
)  # fmt: skip
def test_candidates_are_checked_before_anything_is_read(
    spark: SparkSession, tmp_path: Path, old: str, new: str, message: str
) -> None:
    """Whoever does not train need not wait for it."""
    assert complaints(spark, tmp_path, (old, new)) == [message]
    analyse(spark, load(next(tmp_path.glob("*.yaml"))), trains=False)


def test_everything_is_said_at_once_and_once(spark: SparkSession, tmp_path: Path) -> None:
    """A column that failed causes no second problem where it is used."""
    found = complaints(
        spark,
        tmp_path,
        ("slow: minutes > 60", "slow: minuts > 60"),
        ("paid: fare > 0", "paid: slow"),
        ("hour(started_at)", "huor(day)"),
    )
    assert found == [
        "9: sources.trips.derive.slow: there is no column minuts here. Did you mean minutes?",
        "28: features.columns.hour: there is no function huor. Did you mean hour?",
    ]


def test_what_text_alone_cannot_see_is_found_by_the_analyser(spark: SparkSession, tmp_path: Path) -> None:
    """A leak behind a name that looks like a keyword: the frames that features come from hold no outcomes."""
    changes = (
        ("tipped: boolean", "tipped: boolean, last: double"),
        ("columns: [ended_at, tipped]", "columns: [ended_at, tipped, last]"),
    )
    assert complaints(spark, tmp_path, *changes, ("hour(started_at)", "last + 1")) == [
        "28: features.columns.hour: there is no column last here. Expected one of id, city, started_at, day, fare, as_of."
    ]


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("rand()", "rand is left out of conf/functions.txt, the list of functions whose result depends on the row alone."),
        ("uuid()", "uuid is left out of conf/functions.txt, the list of functions whose result depends on the row alone."),
        ("reflect('java.lang.System', 'exit')", "reflect is left out of conf/functions.txt, the list of functions whose result depends on the row alone."),
        ("java_method('java.lang.Runtime', 'getRuntime')", "java_method is left out of conf/functions.txt, the list of functions whose result depends on the row alone."),
        ("monotonically_increasing_id()", "monotonically_increasing_id is left out of conf/functions.txt, the list of functions whose result depends on the row alone."),
        ("current_timestamp()", "current_timestamp is left out of conf/functions.txt, the list of functions whose result depends on the row alone."),
        ("unix_timestamp()", "unix_timestamp is left out of conf/functions.txt, the list of functions whose result depends on the row alone."),
        ("spark_catalog.default.f(a)", "there is no function spark_catalog.default.f. The file conf/functions.txt lists all."),
        ("identifier('rand')()", "expressions may not contain IDENTIFIER(...)."),
        ("current_date", "current_date depends on when and where the job runs: expressions may depend on the row alone."),
        ("`current_user`", "current_user depends on when and where the job runs: expressions may depend on the row alone."),
        ("a IN (SELECT 1)", "expressions may not contain a subquery."),
        ("EXISTS (SELECT 1)", "expressions may not contain a subquery."),
        ("(SELECT max(a) FROM t)", "expressions may not contain a subquery."),
        ("row_number() OVER (ORDER BY a)", "expressions may not contain OVER (...): write it under features.windows."),
        ("first(a)", "expressions may not contain first, last or any_value: which row comes first depends on how rows are split."),
        ("last_value(a)", "last_value is left out of conf/functions.txt, the list of functions whose result depends on the row alone."),
        ("avg(a)", "an aggregate stands where one row at a time is looked at. Write it under features.windows or features.children."),
        ("a; DROP TABLE t", "this is not an SQL expression: it cannot be read at ';'."),
        ("a, a", "this is not an SQL expression: it cannot be read at ','."),
        ("CAST(a AS", "this is not an SQL expression: it cannot be read at end of input."),
        ("a + :x", "expressions may not contain a parameter marker."),
        ("*", "invalid usage of '*' in expression `alias`."),
        ("(" * 101 + "a" + ")" * 101, "expected at most 10,000 characters and 100 nested parentheses, found more."),
        ("a" * 10_001, "expected at most 10,000 characters and 100 nested parentheses, found more."),
        ("a" + " + a" * 2_000, "the statement, including potential SQL functions and referenced views, was too complex to parse."),
    ],
)  # fmt: skip
def test_what_expressions_may_not_contain(spark: SparkSession, sql: str, problem: str) -> None:
    """Clock, chance, code, other tables, other rows; and texts made to break a parser."""
    frame = spark.range(0).withColumn("a", F.lit(1))
    assert expressions.analyse(frame, sql) == Analysis(problem=problem)


def test_a_column_may_have_the_name_of_a_surrounding(spark: SparkSession) -> None:
    """The row's own column comes first."""
    frame = spark.range(0).withColumn("user", F.lit("x"))
    found = expressions.analyse(frame, "upper(user)")
    assert found.problem is None
    assert found.type is not None
    assert found.type.simpleString() == "string"


def test_every_allowed_function_is_one_of_spark(spark: SparkSession) -> None:
    """A misspelt line in conf/functions.txt would allow nothing."""
    known = {row["function"] for row in spark.sql("SHOW SYSTEM FUNCTIONS").collect()}
    parsed = {"try_cast", "timestampadd", "timestampdiff", "not", "between", "position"}  # parts of the grammar
    assert allowed_functions() - known - parsed == set()


def test_the_estimators_of_the_configuration_are_those_of_the_search() -> None:
    """`conf` names them without importing Spark's."""
    assert {name: tuple(tasks) for name, tasks in search.SHORT_NAMES.items()} == references.ESTIMATORS


def test_no_allowed_function_depends_on_more_than_its_arguments(spark: SparkSession) -> None:
    """By the names of Spark's own implementations, as far as they can be called without arguments."""
    forbidden = (
        "current",
        "now",
        "rand",
        "uuid",
        "user",
        "input_file",
        "partition_id",
        "increasing_id",
        "reflect",
        "java_method",
        "shuffle",
    )
    assert [name for name in sorted(allowed_functions()) if any(word in name for word in forbidden)] == []
