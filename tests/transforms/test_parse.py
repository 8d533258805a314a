"""The two CSV readers on files written by hand, and against each other on files that hypothesis invents."""

from __future__ import annotations

import csv
import gzip
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from conf.schema import Source
from transforms import explained, parse
from transforms.explained import FITS, PROBLEMS, RAW
from transforms.parse import FILE, Batch

NEW_YORK = "America/New_York"
SOURCE: dict[str, Any] = {
    "files": "*.csv",
    "nulls": ["NA"],
    "columns": {"id": "int!", "name": "string", "share": "double", "at": "timestamp"},
}
HEADER = ("id", "name", "share", "at")


def source(**changes: Any) -> Source:
    return Source.model_validate({**SOURCE, **changes})


def batch(made: Source | None = None, header: tuple[str, ...] = HEADER, timezone: str = NEW_YORK) -> Batch:
    found, problems = parse.match(made or source(), timezone, header)
    assert problems == []
    return found


def write(folder: Path, text: str | bytes, name: str = "file.csv") -> list[str]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [str(path)]


def values(frame: DataFrame) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in frame.collect()), key=repr)


def problems_by_id(spark: SparkSession, of: Batch, urls: list[str]) -> list[tuple[str, list[str]]]:
    return sorted((row[RAW], row[PROBLEMS]) for row in explained.rows(spark, of, urls).collect())


@pytest.mark.quick
def test_columns_are_found_by_exact_name_then_without_case_then_by_from() -> None:
    made = source(columns={"id": "int", "Name": "string", "share": {"type": "double", "from": "Share %"}})
    found, problems = parse.match(made, "UTC", ("ID", "NAME", "more", "share %"))
    assert problems == []
    assert found.columns == {"id": "ID", "Name": "NAME", "share": "share %"}
    assert found.undeclared == ["more"]


@pytest.mark.quick
def test_missing_and_repeated_names_are_told_together() -> None:
    assert parse.match(source(), "UTC", ("id", "ID", "at"))[1] == [
        "the header has 'id' and 'ID'; expected each name once",
        "expected column(s) name, share; found id, ID, at",
    ]


@pytest.mark.quick
def test_a_header_may_have_a_byte_order_mark_and_quoted_names() -> None:
    assert parse.header_names('\ufeffid,"a, b","c ""d"""\r\n', source()) == ("id", "a, b", 'c "d"')
    assert parse.header_names("id;b", source(delimiter=";")) == ("id", "b")


def test_values_are_read_by_name_whatever_the_order_of_columns(spark: SparkSession, tmp_path: Path) -> None:
    urls = write(tmp_path, "at,more,share,name,id\n2013-01-01 10:00:00,x,1.5,a,1\n2013-07-01T10:00:00Z,,NA,NA,2\n")
    of = batch(header=("at", "more", "share", "name", "id"))
    expected = [
        (1, "a", 1.5, datetime(2013, 1, 1, 15)),  # local time of New York in winter
        (2, None, None, datetime(2013, 7, 1, 10)),
    ]
    for frame in (parse.plain(spark, of, urls), explained.rows(spark, of, urls)):
        assert values(frame.select(*HEADER)) == expected


def test_texts_with_quotes_delimiters_and_a_byte_order_mark(spark: SparkSession, tmp_path: Path) -> None:
    urls = write(
        tmp_path, '\ufeffid,name,share,at\r\n1,"a, ""b""",2,\r\n2," x ",,\r\n\r\n   \r\n3,"",,"2013-01-01"\r\n'
    )
    expected = [
        (1, 'a, "b"', 2.0, None),
        (2, " x ", None, None),
        (3, "", None, datetime(2013, 1, 1, 5)),
    ]
    for frame in (parse.plain(spark, batch(), urls), explained.rows(spark, batch(), urls)):
        assert values(frame.select(*HEADER)) == expected


