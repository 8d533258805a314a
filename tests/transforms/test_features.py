"""The composed feature frame and its contract. Values against an oracle are in tests/system/test_no_leak.py."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from ruamel.yaml import YAML

from conf.schema import Pipeline
from transforms import aggregates, features, spine
from transforms.errors import ConfigError, ContractError
from transforms.expressions import column_schema

RUN_DATE = date(2024, 3, 10)
NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)

BOXES = """
pipeline: boxes
task: regression
sources:
  boxes:
    files: boxes.csv
    columns: {id: int!, kind: string, size: double, packed_at: timestamp, cost: double}
    key: [id]
    at: packed_at
    outcomes: [{columns: [cost], known_at: packed_at + INTERVAL 1 DAY}]
  kinds: {files: kinds.csv, static: true, key: [code], columns: {code: string!, weight: int, group: string}}
  lines: {files: lines.csv, key: [box, line], columns: {box: int, line: int, price: double}}
features:
  spine: boxes
  label: {name: cost, value: cost}
  numeric: [size]
  categorical: [kind]
split: {test: {share: 0.2}}
train: {metric: rmse, candidates: {c: {estimator: linear_regression}}}
"""
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "boxes": [(1, "a", 2.0, NOON, 5.0), (2, "b", float("nan"), NOON, 6.0), (3, None, float("-inf"), NOON, None)],
    "kinds": [("a", 7, "x"), ("b", None, "y")],
    "lines": [(1, 1, 0.1), (1, 2, 0.2), (1, 3, None), (3, 1, None), (None, 1, 9.0)],
}


def pipeline_of(**spec: Any) -> Pipeline:
    values = YAML(typ="safe").load(BOXES)
    values["features"] |= spec
    return Pipeline.model_validate(values)


def sources(spark: SparkSession, pipeline: Pipeline) -> dict[str, DataFrame]:
    return {
        name: spark.createDataFrame(spark.sparkContext.parallelize(ROWS[name], 2), column_schema(source))
        for name, source in pipeline.sources.items()
    }


def rows_of(spark: SparkSession, pipeline: Pipeline) -> list[tuple[Any, ...]]:
    made = features.frame(sources(spark, pipeline), pipeline, run_date=RUN_DATE)
    return sorted(tuple(row) for row in made.collect())


def test_the_frame_is_key_as_of_numbers_and_categories_in_the_order_of_the_file(spark: SparkSession) -> None:
    """Numbers are double, not finite ones null; anything else is text; columns are computed from the source's own."""
    pipeline = pipeline_of(
        columns={"size": "size + 1", "old_size": "size", "big": "size > 1"},
        numeric=["size", "old_size", "big"],
        categorical=["kind", "packed_at"],
    )
    made = features.frame(sources(spark, pipeline), pipeline, run_date=RUN_DATE)
    assert [(field.name, field.dataType.simpleString()) for field in made.schema] == [
        ("id", "int"),
        ("as_of", "timestamp"),
        ("size", "double"),
        ("old_size", "double"),
        ("big", "double"),
        ("kind", "string"),
        ("packed_at", "string"),
    ]
    assert sorted(tuple(row) for row in made.collect()) == [
        (1, None, 3.0, 2.0, 1.0, "a", "2024-03-01 12:00:00"),
        (2, None, None, None, 1.0, "b", "2024-03-01 12:00:00"),
        (3, None, None, None, 0.0, None, "2024-03-01 12:00:00"),
    ]


def test_lookups_and_children_never_add_or_lose_a_row(spark: SparkSession) -> None:
    """A null key matches nothing; over no rows at all an aggregate is what SQL says of no rows."""
    pipeline = pipeline_of(
        joins=[{"source": "kinds", "by": {"kind": "code"}, "take": {"weight": "weight", "family": "group"}}],
        children=[
            {
                "of": "lines",
                "by": {"id": "box"},
                "take": {"n": "count(*)", "paid": "sum(price)", "none": "CAST(count(price) = 0 AS INT)"},
            }
        ],
        numeric=["weight", "n", "paid", "none"],
        categorical=["family"],
    )
    assert rows_of(spark, pipeline) == [
        (1, None, 7.0, 3.0, 0.1 + 0.2, 0.0, "x"),
        (2, None, None, 0.0, None, 1.0, "y"),
        (3, None, None, 1.0, None, 1.0, None),
    ]


