"""The files of a manifest by layout: one reader for each group of equal headers or schemas; and their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from conf.schema import Source
from jobs.landing import Landing, RawFile
from jobs.simple_text import SimpleText
from transforms import parse
from transforms.errors import ContractError
from transforms.parse import FILE, Batch

FILES_A_TASK = 500  # small ones: some seconds, and minutes from an object store
TASKS_A_CORE = 4


@dataclass(frozen=True)
class Group:
    """Files that one reader reads."""

    batch: Batch
    files: tuple[RawFile, ...]


@dataclass(frozen=True)
class Lines:
    """What a scan of the bytes says of a file: records, and how many of them only `parse.explained` reads rightly.

    `is_simple`: each line is one record and ends with a line feed alone.
    """

    rows: int = 0
    odd: int = 0
    is_simple: bool = False


def groups(
    spark: SparkSession,
    landing: Landing,
    source: Source,
    timezone: str,
    files: Sequence[RawFile],
    simple: Mapping[str, SimpleText],
) -> list[Group]:
    """Files with rows, by layout; a file without a header has no rows and is in no group.

    Args:
        simple: path -> text of the files for which it is known.

    Raises:
        ContractError: a file lacks a declared column, has a name twice, or is not of the declared format; every such file is named.
    """
    kind = source.file_format
    if kind == "json":
        filled = tuple(file for file in files if file.size_bytes)
        keys = parse.json_keys(spark, landing.urls(file.path for file in filled)) if filled else []
        wanted = {column: spec.header or column for column, spec in source.columns.items()}
        header = tuple(dict.fromkeys([*wanted.values(), *keys]))
        return [Group(Batch(source, timezone, header, wanted), filled)] if filled else []
    layouts = _parquet_schemas(landing, files) if kind == "parquet" else _headers(landing, source, files, simple)
    by_layout: dict[str, list[RawFile]] = {}
    for file in files:
        if layout := layouts[file.path]:
            by_layout.setdefault(layout, []).append(file)
    found, problems = [], []
    for layout, members in by_layout.items():
        header = _parquet_names(spark, landing, members[0]) if kind == "parquet" else parse.header_names(layout, source)
        batch, wrong = parse.match(source, timezone, header)
        found.append(Group(batch, tuple(members)))
        problems += [f"{landing.url(file.path)}: {sentence}" for file in members for sentence in wrong]
    if problems:
        raise ContractError(problems)
    return found


def lines(
    spark: SparkSession,
    landing: Landing,
    source: Source,
    files: Sequence[RawFile],
    simple: Mapping[str, SimpleText],
) -> Mapping[str, Lines]:
    """Path -> what a scan of its bytes says: Spark's, but for files whose text is known."""
    counted = dict.fromkeys((file.path for file in files), Lines())
    counted |= {path: Lines(max(text.lines - 1, 0), is_simple=True) for path, text in simple.items()}
    filled = [file for file in files if file.size_bytes and file.path not in simple]
    if filled:
        paths = landing.encoded(filled)
        for row in parse.count_lines(spark, source, landing.urls(file.path for file in filled)).collect():
            counted[paths[row[FILE]]] = Lines(row["rows"], row["odd"])
    return counted


def gathered(spark: SparkSession, frame: DataFrame, files: Sequence[RawFile]) -> DataFrame:
    """The rows of small files in fewer tasks, and so in fewer files of the table: Spark makes a task of every 32 of them.

    For Spark each file takes as long to open as 4 MiB to read (`spark.sql.files.openCostInBytes`), which a task's share counts.
    """
    conf = spark._jsparkSession.sessionState().conf()
    size = sum(file.size_bytes for file in files)
    if size >= len(files) * int(conf.filesOpenCostInBytes()):
        return frame
    least = max(-(-size // int(conf.filesMaxPartitionBytes())), -(-len(files) // FILES_A_TASK))
    return frame.coalesce(max(least, TASKS_A_CORE * spark.sparkContext.defaultParallelism))


def split_size(spark: SparkSession, files: Sequence[RawFile]) -> int:
    """Bytes above which Spark cuts one of these files into parts for several tasks (its `FilePartition.maxSplitBytes`)."""
    conf = spark._jsparkSession.sessionState().conf()
    opening, fewest = int(conf.filesOpenCostInBytes()), conf.filesMinPartitionNum()
    parts = int(fewest.get()) if fewest.isDefined() else spark.sparkContext.defaultParallelism
    share = sum(file.size_bytes + opening for file in files) // parts
    return min(int(conf.filesMaxPartitionBytes()), max(opening, share))


def _headers(
    landing: Landing, source: Source, files: Sequence[RawFile], simple: Mapping[str, SimpleText]
) -> dict[str, str]:
    encoding = "ISO-8859-1" if source.encoding == "latin-1" else "UTF-8"
    known = {path: text.first_line.decode(encoding) for path, text in simple.items()}
    others = [file for file in files if file.path not in known]
    return known | dict(zip((file.path for file in others), landing.first_lines(others, encoding), strict=True))


def _parquet_schemas(landing: Landing, files: Sequence[RawFile]) -> dict[str, str]:
    return dict(zip((file.path for file in files), landing.parquet_schemas(files), strict=True))


def _parquet_names(spark: SparkSession, landing: Landing, file: RawFile) -> tuple[str, ...]:
    frame = spark.read.parquet(*landing.urls([file.path]))
    return tuple(frame.columns)