def test_a_quoted_empty_text_is_null_where_nulls_say_so(spark: SparkSession, tmp_path: Path) -> None:
    urls = write(tmp_path, 'id,name,share,at\n1,"",1,\n')
    of = batch(source(nulls=["", "NA"]))
    assert of.has_plain_reader
    for frame in (parse.plain(spark, of, urls), explained.rows(spark, of, urls)):
        assert values(frame.select("id", "name")) == [(1, None)]


def test_a_quoted_empty_number_is_null_and_no_problem(spark: SparkSession, tmp_path: Path) -> None:
    """Files that quote everything write a missing number as ""; the plain reader leaves such rows to the other one."""
    urls = write(tmp_path, 'id,name,share,at\n"1","a","",""\n')
    assert values(parse.plain(spark, batch(), urls)) == []
    assert values(explained.rows(spark, batch(), urls).select(*HEADER, PROBLEMS)) == [(1, "a", None, None, [])]


def test_every_problem_of_a_row_is_a_sentence(spark: SparkSession, tmp_path: Path) -> None:
    urls = write(
        tmp_path,
        "id,name,share,at\n1.5,a,much,2013-02-30\n99999999999,b,1,yesterday\n3,c,1\n4,d,1,2013-01-01,more\n5,e,1,2013-01-01\n",
    )
    assert problems_by_id(spark, batch(), urls) == [
        ("3,c,1", ["malformed: the line does not have 4 field(s)"]),
        ("4,d,1,2013-01-01,more", ["malformed: the line does not have 4 field(s)"]),
        (
            '{"id":"1.5","name":"a","share":"much","at":"2013-02-30"}',
            ["id: '1.5' is not an int", "share: 'much' is not a double", "at: '2013-02-30' is not a timestamp"],
        ),
        ('{"id":"5","name":"e","share":"1","at":"2013-01-01"}', []),
        (
            '{"id":"99999999999","name":"b","share":"1","at":"yesterday"}',
            ["id: '99999999999' is not an int", "at: 'yesterday' is not a timestamp"],
        ),
    ]


def test_the_raw_text_keeps_what_stands_for_null(spark: SparkSession, tmp_path: Path) -> None:
    urls = write(tmp_path, 'id,name,share,at,Größe "m"\nx,NA,,NA,"a""b"\n')
    of = batch(header=(*HEADER, 'Größe "m"'))
    assert problems_by_id(spark, of, urls) == [
        ('{"id":"x","name":"NA","share":null,"at":"NA","Größe \\"m\\"":"a\\"b"}', ["id: 'x' is not an int"])
    ]


def test_a_local_time_that_a_clock_change_skips_is_a_problem(spark: SparkSession, tmp_path: Path) -> None:
    """02:30 does not exist; 03:30 does; with a zone everything exists; of a repeated hour the first is meant."""
    rows = ["1,,,2013-03-10 02:30:00", "2,,,2013-03-10 03:30:00", "3,,,2013-03-10T07:30:00Z", "4,,,2013-11-03 01:30:00"]
    urls = write(tmp_path, "\n".join(["id,name,share,at", *rows]) + "\n")
    found = explained.rows(spark, batch(), urls).select("id", "at", PROBLEMS)
    told = "at: '2013-03-10 02:30:00' does not exist in America/New_York: a clock change skips it"
    assert values(found) == [
        (1, datetime(2013, 3, 10, 7, 30), [told]),
        (2, datetime(2013, 3, 10, 7, 30), []),
        (3, datetime(2013, 3, 10, 7, 30), []),
        (4, datetime(2013, 11, 3, 5, 30), []),
    ]


OPEN_QUOTE = "malformed: a quote is left open at the end of the line; a value may not span lines"


