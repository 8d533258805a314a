"""Folders of files against what Python itself finds in them."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.schema import Source
from jobs.landing import Landing, RawFile
from jobs.simple_text import SimpleText
from transforms.errors import ContractError

NAMES = ["a/2024-01.csv", "a/b c+%20é[1]{x}.csv", "a/deep/er/c.csv", "b.csv"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A root whose own name holds characters that globs and URLs give a meaning."""
    root = tmp_path / "raw [1] {x}"
    for name in [*NAMES, "a/_hidden.csv", "a/.hidden.csv", "a/deep/_temporary/d.csv"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"id\n{len(name)}\n")
    return root


def listed(landing: Landing, pattern: str) -> list[str]:
    return [file.path for file in landing.files(pattern)]


def test_a_file_is_known_by_the_hash_of_its_bytes(spark: SparkSession, raw: Path) -> None:
    content = (raw / "b.csv").read_bytes()
    assert Landing(spark, str(raw)).files("b.csv") == [
        RawFile("b.csv", "sha256:" + hashlib.sha256(content).hexdigest(), len(content))
    ]


def test_patterns_match_files_and_folders_and_no_hidden_names(spark: SparkSession, raw: Path) -> None:
    landing = Landing(spark, str(raw))
    assert listed(landing, "a/*.csv") == sorted(NAMES[:2])
    assert listed(landing, "a") == sorted(NAMES[:3])
    assert listed(landing, "*.csv") == ["b.csv"]
    assert listed(landing, "nothing/*.csv") == []


def test_spark_reads_every_name_and_its_paths_are_told_back(spark: SparkSession, raw: Path) -> None:
    landing = Landing(spark, str(raw))
    files = landing.files("a")
    frame = spark.read.text(landing.urls(file.path for file in files))
    assert frame.count() == 2 * len(files)
    paths = frame.select(F.input_file_name().alias("url")).distinct()
    assert sorted(row[0] for row in paths.select(landing.relative(F.col("url"), files)).collect()) == sorted(NAMES[:3])
    assert {landing.encoded(files)[row["url"]] for row in paths.collect()} == set(NAMES[:3])


def test_changed_and_vanished_files_are_told(spark: SparkSession, raw: Path) -> None:
    landing = Landing(spark, str(raw))
    files = landing.files("a/*.csv") + landing.files("b.csv")
    assert landing.differences(files) == []
    (raw / "b.csv").write_text("id\n6\n")
    (raw / NAMES[0]).unlink()
    now = hashlib.sha256(b"id\n6\n").hexdigest()
    assert landing.differences(files) == [
        f"{landing.url(NAMES[0])}: was listed, and is gone now",
        f"{landing.url('b.csv')}: was listed with content {files[-1].etag}, and has sha256:{now} now",
    ]


def test_a_file_that_cannot_be_read_is_named(spark: SparkSession, raw: Path) -> None:
    landing = Landing(spark, str(raw))
    files = landing.files("b.csv")
    source = Source.model_validate({"files": "*.csv", "columns": {"id": "int"}})
    assert landing.simple_texts(files, source) == {"b.csv": SimpleText(2, b"id")}
    (raw / "b.csv").unlink()
    (raw / "b.csv").mkdir()  # permissions do not keep root from reading
    with pytest.raises(ContractError, match=r"b\.csv: cannot be read: Is a directory\."):
        landing.simple_texts(files, source)


def test_only_plain_csv_files_are_simple(spark: SparkSession, tmp_path: Path) -> None:
    """A compressed file is known by its name, as Spark knows it, whatever its bytes."""
    for name in ("1.csv", "2.csv.gz", "3"):
        (tmp_path / name).write_text("id\n1\n")
    (tmp_path / "4.csv").write_text("id\n1\n\n2\n")
    (tmp_path / "5.csv").write_text("x" * 200_000)
    landing = Landing(spark, str(tmp_path))
    files = landing.files("*")
    source = {"files": "*", "format": "csv", "columns": {"id": "int"}}
    text = SimpleText(2, b"id")
    assert landing.simple_texts(files, Source.model_validate(source)) == {"1.csv": text, "3": text}
    assert landing.simple_texts(files, Source.model_validate({**source, "format": "json"})) == {}


def test_first_lines_of_plain_compressed_marked_and_empty_files(spark: SparkSession, tmp_path: Path) -> None:
    contents = {
        "1.csv": b"\xef\xbb\xbfid,name\r\n1,a\r\n",
        "2.csv": b"\n \t\nid;x\rrest",
        "3.csv": b"",
        "4.csv": b"only",
        "5.csv.gz": gzip.compress(b"zipped\n1\n"),
        "6.csv": "größe\n".encode("latin-1"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    landing = Landing(spark, str(tmp_path))
    lines = landing.first_lines(landing.files("*"), "UTF-8")
    assert [line.removeprefix("\ufeff") for line in lines] == [
        "id,name",
        "id;x",
        "",
        "only",
        "zipped",
        "gr\ufffd\ufffde",
    ]
    assert landing.first_lines(landing.files("6.csv"), "ISO-8859-1") == ["größe"]


def test_what_is_no_text_is_told_for_every_file(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_bytes(b"x" * 200_000)
    (tmp_path / "2.csv.gz").write_bytes(b"not compressed at all")
    landing = Landing(spark, str(tmp_path))
    with pytest.raises(ContractError) as caught:
        landing.first_lines(landing.files("*"), "UTF-8")
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].endswith("1.csv: expected lines of text, found one of more than 100000 characters")
    assert "2.csv.gz: cannot be read: " in caught.value.problems[1]


def test_a_truncated_parquet_file_is_told(spark: SparkSession, tmp_path: Path) -> None:
    spark.range(10).coalesce(1).write.parquet(str(tmp_path / "good"))
    (file,) = (tmp_path / "good").glob("*.parquet")
    (tmp_path / "bad.parquet").write_bytes(file.read_bytes()[:-20])
    landing = Landing(spark, str(tmp_path))
    assert "int64 id" in landing.parquet_schemas(landing.files("good"))[0]
    with pytest.raises(ContractError, match=r"bad\.parquet: expected a Parquet file, found none or a truncated one: "):
        landing.parquet_schemas(landing.files("bad.parquet"))
