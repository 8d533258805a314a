"""Labels: encoding by task, what is refused, and from when a label counts. Values against an oracle are in tests/system/test_no_leak.py."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from conf.schema import Pipeline
from transforms import labels, spine
from transforms.errors import ContractError

RUN_DATE = date(2024, 3, 10)
NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def pipeline_of(
    task: str, value: str, *, source: dict[str, Any] | None = None, features: dict[str, Any] | None = None, **more: Any
) -> Pipeline:
    """One source `jobs` with a text, a number and a moment."""
    jobs = {
        "files": "jobs.csv",
        "key": ["id"],
        "columns": {"id": "int!", "state": "string", "score": "double", "at": "timestamp"},
    }
    return Pipeline.model_validate(
        {
            "pipeline": "p",
            "task": task,
            "timezone": "Europe/Berlin",
            "sources": {"jobs": jobs | (source or {})},
            "features": {"spine": "jobs", "label": {"name": "y", "value": value}} | (features or {}),
            "split": {"test": {"share": 0.2}},
            "train": {"metric": "rmse", "candidates": {"c": {"estimator": "linear_regression"}}},
        }
        | more
    )


def jobs(spark: SparkSession, rows: list[tuple[Any, ...]]) -> DataFrame:
    return spark.createDataFrame(
        spark.sparkContext.parallelize(rows, 2), "id int, state string, score double, at timestamp"
    )


def found(frame: DataFrame, pipeline: Pipeline) -> dict[int, Any]:
    sources = {"jobs": frame}
    rows = spine.rows(sources, pipeline, run_date=RUN_DATE)
    made = labels.labelled(rows, sources, pipeline, run_date=RUN_DATE)
    assert made.columns == ["id", "as_of", "label", "label_known_at"]
    assert [field.dataType.simpleString() for field in made.schema][2:] == ["double", "timestamp"]
    return {row["id"]: row["label"] for row in made.collect()}


def test_a_class_becomes_its_index_and_null_stays_unlabelled(spark: SparkSession) -> None:
    """The order of `classes` in the file is the order of the indices."""
    pipeline = pipeline_of("multiclass", "lower(state)", classes=["open", "won", "lost"])
    frame = jobs(
        spark, [(1, "LOST", None, None), (2, "open", None, None), (3, None, None, None), (4, "Won", None, None)]
    )
    assert found(frame, pipeline) == {1: 2.0, 2: 0.0, 3: None, 4: 1.0}


@pytest.mark.parametrize(
    ("task", "value", "problem"),
    [
        (
            "multiclass",
            "state",
            "expected one of the classes a, b, found in 5 rows other values: 'c' (3 rows), 'A' (1 rows), 'd' (1 rows)."
            " Add them to `classes`, or map them in the label's `value`.",
        ),
        (
            "binary",
            "score",
            "expected 0 or 1, found in 4 rows other values: '2.0' (2 rows), '0.5' (1 rows), 'NaN' (1 rows)."
            " Make the label's `value` 0 or 1, such as CAST(delay > 15 AS DOUBLE), or refuse such rows by a rule.",
        ),
        (
            "regression",
            "score",
            "expected finite numbers, found in 1 rows other values: 'NaN' (1 rows)."
            " Refuse such rows by a rule, or make the label's `value` null for them.",
        ),
    ],
)
def test_values_that_the_task_does_not_allow_are_refused_by_count(
    spark: SparkSession, task: str, value: str, problem: str
) -> None:
    """The commonest first, those of equal count by name; nulls are no values."""
    pipeline = pipeline_of(task, value, classes=["a", "b"] if task == "multiclass" else [])
    rows = [("a", 0.0), ("c", 2.0), ("c", 2.0), ("A", 1.0), ("d", 0.5), ("c", float("nan")), ("b", 1.0), (None, None)]
    with pytest.raises(ContractError) as error:
        found(jobs(spark, [(n, *row, None) for n, row in enumerate(rows)]), pipeline)
    assert str(error.value) == f"features.label.y: {problem}"


def test_many_wrong_values_are_counted_and_the_first_five_shown(spark: SparkSession) -> None:
    """A regression column taken for a class does not flood the message."""
    frame = jobs(spark, [(n, None, float(n), None) for n in range(2, 12)])
    with pytest.raises(ContractError) as error:
        found(frame, pipeline_of("binary", "score"))
    assert str(error.value) == (
        "features.label.y: expected 0 or 1, found in 10 rows other values: '10.0' (1 rows), '11.0' (1 rows), '2.0' (1 rows), '3.0' (1 rows),"
        " '4.0' (1 rows) and 5 more. Make the label's `value` 0 or 1, such as CAST(delay > 15 AS DOUBLE), or refuse such rows by a rule."
    )


def test_a_truth_value_is_0_or_1(spark: SparkSession) -> None:
    """`state = 'won'` needs no cast."""
    frame = jobs(spark, [(1, "won", None, None), (2, "open", None, None), (3, None, None, None)])
    assert found(frame, pipeline_of("binary", "state = 'won'")) == {1: 1.0, 2: 0.0, 3: None}


def test_a_label_known_on_the_run_date_does_not_count(spark: SparkSession) -> None:
    """The day begins at midnight in Berlin, an hour before UTC's; the row's own `at` tells where no outcome is declared."""
    midnight = datetime(2024, 3, 9, 23, tzinfo=UTC)
    frame = jobs(
        spark, [(1, None, 7.0, midnight - timedelta(microseconds=1)), (2, None, 8.0, midnight), (3, None, 9.0, None)]
    )
    assert found(frame, pipeline_of("regression", "score", source={"at": "at"})) == {1: 7.0, 2: None, 3: None}


def test_the_latest_gate_of_the_outcomes_used_decides(spark: SparkSession) -> None:
    """Two outcomes in one value: known when both are; a null gate is never reached. Only what is used counts."""
    outcomes = [
        {"columns": ["score"], "known_at": "at"},
        {
            "columns": ["state"],
            "known_at": "CASE WHEN state = 'x' THEN at + INTERVAL 20 DAYS WHEN state = 'y' THEN at END",
        },
    ]
    source = {"outcomes": outcomes, "at": "at"}
    frame = jobs(spark, [(1, "x", 1.0, NOON), (2, "y", 2.0, NOON), (3, "z", 3.0, NOON)])
    assert found(frame, pipeline_of("regression", "score + length(state)", source=source)) == {1: None, 2: 3.0, 3: None}
    assert found(frame, pipeline_of("regression", "SCORE * 2", source=source)) == {1: 2.0, 2: 4.0, 3: 6.0}


def test_a_derived_column_waits_for_the_outcomes_it_is_made_of(spark: SparkSession) -> None:
    """Not listed itself, it is known when they are."""
    source = {
        "at": "at",
        "derive": {"doubled": "score * 2", "more": "Doubled + 1"},
        "outcomes": [{"columns": ["score"], "known_at": "at + INTERVAL 9 DAYS"}],
    }
    frame = jobs(spark, [(1, None, 1.0, NOON), (2, None, 2.0, NOON - timedelta(days=5))]).selectExpr(
        "*", "score * 2 AS doubled", "score * 2 + 1 AS more"
    )
    assert found(frame, pipeline_of("regression", "more", source=source)) == {1: None, 2: 5.0}


def test_without_any_time_every_label_counts(spark: SparkSession) -> None:
    """No `as_of`, no `at`: there is no run date to hold a label back, and it is known at no moment."""
    source = {"outcomes": [{"columns": ["score"], "known_at": "timestamp'2090-01-01'"}]}
    pipeline = pipeline_of("regression", "score", source=source)
    rows = spine.rows({"jobs": jobs(spark, [(1, None, 4.0, None)])}, pipeline, run_date=RUN_DATE)
    made = labels.labelled(rows, {}, pipeline, run_date=RUN_DATE)
    assert [tuple(row) for row in made.collect()] == [(1, None, 4.0, None)]


def test_a_label_whose_column_is_empty_is_unlabelled(spark: SparkSession) -> None:
    """Files that come without the label column bring nulls: rows to score."""
    source = {"at": "at", "outcomes": [{"columns": ["state"], "known_at": "at + INTERVAL 1 DAY"}]}
    frame = jobs(spark, [(1, None, None, NOON), (2, None, None, NOON)])
    assert found(frame, pipeline_of("binary", "CAST(state = 'late' AS DOUBLE)", source=source)) == {1: None, 2: None}


def test_the_future_of_a_table_without_time_is_refused(spark: SparkSession) -> None:
    """There is nothing that could lie ahead."""
    label = {"name": "y", "value": "count(*)", "of": "other", "by": ["id"], "within": "1 day"}
    pipeline = pipeline_of("regression", "score", source={"at": "at"}, features={"as_of": "at", "label": label})
    sources = {**pipeline.sources, "other": pipeline.sources["jobs"].model_copy(update={"at": None})}
    pipeline = pipeline.model_copy(update={"sources": sources})
    frame = jobs(spark, [(1, None, None, NOON)])
    rows = spine.rows({"jobs": frame}, pipeline, run_date=RUN_DATE)
    with pytest.raises(ContractError) as error:
        labels.labelled(rows, {"jobs": frame, "other": frame}, pipeline, run_date=RUN_DATE)
    assert (
        str(error.value)
        == "features.label: other has no time, so it has no future to take a label from. Give sources.other an `at`."
    )