@pytest.mark.parametrize("as_streams", [False, True])
def test_marks_and_encodings_are_read_alike_by_lines_and_as_streams(
    spark: SparkSession, tmp_path: Path, as_streams: bool
) -> None:
    marked = write(tmp_path, '\ufeffid,name,share,at\n1,café,,\n"2","te,a",NA,', "marked.csv")
    rows = parse.plain(spark, batch(), marked, as_streams=as_streams)
    assert values(rows.select(*HEADER)) == [(1, "café", None, None), (2, "te,a", None, None)]
    latin = write(tmp_path, "id,name,share,at\n1,café,x,\n2,ß,1,\n".encode("latin-1"), "latin.csv")
    rows = parse.plain(spark, batch(source(encoding="latin-1")), latin, as_streams=as_streams)
    assert values(rows.select(*HEADER)) == [(2, "ß", 1.0, None)]


def test_a_value_that_spans_lines_is_malformed_on_each_of_them(spark: SparkSession, tmp_path: Path) -> None:
    """In a last column the plain reader would cut such a value short in silence: `odd` keeps it away from the file."""
    of = batch(source(columns={"id": "int", "name": "string"}), header=("id", "name"))
    urls = write(tmp_path, 'id,name\n1,"two\nlines"\n2,5" disk\n3,"a""b"\n')
    assert problems_by_id(spark, of, urls) == [
        ('1,"two', [OPEN_QUOTE]),
        ('lines"', [OPEN_QUOTE]),
        ('{"id":"2","name":"5\\" disk"}', []),
        ('{"id":"3","name":"a\\"b"}', []),
    ]
    assert [(row["rows"], row["odd"]) for row in parse.count_lines(spark, of.source, urls).collect()] == [(4, 3)]


def test_latin_1_is_told_from_utf_8_and_read_when_declared(spark: SparkSession, tmp_path: Path) -> None:
    urls = write(tmp_path, "id,name,share,at\n1,café,,\n2,tea,,\n".encode("latin-1"))
    told = "malformed: the line is not valid UTF-8; a file in Latin-1 needs `encoding: latin-1`"
    assert problems_by_id(spark, batch(), urls) == [
        ("1,caf\ufffd,,", [told]),
        ('{"id":"2","name":"tea","share":null,"at":null}', []),
    ]
    assert [row["odd"] for row in parse.count_lines(spark, source(), urls).collect()] == [1]
    latin = source(encoding="latin-1")
    assert values(parse.plain(spark, batch(latin), urls).select("name")) == [("café",), ("tea",)]
    assert [row["odd"] for row in parse.count_lines(spark, latin, urls).collect()] == [0]


def test_lines_are_counted_without_header_and_blank_ones_by_file(spark: SparkSession, tmp_path: Path) -> None:
    one = write(tmp_path, "\n id,name,share,at\n1,,,\n\n\t\n 2,,,\nid,name,share,at", "a b+é%20;1.csv")
    two = write(tmp_path, gzip.compress(b"id,name,share,at\n1,,,\n"), "two.csv.gz")
    counts = {
        row[FILE].rsplit("/", 1)[1]: row["rows"] for row in parse.count_lines(spark, source(), one + two).collect()
    }
    assert counts == {"a%20b+é%2520;1.csv": 3, "two.csv.gz": 1}


def test_several_null_texts_have_no_plain_reader(spark: SparkSession, tmp_path: Path) -> None:
    of = batch(source(nulls=["NA", "-"]))
    assert not of.has_plain_reader
    urls = write(tmp_path, "id,name,share,at\n1,-,NA,-\n-,NA,-,\n")
    found = explained.rows(spark, of, urls).select(*HEADER, PROBLEMS, FITS)
    assert values(found) == [(1, None, None, None, [], False), (None, None, None, None, [], False)]