def test_a_lookup_on_a_key_that_repeats_is_refused(spark: SparkSession) -> None:
    """Joining on part of the key, with more than one row for some of its values."""
    pipeline = pipeline_of(joins=[{"source": "lines", "by": {"id": "box"}, "take": ["price"]}])
    lines = pipeline.sources["lines"].model_copy(update={"static": True})
    pipeline = pipeline.model_copy(update={"sources": {**pipeline.sources, "lines": lines}})
    with pytest.raises(ContractError) as error:
        rows_of(spark, pipeline)
    assert str(error.value) == (
        "features.joins.0: expected one row of lines per (box), found 1 value(s) with 3 rows."
        " Join on its whole key, or aggregate it with `children`."
    )


def test_a_function_may_add_columns(spark: SparkSession) -> None:
    """It gets the whole frame, without outcomes."""
    pipeline = pipeline_of(function="tests.transforms.function_for_features.doubled", numeric=["twice"], categorical=[])
    assert rows_of(spark, pipeline) == [(1, None, 4.0), (2, None, None), (3, None, None)]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("first_only", ContractError, "returned 1 rows for 3. Return each row once, with its key unchanged."),
        (
            "other_keys",
            ContractError,
            "returned the same number of rows with other keys. Return each row once, with its key unchanged.",
        ),
        ("without_key", ContractError, "dropped the key column(s) id. Return them as they came."),
        ("nothing", ContractError, "returned NoneType, expected a DataFrame."),
        ("NOT_A_FUNCTION", ConfigError, "is int, expected a function DataFrame -> DataFrame."),
        (
            "absent",
            ConfigError,
            "cannot be imported (module 'tests.transforms.function_for_features' has no attribute 'absent')."
            " Expected the dotted path of a Python function DataFrame -> DataFrame.",
        ),
    ],
)
def test_a_function_that_breaks_the_rows_is_refused(
    spark: SparkSession, name: str, error: type[Exception], message: str
) -> None:
    """Rows and keys stay as they are."""
    path = f"tests.transforms.function_for_features.{name}"
    with pytest.raises(error) as raised:
        rows_of(spark, pipeline_of(function=path, numeric=[], categorical=[]))
    assert str(raised.value) == f"features.function: {path} {message}"


def test_rows_without_a_moment_or_known_after_it_are_refused(spark: SparkSession) -> None:
    """Both at once, by count; a row that is known at its very moment is fine."""
    pipeline = pipeline_of(as_of="CASE id WHEN 1 THEN packed_at WHEN 2 THEN packed_at - INTERVAL 1 SECOND END")
    with pytest.raises(ContractError) as error:
        spine.check(spine.rows(sources(spark, pipeline), pipeline, run_date=RUN_DATE), pipeline)
    assert error.value.problems == (
        "features.as_of: expected a moment of decision in each of 3 rows of boxes, found null in 1."
        " Give the columns it is computed from `!`, or refuse such rows by a rule.",
        "features.as_of: 1 of 3 rows of boxes were known only after their as_of (known_at is packed_at), so their own columns were not"
        " there to decide on. Move as_of, or state in sources.boxes.known_at when a row is really known.",
    )
    fine = pipeline_of(as_of="packed_at")
    assert spine.check(spine.rows(sources(spark, fine), fine, run_date=RUN_DATE), fine) == 3


def test_a_periodic_spine_that_begins_after_the_run_date_is_refused(spark: SparkSession) -> None:
    """It would have no rows."""
    pipeline = pipeline_of(spine={"entities": "boxes", "every": "1 week", "from": date(2025, 1, 1)})
    with pytest.raises(ContractError) as error:
        spine.rows(sources(spark, pipeline), pipeline, run_date=RUN_DATE)
    assert str(error.value) == (
        "features.spine.from: 2025-01-01 is after the run date 2024-03-10, so there is no moment of decision."
        " Choose an earlier `from` or a later --run-date."
    )


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("1 month", ["2024-01-31 00:00", "2024-02-29 00:00", "2024-03-31 00:00", "2024-04-30 00:00"]),
        (
            "3 weeks",
            ["2024-01-31 00:00", "2024-02-21 00:00", "2024-03-13 00:00", "2024-04-03 00:00", "2024-04-24 00:00"],
        ),
        ("1 year", ["2024-01-31 00:00"]),
    ],
)
def test_calendar_steps_are_counted_from_the_first_day(spark: SparkSession, every: str, expected: list[str]) -> None:
    """The 31st is not lost after February, and local midnights stay midnights across the change of clocks."""
    pipeline = pipeline_of(spine={"entities": "kinds", "every": every, "from": date(2024, 1, 31)}).model_copy(
        update={"timezone": "Europe/Berlin"}
    )
    rows = spine.rows(sources(spark, pipeline), pipeline, run_date=date(2024, 4, 30))
    local = rows.where("code = 'a'").selectExpr(
        "date_format(from_utc_timestamp(as_of, 'Europe/Berlin'), 'yyyy-MM-dd HH:mm') AS moment"
    )
    assert sorted(row["moment"] for row in local.collect()) == expected


