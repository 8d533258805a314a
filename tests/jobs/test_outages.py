"""What the surroundings of a run did to it, as Spark itself reports it, told as one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import outages


@pytest.fixture
def table(spark: SparkSession, lake_root: str) -> Path:
    """A table of one file, without the checksums that the local file system keeps beside files, and stores do not."""
    folder = Path(lake_root, "silver")
    spark.range(2_000).coalesce(1).write.format("delta").save(str(folder))
    remove(folder.rglob("*.crc"))
    return folder


def remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink()


def told(spark: SparkSession, table: Path) -> str | None:
    """The sentence for the error of reading a table."""
    with pytest.raises(Exception) as caught:
        spark.read.format("delta").load(str(table)).selectExpr("sum(id)").collect()
    return outages.sentence(caught.value)


def test_a_flipped_bit(spark: SparkSession, table: Path) -> None:
    """Without the checksum of its page it would be another value, in silence."""
    (file,) = table.glob("*.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1
    file.write_bytes(content)

    assert told(spark, table) == (
        f"file:{file}: a file of a table is damaged: its content does not fit its checksum. Restore it, or run the job that wrote the"
        " table with --force."
    )


def test_a_file_that_is_gone(spark: SparkSession, table: Path) -> None:
    (file,) = table.glob("*.parquet")
    file.unlink()
    assert told(spark, table) == (
        f"file:{file}: a file of a table is gone. Restore it, or run the job that wrote the table with --force."
    )


def test_a_log_that_is_cut_short(spark: SparkSession, table: Path) -> None:
    (entry,) = table.glob("_delta_log/*.json")
    entry.write_bytes(entry.read_bytes()[:40])
    found = told(spark, table)
    assert found is not None
    assert found.endswith(
        f"{entry}: the log of a table is damaged. Restore it from a copy; what was committed before it stays readable by version."
    )


def test_a_lake_that_cannot_be_written_to(spark: SparkSession, lake_root: str) -> None:
    """Delta tells that it could not, and not why."""
    Path(lake_root, "silver").write_text("a file where a folder should be")
    with pytest.raises(Exception, match="silver") as caught:
        spark.range(1).write.format("delta").save(f"{lake_root}/silver/parcels")
    assert outages.sentence(caught.value) == (
        f"file:{lake_root}/silver/parcels/_delta_log: the folder of a table's log cannot be made. Expected to write there. Check the lake's"
        " address, the credentials of this process and its rights there. The same command goes on from what was committed."
    )


@pytest.mark.parametrize("path", ["s3a://lake/silver/parcels/part-0.parquet", "silver/parcels/part-0.parquet"])
def test_a_store_that_refuses(path: str) -> None:
    """As S3A words it where it reads, and where it writes."""
    text = (
        f"Caused by: java.nio.file.AccessDeniedException: {path}: PUT 0-byte object  on {path}:"
        " software.amazon.awssdk.services.s3.model.S3Exception: AccessDenied (Service: S3, Status Code: 403, Request ID: null)"
    )
    assert outages.sentence(RuntimeError(text)) == (
        f"{path}: the store refused access (403). Expected to read and write there. Check the credentials of this process and the bucket's"
        " policy. The same command goes on from what was committed."
    )


def test_a_mistake_of_ours_is_no_outage(spark: SparkSession) -> None:
    with pytest.raises(Exception, match="no_such_column") as caught:
        spark.range(1).select("no_such_column").collect()
    assert outages.sentence(caught.value) is None
