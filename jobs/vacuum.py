"""Compacting tables and removing old files, by Delta's own OPTIMIZE and VACUUM, without the files of pinned versions.

VACUUM knows the latest version and a retention time, and nothing of the versions that a model rests on. It therefore gets an
inventory of the files that it may judge, and those of pinned versions are not in it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from delta.tables import DeltaTable
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.lake import Lake

# Fewer or larger files than these are no burden to a reader.
MANY_FILES, SMALL_BYTES = 16, 32 * 2**20
_INVENTORY = "millrace_inventory"


@dataclass(frozen=True)
class Cleaned:
    """Old files of one table: how many were removed, their size, and how many were left because a pinned version needs them."""

    removed: int
    bytes: int
    pinned: int


def compact(lake: Lake, table: str) -> bool:
    """OPTIMIZE a table of many small files; False when it is not one. No row changes, and older versions stay as they are."""
    found = DeltaTable.forPath(lake.spark, f"{lake.root}/{table}")
    detail = found.detail().select("numFiles", "sizeInBytes").collect()[0]
    if detail["numFiles"] < MANY_FILES or detail["sizeInBytes"] >= detail["numFiles"] * SMALL_BYTES:
        return False
    figures = found.optimize().executeCompaction().select("metrics.numFilesRemoved").collect()[0]
    return bool(figures["numFilesRemoved"])


def unreliable(lake: Lake, table: str, versions: Collection[int]) -> dict[int, str]:
    """Version -> why nobody may count on reading it: its log is gone, may go at any time, or its files are gone."""
    path = f"{lake.root}/{table}"
    history = DeltaTable.forPath(lake.spark, path).history().select("version", F.unix_millis("timestamp").alias("at"))
    written = {row["version"]: row["at"] for row in history.collect()}
    kept_ms = _retention_ms(lake, table)[1]
    horizon = _now_ms() - kept_ms
    problems, files = {}, []
    for version in sorted(versions):
        if version not in written:
            problems[version] = "its log is gone"
        elif written[version] < horizon:
            problems[version] = f"it is older than the {kept_ms // 86_400_000} days for which the table keeps its log"
        else:
            try:
                files += [(version, file) for file in _files(lake, table, version)]
            except PySparkException as error:
                problems[version] = f"it cannot be read ({error.getCondition()})"
    needed = lake.spark.createDataFrame(files, "version long, path string")
    lost = needed.join(_listed(lake, table), "path", "left_anti").groupBy("version").count().collect()
    return problems | {row["version"]: f"{row['count']} of its files are gone" for row in lost}


def removable(lake: Lake, table: str, keep: Collection[int]) -> Cleaned:
    """What `vacuum` would remove at most: Delta also spares files that were part of the table until less than the retention ago."""
    candidates, pinned = _candidates(lake, table, keep)
    return Cleaned(*_size(candidates), pinned)


def vacuum(lake: Lake, table: str, keep: Collection[int]) -> Cleaned:
    """Remove files that neither the latest nor a version in `keep` needs and that are older than the table's retention.

    The retention is the table's `delta.deletedFileRetentionDuration`, 7 days by its contract: files of a writer that has not
    committed yet are younger.
    """
    candidates, pinned = _candidates(lake, table, keep)
    files, size = _size(candidates)
    if not files:
        return Cleaned(0, 0, pinned)
    candidates.createOrReplaceTempView(_INVENTORY)
    try:
        lake.spark.sql(f"VACUUM delta.`{lake.root}/{table}` USING INVENTORY (SELECT * FROM {_INVENTORY})")
    finally:
        lake.spark.catalog.dropTempView(_INVENTORY)
    left = _size(_candidates(lake, table, keep)[0])  # listed again: what was removed, not what should have been
    return Cleaned(files - left[0], size - left[1], pinned)


def _candidates(lake: Lake, table: str, keep: Collection[int]) -> tuple[DataFrame, int]:
    """The old files that nothing needs, and how many others only a version in `keep` needs."""
    latest = set(lake.spark.read.format("delta").load(f"{lake.root}/{table}").inputFiles())
    pinned = {file for version in keep for file in _files(lake, table, version)} - latest
    return _old_files(lake, table, latest | pinned), len(pinned)


def _old_files(lake: Lake, table: str, needed: Collection[str]) -> DataFrame:
    """Data files under the table that are older than its retention and not in `needed`, in the columns of an inventory.

    Only Parquet files: whatever else lies there, deletion vectors and the log among it, is never offered to VACUUM.
    """
    keep = lake.spark.createDataFrame([(file,) for file in sorted(needed)], "path string")
    old = _listed(lake, table).where(F.col("modificationTime") < _now_ms() - _retention_ms(lake, table)[0])
    # VACUUM compares the schema exactly, and a literal would not be nullable.
    not_a_folder = F.nullif(F.lit(False), F.lit(True)).alias("isDir")
    return old.join(keep, "path", "left_anti").select("path", "length", not_a_folder, "modificationTime")


def _listed(lake: Lake, table: str) -> DataFrame:
    """Every data file under a table: path, length, modificationTime (milliseconds)."""
    reader = (
        lake.spark.read.format("binaryFile").option("recursiveFileLookup", "true").option("pathGlobFilter", "*.parquet")
    )
    modified = F.unix_millis("modificationTime").alias("modificationTime")
    return reader.load(f"{lake.root}/{table}").select("path", "length", modified)


def _size(files: DataFrame) -> tuple[int, int]:
    row = files.agg(F.count("*").alias("files"), F.coalesce(F.sum("length"), F.lit(0)).alias("bytes")).collect()[0]
    return int(row["files"]), int(row["bytes"])


def _files(lake: Lake, table: str, version: int) -> list[str]:
    """Addresses of the data files of one version."""
    return list(
        lake.spark.read.format("delta").option("versionAsOf", version).load(f"{lake.root}/{table}").inputFiles()
    )


def _retention_ms(lake: Lake, table: str) -> tuple[int, int]:
    """How long the table keeps removed files, and how long its log, by Delta's own reading of its properties."""
    jvm: Any = lake.spark._jvm
    log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(lake.spark._jsparkSession, f"{lake.root}/{table}")
    none = jvm.scala.Option.empty()
    metadata = log.update(False, none, none).metadata()
    return int(log.tombstoneRetentionMillis(metadata)), int(log.deltaRetentionMillis(metadata))


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
