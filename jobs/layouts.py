"""The files of a manifest by layout: one reader for each group of equal headers or schemas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import SparkSession

from conf.schema import Source
from jobs.landing import Landing, RawFile
from transforms import parse
from transforms.errors import ContractError
from transforms.parse import FILE, Batch


@dataclass(frozen=True)
class Group:
    """Files that one reader reads."""

    batch: Batch
    files: tuple[RawFile, ...]


@dataclass(frozen=True)
class Lines:
    """What a scan of the bytes says of a file: records, and how many of them only `parse.explained` reads rightly."""

    rows: int = 0
    odd: int = 0


def groups(
    spark: SparkSession, landing: Landing, source: Source, timezone: str, files: Sequence[RawFile]
) -> list[Group]:
    """Files with rows, by layout; a file without a header has no rows and is in no group.

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
    encoding = "ISO-8859-1" if source.encoding == "latin-1" else "UTF-8"
    layouts = landing.parquet_schemas(files) if kind == "parquet" else landing.first_lines(files, encoding)
    by_layout: dict[str, list[RawFile]] = {}
    for file, layout in zip(files, layouts, strict=True):
        if layout:
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


def lines(spark: SparkSession, landing: Landing, source: Source, files: Sequence[RawFile]) -> Mapping[str, Lines]:
    """Path -> what a scan of its bytes says."""
    filled = [file for file in files if file.size_bytes]
    counted = dict.fromkeys((file.path for file in files), Lines())
    if filled:
        paths = landing.encoded(filled)
        for row in parse.count_lines(spark, source, landing.urls(file.path for file in filled)).collect():
            counted[paths[row[FILE]]] = Lines(row["rows"], row["odd"])
    return counted


def _parquet_names(spark: SparkSession, landing: Landing, file: RawFile) -> tuple[str, ...]:
    frame = spark.read.parquet(*landing.urls([file.path]))
    return tuple(frame.columns)