def test_the_contract_names_key_and_columns_with_their_meaning(spark: SparkSession) -> None:
    """A feature that is a key column stands there once; labels and membership share the key."""
    pipeline = pipeline_of(
        spine="kinds",
        label={"name": "y", "value": "weight"},
        columns={"heavy": "weight > 3"},
        children=[{"of": "lines", "by": {"weight": "box"}, "take": {"n": "count(*)"}}],
        numeric=["heavy", "n"],
        categorical=["code", "group"],
    )
    tables = features.tables(spark, pipeline)
    assert [(f.name, f.type, f.meaning) for f in tables.features.fields] == [
        ("code", "string", "read from the file"),
        ("as_of", "timestamp", "moment of decision (UTC); null without time"),
        ("heavy", "double", "weight > 3"),
        ("n", "double", "count(*) of lines"),
        ("group", "string", "categorical feature"),
    ]
    assert tables.features.key == tables.labels.key == tables.membership.key == ("code", "as_of")
    assert tables.features.conform(features.frame(sources(spark, pipeline), pipeline, run_date=RUN_DATE)).count() == 2


def test_a_key_column_of_another_type_is_no_feature(spark: SparkSession) -> None:
    """The table has one column of that name, and the key keeps its type."""
    with pytest.raises(ConfigError) as error:
        features.tables(spark, pipeline_of(numeric=["id"], categorical=["kind"]))
    assert str(error.value) == (
        "features.numeric: id is a key column of type int, and a feature there is double."
        " Add it under another name, such as columns: {id_value: id}."
    )


def test_versions_follow_what_decides_the_values_and_nothing_else() -> None:
    """Another definition is another table; where files lie, what is expected and how models are trained is not."""
    first = pipeline_of()
    same = first.model_copy(update={"question": "why?", "split": first.split.model_copy(update={"salt": "s"})})
    boxes = first.sources["boxes"]
    moved = {**first.sources, "boxes": boxes.model_copy(update={"files": "other.csv", "rules": {"r": "size > 0"}})}
    same = same.model_copy(update={"sources": moved})
    assert features.version(same) == features.version(first)
    assert features.label_version(same) == features.label_version(first)
    assert features.membership_version(same) != features.membership_version(first)

    wider = pipeline_of(numeric=["size", "cost"])
    assert features.version(wider) != features.version(first)
    assert features.label_version(wider) == features.label_version(first)
    later = {**first.sources, "boxes": boxes.model_copy(update={"known_at": "packed_at + INTERVAL 1 DAY"})}
    assert features.version(first.model_copy(update={"sources": later})) != features.version(first)

    relabelled = pipeline_of(label={"name": "cost", "value": "cost * 2"})
    assert features.version(relabelled) == features.version(first)
    assert features.label_version(relabelled) != features.label_version(first)
    window = [{"of": "boxes", "by": ["kind"], "over": ["1 day"], "take": {"mean_y": "avg(Y)"}}]
    versions = {
        features.version(pipeline_of(windows=window, label={"name": "y", "value": value}))
        for value in ("cost", "cost + 1")
    }
    assert len(versions) == 2


@pytest.mark.parametrize(
    ("text", "function", "argument"),
    [
        ("count(*)", "count", None),
        ("COUNT( * )", "count", None),
        ("avg(delay)", "avg", "delay"),
        ("Mean(a + (b))", "avg", "a + (b)"),
        ("last(state)", "last", "state"),
        ("stddev_samp(CASE WHEN a = ')' THEN 1 END)", "stddev", "CASE WHEN a = ')' THEN 1 END"),
    ],
)
def test_window_aggregates_are_read_as_spark_reads_them(
    spark: SparkSession, text: str, function: str, argument: str | None
) -> None:
    """One function over one expression."""
    assert aggregates.parse(spark, text) == aggregates.Call(function, argument)


@pytest.mark.parametrize(
    "text",
    [
        "sum(a) / count(*)",
        "count(DISTINCT a)",
        "avg(a) FILTER (WHERE b)",
        "median(a)",
        "a",
        "last(a, true)",
        "sum(*)",
        "avg(a) AS b",
    ],
)
def test_other_expressions_in_a_window_are_refused(spark: SparkSession, text: str) -> None:
    """What the trailing windows do not compute is said, not guessed."""
    with pytest.raises(ConfigError) as error:
        aggregates.parse(spark, text)
    assert str(error.value) == (
        f"{text!r} is not an aggregate for a trailing window: expected one of count, sum, avg, min, max, variance, stddev, last"
        " over one expression, or count(*)."
    )
