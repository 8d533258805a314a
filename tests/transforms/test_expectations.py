"""Verdicts against pandas; what is no verdict is an error."""

from __future__ import annotations

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from transforms.errors import ConfigError, ContractError
from transforms.expectations import judge

ROWS = pd.DataFrame({"n": [1.0, 2.0, 3.0, None], "word": ["a", "b", "b", "c"]})


def test_verdicts_come_in_order_with_what_was_observed(spark: SparkSession) -> None:
    frame = spark.createDataFrame(
        ROWS.astype(object).where(ROWS.notna(), None).values.tolist(), "n double, word string"
    ).repartition(2)
    mean = {"expect_column_mean_to_be_between": {"column": "n", "min_value": 0, "max_value": 1.5}}
    verdicts = judge(
        frame,
        [
            mean,
            {"expect_table_row_count_to_be_between": {"min_value": 4}},
            {"expect_column_values_to_not_be_null": {"column": "n", "mostly": 0.7}},
            {"expect_column_values_to_be_in_set": {"column": "word", "value_set": ["a", "b"]}},
            mean,
        ],
        name="sources.s.expect",
    )
    missing = int(ROWS["n"].isna().sum())
    assert [(v.id, v.type, v.success) for v in verdicts] == [
        ("sources.s.expect:1", "expect_column_mean_to_be_between", False),
        ("sources.s.expect:2", "expect_table_row_count_to_be_between", True),
        ("sources.s.expect:3", "expect_column_values_to_not_be_null", True),
        ("sources.s.expect:4", "expect_column_values_to_be_in_set", False),
        ("sources.s.expect:5", "expect_column_mean_to_be_between", False),
    ]
    assert [verdicts[0].observed, verdicts[1].observed] == [ROWS["n"].mean(), len(ROWS)]
    assert verdicts[2].observed == {"element_count": 4, "unexpected_count": missing, "unexpected_percent": 25.0}
    assert verdicts[0].sentence() == "expect_column_mean_to_be_between of n (min_value=0, max_value=1.5): found 2.0"
    assert (
        verdicts[3].sentence()
        == "expect_column_values_to_be_in_set of word (value_set=['a', 'b']): found 1 unexpected of 4"
    )
    assert not frame.is_cached


def test_nothing_is_judged_of_values_that_are_not_there(spark: SparkSession) -> None:
    """A vacuous pass is none; the number of rows can be judged."""
    verdicts = judge(
        spark.createDataFrame([], "n double"),
        [
            {"expect_column_values_to_not_be_null": {"column": "n"}},
            {"expect_table_row_count_to_be_between": {"min_value": 1}},
        ],
        name="s",
    )
    assert [verdict.success for verdict in verdicts] == [None, False]


def test_an_expectation_that_cannot_be_computed_is_an_error_not_a_verdict(spark: SparkSession) -> None:
    frame = spark.createDataFrame([("a",)], "word string")
    with pytest.raises(ContractError) as caught:
        judge(frame, [{"expect_column_mean_to_be_between": {"column": "word", "min_value": 0}}], name="s")
    assert str(caught.value).startswith("s: expect_column_mean_to_be_between could not be judged: ")
    assert str(caught.value).endswith(". This is no verdict on the data; correct the expectation.")


@pytest.mark.parametrize(
    ("expectation", "told"),
    [
        ({"expect_nothing": {}}, "s: expect_nothing is not an expectation of Great Expectations"),
        (
            {"expect_column_mean_to_be_between": {"colum": "n"}},
            "s: expect_column_mean_to_be_between does not take these arguments",
        ),
    ],
)
def test_unknown_expectations_and_arguments_are_configuration_errors(
    spark: SparkSession, expectation: dict[str, dict[str, str]], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        judge(spark.createDataFrame([(1.0,)], "n double"), [expectation], name="s")
    assert str(caught.value).startswith(told)
