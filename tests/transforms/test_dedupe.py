"""Against a total order written in plain Python, and against itself in every order of arrival."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Source
from transforms import contracts, dedupe
from transforms.dedupe import KIND, STORED

KEYED = Source.model_validate({"files": "*.csv", "columns": {"k": "int", "v": "string", "n": "int"}, "key": ["k"]})
CONTRACT = contracts.silver("p", "s", KEYED, {})
KEYLESS = KEYED.model_copy(update={"key": ()})
KEYLESS_CONTRACT = contracts.silver("p", "s", KEYLESS, {})

Rows = list[tuple[Any, ...]]


def candidates(spark: SparkSession, rows: Rows) -> DataFrame:
    """Rows of (k, v, n, file, stored) in two partitions."""
    frame = spark.createDataFrame(rows, "k int, v string, n int, _file string, _stored boolean").repartition(2)
    return frame.withColumn("_delivery", F.lit("d")).select(*CONTRACT.columns, STORED)


def kinds(spark: SparkSession, rows: Rows, latest: str | None = None) -> list[tuple[Any, ...]]:
    found = dedupe.resolve(candidates(spark, rows), CONTRACT, latest=latest).select("k", "v", "_file", KIND)
    return sorted((tuple(row) for row in found.collect()), key=repr)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("path", "date"),
    [
        ("orders/2024-01-05.csv", "20240105"),
        ("orders/20240105.csv", "20240105"),
        ("orders/year=2024/month=01/day=05/part-0.csv", "20240105"),
        ("orders/2024/01/05/a.csv", "20240105"),
        ("orders/dt=2024-01-05/a.csv", "20240105"),
        ("2019-12-31/orders_2024_01.csv", "202401"),
        ("orders/2024-13-01.csv", ""),
        ("orders/120240105.csv", ""),
        ("orders/all.csv", ""),
    ],
)
def test_the_last_date_of_a_path_counts(path: str, date: str) -> None:
    assert dedupe.rank_of(path) == (date, path)


@settings(max_examples=5, deadline=None)
@given(
    st.lists(
        st.from_regex(
            r"[a-z/_.=-]{0,3}(20[12][0-9][-_/.]?[0-9]{2}[-_/.]?[0-9]{0,4}|day=|x)[0-9a-z/.-]{0,6}", fullmatch=True
        ),
        min_size=50,
        max_size=80,
    )
)
def test_driver_and_workers_read_the_same_dates(spark: SparkSession, paths: list[str]) -> None:
    frame = spark.createDataFrame([(path,) for path in paths], "path string")
    found = frame.select("path", F.coalesce(dedupe.delivery_date(F.col("path")), F.lit("")).alias("date")).collect()
    assert [(row["date"], row["path"]) for row in found] == [dedupe.rank_of(row["path"]) for row in found]


def test_the_highest_rank_is_the_row_of_its_key(spark: SparkSession) -> None:
    """The delivery date in the path comes before the path; rows of one file go by their content."""
    rows = [
        (1, "old", 0, "b/2024-01-01.csv", False),
        (1, "new", 0, "a/2024-01-02.csv", False),
        (2, "undated", 0, "z.csv", False),
        (2, "dated", 0, "a/2023-01.csv", False),
        (3, "twice", 0, "a.csv", False),
        (3, "twice", 0, "a.csv", False),
        (None, "null", 0, "a.csv", False),
        (None, "later null", 0, "b.csv", False),
    ]
    assert kinds(spark, rows) == sorted(
        [
            (1, "old", "b/2024-01-01.csv", "duplicate"),
            (1, "new", "a/2024-01-02.csv", None),
            (2, "undated", "z.csv", "duplicate"),
            (2, "dated", "a/2023-01.csv", None),
            (3, "twice", "a.csv", None),
            (3, "twice", "a.csv", "duplicate"),
            (None, "null", "a.csv", "duplicate"),
            (None, "later null", "b.csv", None),
        ],
        key=repr,
    )


def test_a_stored_row_leaves_only_for_one_that_ranks_higher_and_differs(spark: SparkSession) -> None:
    rows = [
        (1, "same", 0, "2024-01-01.csv", True),
        (1, "same", 0, "2024-01-02.csv", False),
        (2, "before", 0, "2024-01-01.csv", True),
        (2, "after", 0, "2024-01-02.csv", False),
        (3, "after", 0, "2024-01-02.csv", True),
        (3, "before", 0, "2024-01-01.csv", False),
        (4, "first content", 0, "2024-01-01.csv", True),
        (4, "corrected", 0, "2024-01-01.csv", False),
        (5, "before", 0, "2024-01-01.csv", True),
        (5, "after", 0, "2024-01-02.csv", False),
        (5, "before", 0, "2024-01-01.csv", False),
    ]
    assert kinds(spark, rows) == sorted(
        [
            (1, "same", "2024-01-01.csv", None),
            (1, "same", "2024-01-02.csv", "unchanged"),
            (2, "before", "2024-01-01.csv", "superseded"),
            (2, "after", "2024-01-02.csv", None),
            (3, "after", "2024-01-02.csv", None),
            (3, "before", "2024-01-01.csv", "superseded"),
            (4, "first content", "2024-01-01.csv", "superseded"),
            (4, "corrected", "2024-01-01.csv", None),
            (5, "before", "2024-01-01.csv", "superseded"),
            (5, "after", "2024-01-02.csv", None),
            (5, "before", "2024-01-01.csv", "duplicate"),
        ],
        key=repr,
    )


@pytest.mark.parametrize(
    ("latest", "expected"),
    [("n", "large"), ("n desc", "large"), ("n ASC", "small"), ("n desc nulls first", "none"), ("-n", "small")],
)
def test_latest_comes_before_every_path(spark: SparkSession, latest: str, expected: str) -> None:
    rows = [
        (1, "small", 1, "2024-01-03.csv", False),
        (1, "large", 2, "2024-01-01.csv", False),
        (1, "none", None, "2024-01-02.csv", False),
    ]
    chosen = [row[1] for row in kinds(spark, rows, latest) if row[3] is None]
    assert chosen == [expected]


def test_equal_rows_of_a_file_without_key_are_numbered_and_a_copy_of_the_file_counts_once(spark: SparkSession) -> None:
    rows = [(1, "a", 0, "x.csv", False)] * 2 + [(1, "a", 0, "copy.csv", False)] * 3 + [(1, "b", 0, "x.csv", False)]
    frame = spark.createDataFrame(rows, "k int, v string, n int, _file string, _stored boolean").repartition(2)
    frame = frame.withColumns({"row_id": dedupe.row_id(KEYLESS.columns), "_delivery": F.lit("d")})
    found = dedupe.resolve(frame.select(*KEYLESS_CONTRACT.columns, STORED), KEYLESS_CONTRACT, latest=None)
    rows_kept = found.filter(F.col(KIND).isNull()).select(
        "v", F.substring_index("row_id", ":", -1).alias("ordinal"), "_file"
    )
    assert sorted(tuple(row) for row in rows_kept.collect()) == [
        ("a", "1", "x.csv"),
        ("a", "2", "x.csv"),
        ("a", "3", "copy.csv"),
        ("b", "1", "x.csv"),
    ]


def test_content_tells_nulls_columns_and_microseconds_apart(spark: SparkSession) -> None:
    rows = spark.sql(
        """
        SELECT * FROM VALUES (NULL, 'x', TIMESTAMP'2024-01-01 00:00:00.000001'), ('x', NULL, TIMESTAMP'2024-01-01 00:00:00.000001'),
            ('x', '', TIMESTAMP'2024-01-01 00:00:00.000001'), ('x', NULL, TIMESTAMP'2024-01-01 00:00:00.000002') AS t(a, b, at)
        """
    )
    assert rows.select(dedupe.content_hash(["a", "b", "at"])).distinct().count() == 4


def test_only_repeated_keys_and_those_in_the_table_are_contested(spark: SparkSession) -> None:
    incoming = candidates(spark, [(k, "", 0, "a.csv", False) for k in (1, 2, 2, 3)])
    stored = candidates(spark, [(k, "", 0, "b.csv", True) for k in (3, 4, 4)])
    hashes = {
        row["k"]: row["h"]
        for row in incoming.unionByName(stored).select("k", dedupe.key_hash(CONTRACT).alias("h")).collect()
    }
    alone = {row[0] for row in dedupe.repeated(incoming, CONTRACT).collect()}
    beside = {row[0] for row in dedupe.repeated(incoming, CONTRACT, stored).collect()}
    assert (alone, beside) == ({hashes[2]}, {hashes[2], hashes[3]})


ROW = st.tuples(
    st.integers(0, 3),
    st.sampled_from("abc"),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([f"2024-01-0{d}.csv" for d in range(1, 6)]),
    st.just(False),
)


@settings(max_examples=8, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=40), st.sampled_from([None, "n"]))
def test_the_chosen_rows_are_those_of_a_plain_sort(spark: SparkSession, rows: Rows, latest: str | None) -> None:
    """Rows of one file with the same key and order differ only in content, of which any total order will do: these have none."""
    rows = list({(k, n, file): (k, v, n, file, stored) for k, v, n, file, stored in rows}.values())
    if latest is None:
        rows = list({(k, file): (k, v, n, file, stored) for k, v, n, file, stored in rows}.values())
    expected: dict[int, tuple[Any, ...]] = {}
    for k, v, _n, file, _stored in sorted(rows, key=lambda r: ((r[2] or 0) if latest else 0, r[3])):
        expected[k] = (k, v, file, None)
    assert [row for row in kinds(spark, rows, latest) if row[3] is None] == sorted(expected.values(), key=repr)
