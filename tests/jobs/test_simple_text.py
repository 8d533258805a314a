"""What the bytes of a CSV file say, against Python's own csv module and against Spark's readers."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from conf.schema import Source
from jobs import simple_text
from jobs.simple_text import PIECE, SimpleText
from transforms import parse

SOURCE = Source.model_validate({"files": "*.csv", "columns": {"a": "string", "b": "string"}})


def read(folder: Path, content: bytes, *, delimiter: str = ",", is_utf8: bool = True) -> SimpleText | None:
    path = folder / "file.csv"
    path.write_bytes(content)
    return simple_text.read(str(path), delimiter=delimiter, is_utf8=is_utf8)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", SimpleText(0, b"")),
        (b"a,b", SimpleText(1, b"a,b")),
        (b"a,b\n1,2\n", SimpleText(2, b"a,b")),
        (b"a,b\n1,2", SimpleText(2, b"a,b")),
        (b'"a","b"\n"1, 2","say ""so"""\n"",2\n', SimpleText(3, b'"a","b"')),
        ("\ufeffa,b\né,ß\n".encode(), SimpleText(2, "\ufeffa,b".encode())),
    ],
)
def test_lines_are_counted_where_each_is_one_record(tmp_path: Path, content: bytes, found: SimpleText) -> None:
    assert read(tmp_path, content) == found


@pytest.mark.quick
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"a,b\r\n1,2\r\n", id="carriage returns"),
        pytest.param(b"a,b\n1\r2\n", id="one carriage return"),
        pytest.param(b"\na,b\n1,2\n", id="blank first line"),
        pytest.param(b"a,b\n\n1,2\n", id="blank line"),
        pytest.param(b"a,b\n 1,2\n", id="line that begins with a blank"),
        pytest.param(b"a,b\n\x001,2\n", id="line that begins with a control character"),
        pytest.param(b'a,b\n"1\n2",3\n', id="quoted value over two lines"),
        pytest.param(b'a,b\nx"y,"z\nu,"v"\n', id="an even number of quotes that leaves a value open"),
        pytest.param(b'a,b\n"1" ,2\n', id="blank after a quoted value"),
        pytest.param(b'a,b\n1, "2"\n', id="blank before a quoted value"),
        pytest.param(b'a,b\n"1,2\n', id="open quote"),
        pytest.param(b"a,b\ncaf\xe9,2\n", id="not UTF-8"),
        pytest.param("a,b\n\ufffd,2\n".encode(), id="replacement character"),
        pytest.param(b"a" * (2 * PIECE + 1) + b"\n", id="line longer than two pieces"),
    ],
)
def test_everything_else_is_left_to_another_look(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) is None


@pytest.mark.quick
def test_the_delimiter_and_the_encoding_decide_what_is_simple(tmp_path: Path) -> None:
    assert read(tmp_path, b'a;b\n"1";2\n', delimiter=";") == SimpleText(2, b"a;b")
    assert read(tmp_path, b'a;b\n"1";2\n') is None
    assert read(tmp_path, "a¦b\n".encode(), delimiter="¦") is None
    assert read(tmp_path, b"a,b\ncaf\xe9,2\n", is_utf8=False) == SimpleText(2, b"a,b")


@pytest.mark.quick
def test_pieces_end_anywhere_in_a_line(tmp_path: Path) -> None:
    """Lines of every length around the end of a piece, with characters of two bytes and quoted values across it."""
    for width in (7, 8, 9, 1000, 1001):
        line = f'"é",{"x" * width}\n'.encode()
        count = 2 * PIECE // len(line) + 3
        assert read(tmp_path, line * count) == SimpleText(count, line[:-1])


LINES = st.lists(st.text(alphabet='ab1"," \t\ré', max_size=8), max_size=6)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=LINES, ends=st.booleans())
def test_a_file_found_simple_has_one_record_a_line(tmp_path: Path, lines: list[str], ends: bool) -> None:
    content = "\n".join(lines) + ("\n" if ends and lines else "")
    found = read(tmp_path, content.encode())
    if found is None:
        return
    split = content.removesuffix("\n").split("\n") if content else []
    assert found == SimpleText(len(split), split[0].encode() if split else b"")
    together = list(csv.reader(content.splitlines(keepends=True), strict=True))
    assert together == [row for line in split for row in csv.reader([line], strict=True)]
    assert len(together) == len(split)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(contents=st.lists(LINES, min_size=40, max_size=40))
def test_spark_reads_a_simple_file_as_a_stream_as_it_does_line_by_line(
    spark: SparkSession, tmp_path: Path, contents: list[list[str]]
) -> None:
    """Rows and what is null in them, of files that hypothesis invents; those that are not simple are left out."""
    of, _ = parse.match(SOURCE, "UTC", ("a", "b"))
    urls = []
    for number, lines in enumerate(contents):
        path = tmp_path / f"{number}.csv"
        path.write_text("\n".join(["a,b", *lines, "last,line"]), newline="")
        if simple_text.read(str(path), delimiter=",", is_utf8=True):
            urls.append(str(path))
    if urls:
        streamed, by_line = (parse.plain(spark, of, urls, as_streams=choice) for choice in (True, False))
        assert sorted(map(repr, streamed.collect())) == sorted(map(repr, by_line.collect()))