def test_json_lines_with_numbers_in_quotes_and_nested_values(spark: SparkSession, tmp_path: Path) -> None:
    lines = [
        '\ufeff{"id":1,"name":"a","share":1.5,"at":"2013-01-01 10:00:00","more":[1]}',
        '{"id":"2","name":{"n":1},"share":"2.5","at":"2013-01-01T00:00:00Z"}',
        '{"id":3,"name":"NA","share":"NA"}',
        '{"id":4.5,"share":true,"at":"soon"}',
        '{"id":5,"id":6}',
        '[{"id":7},{"id":8}]',
        '{"id":9',
        "",
        "10",
    ]
    urls = write(tmp_path, "\n".join(lines), "file.jsonl")
    made = source(files="*.jsonl")
    of = Batch(made, NEW_YORK, HEADER, {name: name for name in HEADER})
    rows = {row[RAW]: row for row in explained.rows(spark, of, urls).collect()}
    good = [tuple(row[name] for name in HEADER) for row in rows.values() if not row[PROBLEMS]]
    assert sorted(good) == [
        (1, "a", 1.5, datetime(2013, 1, 1, 15)),
        (2, '{"n":1}', 2.5, datetime(2013, 1, 1)),
        (3, None, None, None),
    ]
    assert {raw: row[PROBLEMS] for raw, row in rows.items() if row[PROBLEMS]} == {
        lines[3]: ["id: '4.5' is not an int", "share: 'true' is not a double", "at: 'soon' is not a timestamp"],
        lines[4]: ["malformed: the object has the same name twice"],
        lines[5]: ["malformed: expected one JSON object on the line, found an array"],
        lines[6]: ["malformed: the line is not a JSON object"],
        lines[8]: ["malformed: the line is not a JSON object"],
    }
    assert [row["rows"] for row in parse.count_lines(spark, made, urls).collect()] == [8]
    assert parse.json_keys(spark, urls) == ["at", "id", "more", "name", "share"]


def test_parquet_values_are_taken_by_type_or_converted_without_loss(spark: SparkSession, tmp_path: Path) -> None:
    rows = """
        (1L, 'a', CAST(0.5 AS FLOAT), TIMESTAMP_NTZ'2013-01-01 10:00:00'),
        (3000000000L, 'NA', NULL, TIMESTAMP_NTZ'2013-03-10 02:30:00')
    """
    written = spark.sql(f"SELECT * FROM VALUES {rows} AS t(ID, name, share, at)").coalesce(1)
    written.write.parquet(str(tmp_path / "file.parquet"))
    urls = [str(path) for path in (tmp_path / "file.parquet").glob("*.parquet")]
    of = batch(source(files="*.parquet"), header=("ID", "name", "share", "at"))
    told = "at: '2013-03-10 02:30:00' does not exist in America/New_York: a clock change skips it"
    found = explained.rows(spark, of, urls).select(*HEADER, PROBLEMS)
    assert values(found) == [
        (1, "a", 0.5, datetime(2013, 1, 1, 15), []),
        (None, None, None, datetime(2013, 3, 10, 7, 30), ["id: '3000000000' is not an int", told]),
    ]
    assert [row["rows"] for row in parse.count_lines(spark, of.source, urls).collect()] == [2]


FIELD = st.one_of(
    st.sampled_from(
        ["", "NA", "1", "-7", "1.5", "1e400", "NaN", "2013-03-10 02:30:00", "2013-01-01T00:00:00Z", '"', '""', "é", " "]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00\x01\x02\x03\ufeff"), max_size=6),
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(FIELD, min_size=1, max_size=6), min_size=1, max_size=40))
def test_both_readers_keep_the_same_rows_with_the_same_values(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    """On lines without open quotes, what the plain reader leaves out is what the other finds unfit; and every line is counted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    urls = write(tmp_path_factory.mktemp("csv"), "id,name,share,at\n" + text.getvalue())
    lines = explained.rows(spark, batch(), urls)
    assert values(parse.plain(spark, batch(), urls).select(*HEADER)) == values(lines.filter(FITS).select(*HEADER))
    assert lines.count() == parse.count_lines(spark, source(), urls).collect()[0]["rows"]
