"""Raw CSV, JSON lines and Parquet as typed rows, and for each value that does not fit its type a sentence that says so.

There are two readers. `plain` is Spark's own CSV reader at its own speed: it leaves out the rows that do not fit. `explained.rows`
keeps every row together with its raw text and its problems, and costs two to three times as much. Both judge a value by the
same parser, so that the rows which `plain` leaves out are those with `~FITS` in `explained.rows`.

One record is one line: a quoted value may not span lines (such lines get their own reason). An empty text is null, in a string
column only if it is not quoted (or if `nulls` lists ''). Timestamps without a zone are local times of the pipeline's time zone;
where a clock change repeats an hour the first one is meant, and a local time that a clock change skips is a problem.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructField, StructType

from conf.schema import Source

FILE = "_url"  # the column that says where a row was read, as Spark spells it: percent-encoded
CORRUPT = "_corrupt"
NEVER = "\x00"  # a text that no field holds: null only where the parser found nothing


@dataclass(frozen=True)
class Batch:
    """Files of one layout. `header` are the names in the files in order; `columns` maps each declared column to its name there."""

    source: Source
    timezone: str
    header: tuple[str, ...]
    columns: Mapping[str, str]

    @property
    def undeclared(self) -> list[str]:
        """Names in the files that no declared column takes."""
        taken = set(self.columns.values())
        return [name for name in self.header if name not in taken]

    @property
    def has_plain_reader(self) -> bool:
        """Spark's CSV reader knows one text for null."""
        return self.source.file_format == "csv" and len(null_texts(self.source)) <= 1


def header_names(line: str, source: Source) -> tuple[str, ...]:
    """The names in the first line of a CSV file; a byte order mark is no part of them."""
    rows = list(csv.reader([line.removeprefix("\ufeff").rstrip("\r\n")], delimiter=source.delimiter))
    return tuple(rows[0]) if rows else ()


def match(source: Source, timezone: str, header: Sequence[str]) -> tuple[Batch, list[str]]:
    """Find each declared column in a header: by exact name, then without regard to case.

    Returns:
        The batch, and what is wrong with the header (declared columns that it lacks, names that it has twice).
    """
    folded: dict[str, list[str]] = {}
    for name in header:
        folded.setdefault(name.casefold(), []).append(name)
    problems = [
        f"the header has {' and '.join(map(repr, names))}; expected each name once"
        for names in folded.values()
        if len(names) > 1
    ]
    columns, missing = {}, []
    for column, spec in source.columns.items():
        wanted = spec.header or column
        found = [wanted] if wanted in header else folded.get(wanted.casefold(), [])
        if found:
            columns[column] = found[0]
        else:
            missing.append(wanted)
    if missing:
        problems.append(f"expected column(s) {', '.join(missing)}; found {', '.join(header) or 'no header'}")
    return Batch(source, timezone, tuple(header), columns), problems


def plain(spark: SparkSession, batch: Batch, urls: Sequence[str], *, as_streams: bool = False) -> DataFrame:
    """The rows of CSV files that fit their types: declared columns and FILE. `Batch.has_plain_reader` must hold.

    DROPMALFORMED costs a third less than a corrupt-record column (measured); nothing is lost by it, because the caller compares
    with a count of lines that is made apart. Without column pruning every field of a line is counted and checked.

    Args:
        as_streams: each file is parsed from end to end by one task. That takes two thirds of the time, since the parser throws an
            exception at the end of what it is given, here of a file instead of a line. Only for files in which every line is
            one record that ends with a line feed alone.
    """
    types = {name: batch.source.columns[column].type for column, name in batch.columns.items()}
    schema = StructType([StructField(name, DataType.fromDDL(types.get(name, "string"))) for name in batch.header])
    reader = spark.read.options(**csv_options(batch), header="true", mode="DROPMALFORMED", columnPruning="false")
    # Characters that the parser makes room for anew with each file: by default a million, which small files take longest for.
    reader = reader.option("inputBufferSize", 1 << 14)
    if as_streams:
        reader = reader.options(multiLine="true", lineSep="\n")
    frame = reader.schema(schema).csv(list(urls))
    columns = [F.col(ticked(name)).alias(column) for column, name in batch.columns.items()]
    return frame.select(*columns, F.input_file_name().alias(FILE))


def count_lines(spark: SparkSession, source: Source, urls: Sequence[str]) -> DataFrame:
    """Records by file, counted without parsing their fields: FILE, `rows`, and `odd`, lines that only `explained.rows` reads rightly.

    Odd are lines with an odd number of quotes (a value may run over the end of the line) and those that are not valid UTF-8.
    """
    if source.file_format == "parquet":
        frame = spark.read.parquet(*urls)
        return frame.groupBy(F.input_file_name().alias(FILE)).agg(
            F.count(F.lit(1)).alias("rows"), F.lit(0).cast("bigint").alias("odd")
        )
    lines = text_lines(spark, urls)
    quotes = F.octet_length("value") - F.octet_length(F.replace("value", F.lit('"'), F.lit("")))
    odd = F.lit(False)
    if source.file_format == "csv":
        odd = F.contains("value", F.lit('"')) & (quotes % 2 == 1)
    if source.encoding == "utf-8":
        odd = odd | ~F.is_valid_utf8("value") | F.contains("value", F.lit("\ufffd"))
    header = 1 if source.file_format == "csv" else 0
    return lines.groupBy(F.input_file_name().alias(FILE)).agg(
        (F.count(F.lit(1)) - header).alias("rows"), F.count_if(odd).alias("odd")
    )


def json_keys(spark: SparkSession, urls: Sequence[str]) -> list[str]:
    """All names of the outermost objects of JSON lines, sorted."""
    keys = text_lines(spark, urls).select(F.explode(F.json_object_keys("value")).alias("key"))
    return sorted(row["key"] for row in keys.distinct().collect())


def text_lines(spark: SparkSession, urls: Sequence[str]) -> DataFrame:
    """Lines that hold anything but white space, as the CSV and JSON readers see them."""
    lines = spark.read.text(list(urls))
    # The first comparison settles nearly every line; the pattern is for lines that begin with white space.
    return lines.filter((F.col("value") >= "!") | F.col("value").rlike(r"[^\x00-\x20]"))


def csv_options(batch: Batch) -> dict[str, str]:
    nulls = null_texts(batch.source)
    null = nulls[0] if nulls else NEVER
    return {
        "sep": batch.source.delimiter,
        "escape": '"',  # RFC 4180; Spark's default, a backslash, corrupts "a ""b"" c"
        "nullValue": null,
        "emptyValue": null if "" in batch.source.nulls else "",
        "timeZone": batch.timezone,
        "encoding": "ISO-8859-1" if batch.source.encoding == "latin-1" else "UTF-8",
        "columnNameOfCorruptRecord": CORRUPT,
    }


def ticked(name: str) -> str:
    """A name as SQL takes it whatever it holds."""
    return "`" + name.replace("`", "``") + "`"


def null_texts(source: Source) -> list[str]:
    return [text for text in source.nulls if text]
