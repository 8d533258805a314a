"""Both counts of lines agree on whatever stands in a file: Spark's reader of lines is the oracle of the arrays of bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.schema import Source
from transforms import line_counts
from transforms.line_counts import count_lines
from transforms.parse import FILE

PIECES = [
    b"a", b"1,2", b"\n", b"\n", b"\n", b"\r\n", b"\r", b'"', b'"', b" ", b"\t", b"\x00", b"\x1f", b"!", "é".encode(), "\U0001f600".encode(),
    b"\xe9", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", "\ufffd".encode(), "\ufeff".encode(),
]  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_arrays_of_bytes_count_as_spark_does(spark: SparkSession, tmp_path: Path, kind: str, encoding: str) -> None:
    draw = random.Random(5)
    contents = [b"", b"\n", b" ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n\n", b"a", b"a\n", b"\r\r\na"]
    contents += [b"".join(draw.choices(PIECES, k=draw.randint(1, 40))) for _ in range(200)]
    for number, content in enumerate(contents):
        (tmp_path / f"{number} é%.{kind}").write_bytes(content)
    of = Source.model_validate({"files": f"*.{kind}", "encoding": encoding, "columns": {"a": "string"}})
    urls = [str(path) for path in tmp_path.iterdir()]

    whole, lines = (
        {row[FILE]: (row["rows"], row["odd"]) for row in count(spark, of, urls).collect()}
        for count in (line_counts.count_whole, line_counts.count)
    )

    assert len(lines) > 150
    assert (sum(odd for _, odd in lines.values()) > 50) == ((kind, encoding) != ("json", "latin-1"))
    assert whole == lines


@pytest.mark.quick
def test_lines_and_odd_ones() -> None:
    """Two of four lines hold something; of those one is odd."""
    assert count_lines(b'id,name\n\n \t\n1,"b\n', is_csv=True, is_utf8=True) == (2, 1)
    assert count_lines(b'id,name\n\n \t\n1,"b\n', is_csv=False, is_utf8=True) == (2, 0)
    assert count_lines(b"caf\xe9\n", is_csv=True, is_utf8=True) == (1, 1)
    assert count_lines(b"caf\xe9\n", is_csv=True, is_utf8=False) == (1, 0)
