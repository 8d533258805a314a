"""Raw CSV, JSON lines and Parquet as typed rows, and for each value that does not fit its type a sentence that says so.

There are two readers. `plain` is Spark's own CSV reader at its own speed: it leaves out the rows that do not fit. `explained`
keeps every row together with its raw text and its problems, and costs two to three times as much. Both judge a value by the
same parser, so that the rows which `plain` leaves out are those with `~FITS` in `explained`.

One record is one line: a quoted value may not span lines (such lines get their own reason). An empty text is null, in a string
column only if it is not quoted (or if `nulls` lists ''). Timestamps without a zone are local times of the pipeline's time zone;
where a clock change repeats an hour the first one is meant, and a local time that a clock change skips is a problem.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StringType, StructField, StructType, TimestampNTZType

from conf.schema import Source

# Columns that a reader adds to the declared ones.
FILE = "_url"  # where the row was read, as Spark spells it: percent-encoded
RAW = "_raw"  # the row as read: JSON of header to text, or the line itself
PROBLEMS = "_problems"  # sentences
FITS = "_fits"  # the row fits the declared types as it stands: `plain` has it too

_CORRUPT = "_corrupt"
_NEVER = "\x00"  # a text that no field holds: null only where the parser found nothing
_NO_SEPARATOR = "\x01\x02\x03"
_LONGEST_TEXT = 100  # characters of a value that a sentence quotes


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
        return self.source.file_format == "csv" and len(_null_texts(self.source)) <= 1


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


def plain(spark: SparkSession, batch: Batch, urls: Sequence[str]) -> DataFrame:
    """The rows of CSV files that fit their types: declared columns and FILE. `Batch.has_plain_reader` must hold.

    DROPMALFORMED costs a third less than a corrupt-record column (measured); nothing is lost by it, because the caller compares
    with `count_lines`, another scan. Without column pruning every field of a line is counted and checked.
    """
    types = {name: batch.source.columns[column].type for column, name in batch.columns.items()}
    schema = StructType([StructField(name, DataType.fromDDL(types.get(name, "string"))) for name in batch.header])
    reader = spark.read.options(**_csv_options(batch), header="true", mode="DROPMALFORMED", columnPruning="false")
    frame = reader.option("__globPaths__", "false").schema(schema).csv(list(urls))
    columns = [F.col(_ticked(name)).alias(column) for column, name in batch.columns.items()]
    return frame.select(*columns, F.input_file_name().alias(FILE))


def explained(spark: SparkSession, batch: Batch, urls: Sequence[str]) -> DataFrame:
    """All rows: declared columns (null where a value does not fit), FILE, RAW, PROBLEMS and FITS."""
    readers = {"csv": _explained_csv, "json": _explained_json, "parquet": _explained_parquet}
    return readers[batch.source.file_format](spark, batch, urls)


def count_lines(spark: SparkSession, source: Source, urls: Sequence[str]) -> DataFrame:
    """Records by file, counted without parsing their fields: FILE, `rows`, and `odd`, lines that only `explained` reads rightly.

    Odd are lines with an odd number of quotes (a value may run over the end of the line) and those that are not valid UTF-8.
    """
    if source.file_format == "parquet":
        frame = spark.read.option("__globPaths__", "false").parquet(*urls)
        return frame.groupBy(F.input_file_name().alias(FILE)).agg(
            F.count(F.lit(1)).alias("rows"), F.lit(0).cast("bigint").alias("odd")
        )
    lines = _text_lines(spark, urls)
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
    keys = _text_lines(spark, urls).select(F.explode(F.json_object_keys("value")).alias("key"))
    return sorted(row["key"] for row in keys.distinct().collect())


def in_skipped_hour(column: Column, timezone: str) -> Column:
    """True for instants shortly after a clock change, which a skipped local time may have been shifted to; never null.

    The change's time of day in UTC is tested first: that is one division, and true for few rows.
    """
    gaps = _gaps(timezone)
    if not gaps:
        return F.lit(False)
    second_of_day = F.pmod(F.unix_seconds(column), F.lit(86400))
    widest = max(length for _, length in gaps)
    near = F.lit(False)
    for start in sorted({start for start, _ in gaps}):
        near = near | (F.pmod(second_of_day - start, F.lit(86400)) < widest)
    before = column - F.make_dt_interval(F.lit(0), F.lit(0), F.lit(0), F.lit(widest))
    shift = F.unix_seconds(F.from_utc_timestamp(column, timezone)) - F.unix_seconds(
        F.from_utc_timestamp(before, timezone)
    )
    return F.coalesce(near & (shift != widest), F.lit(False))


def _explained_csv(spark: SparkSession, batch: Batch, urls: Sequence[str]) -> DataFrame:
    # A separator that no line holds makes Spark's reader hand over whole lines; it drops headers and blank lines as `plain` does.
    reader = spark.read.options(header="true", sep=_NO_SEPARATOR, quote="", escape=_NEVER, __globPaths__="false")
    reader = reader.option("encoding", _csv_options(batch)["encoding"])
    line_schema = StructType([StructField("line", StringType())])
    lines = reader.schema(line_schema).csv(list(urls)).select("line", F.input_file_name().alias(FILE))

    source, width = batch.source, len(batch.header)
    options = _csv_options(batch)
    names = {name: f"c{i}" for i, name in enumerate(batch.header)}
    types = {names[name]: source.columns[column].type for column, name in batch.columns.items()}
    typed_schema = ", ".join(f"{c} {types.get(c, 'string')}" for c in names.values())
    text_schema = ", ".join(f"{c} string" for c in names.values())
    text_options = {**options, "nullValue": _NEVER, "emptyValue": ""}
    frame = lines.select(
        "line",
        FILE,
        F.from_csv("line", f"{typed_schema}, {_CORRUPT} string", options).alias("typed"),
        F.from_csv("line", f"{text_schema}, {_CORRUPT} string", text_options).alias("text"),
    )
    texts = {column: F.col("text")[names[name]] for column, name in batch.columns.items()}
    typed = {column: F.col("typed")[names[name]] for column, name in batch.columns.items()}

    # One more field at the end of the line is swallowed by a quote that was left open.
    ended = F.from_csv(F.concat("line", F.lit(source.delimiter + "~")), f"{text_schema}, last string", text_options)
    odd_quotes = (F.length("line") - F.length(F.replace("line", F.lit('"'), F.lit("")))) % 2 == 1
    open_quote = odd_quotes & ~F.coalesce(ended["last"].eqNullSafe(F.lit("~")), F.lit(False))
    whole_line = [
        (open_quote, "malformed: a quote is left open at the end of the line; a value may not span lines"),
        (F.col(f"text.{_CORRUPT}").isNotNull(), f"malformed: the line does not have {width} field(s)"),
    ]
    if source.encoding == "utf-8":
        whole_line.append((F.contains("line", F.lit("\ufffd")), _NOT_UTF8))
    raw = F.to_json(
        F.struct(*(F.col("text")[c].alias(name) for name, c in names.items())), {"ignoreNullFields": "false"}
    )
    return _explain(frame, batch, typed, texts, whole_line, _local_times(texts, batch), raw=raw, line=F.col("line"))


def _explained_json(spark: SparkSession, batch: Batch, urls: Sequence[str]) -> DataFrame:
    lines = _text_lines(spark, urls)
    value = (
        F.decode(F.col("value").cast("binary"), "ISO-8859-1") if batch.source.encoding == "latin-1" else F.col("value")
    )
    lines = lines.select(F.ltrim(value, F.lit("\ufeff")).alias("line"), F.input_file_name().alias(FILE))

    source = batch.source
    fields = [(_ticked(name), source.columns[column].type) for column, name in batch.columns.items()]
    options = {"timeZone": batch.timezone, "columnNameOfCorruptRecord": _CORRUPT}
    typed_schema = ", ".join(f"{name} {kind}" for name, kind in fields) + f", {_CORRUPT} string"
    text_schema = ", ".join(f"{name} string" for name, _ in fields) + f", {_CORRUPT} string"
    frame = lines.select(
        "line",
        FILE,
        F.from_json("line", typed_schema, options).alias("typed"),
        F.from_json("line", text_schema, options).alias("text"),
        F.json_object_keys("line").alias("keys"),
    )
    texts = {column: F.col("text")[name] for column, name in batch.columns.items()}
    typed = {}
    for column, name in batch.columns.items():
        kind = source.columns[column].type
        read = F.col("typed")[name]
        # A number or an instant inside quotes is read as CSV text would be.
        typed[column] = read if kind == "string" else F.coalesce(read, _from_text(texts[column], kind, batch))
    repeated = F.size("keys") > F.size(F.array_distinct("keys"))
    whole_line = [
        (F.ltrim("line").startswith("["), "malformed: expected one JSON object on the line, found an array"),
        (F.col("text").isNull() | F.col(f"text.{_CORRUPT}").isNotNull(), "malformed: the line is not a JSON object"),
        (F.coalesce(repeated, F.lit(False)), "malformed: the object has the same name twice"),
    ]
    if source.encoding == "utf-8":
        damaged = ~F.is_valid_utf8("line") | F.contains("line", F.lit("\ufffd"))
        whole_line.append((damaged, _NOT_UTF8))
    return _explain(
        frame, batch, typed, texts, whole_line, _local_times(texts, batch), raw=F.col("line"), line=F.col("line")
    )


def _explained_parquet(spark: SparkSession, batch: Batch, urls: Sequence[str]) -> DataFrame:
    read = spark.read.option("__globPaths__", "false").parquet(*urls)
    frame = read.select(
        F.struct(*(F.col(_ticked(name)) for name in batch.header)).alias("row"), F.input_file_name().alias(FILE)
    )
    texts: dict[str, Column] = {}
    typed: dict[str, Column] = {}
    local: dict[str, Column] = {}
    for column, name in batch.columns.items():
        kind, found, value = batch.source.columns[column].type, read.schema[name].dataType, F.col("row")[name]
        nested = isinstance(found, (ArrayType, MapType, StructType))
        texts[column] = F.to_json(value) if nested else value.cast("string")
        if found == DataType.fromDDL(kind):
            typed[column] = value
        elif kind == "string":
            typed[column] = texts[column]
        elif isinstance(found, StringType):
            typed[column] = _from_text(value, kind, batch)
            local |= _local_times({column: value}, batch)
        elif isinstance(found, TimestampNTZType) and kind == "timestamp":
            local[column] = value.cast("timestamp")
            typed[column] = F.to_utc_timestamp(local[column], batch.timezone)
        else:
            typed[column] = value.try_cast(kind)
    raw = F.to_json("row", {"ignoreNullFields": "false"})
    return _explain(frame, batch, typed, texts, [], local, raw=raw, line=raw)


_NOT_UTF8 = "malformed: the line is not valid UTF-8; a file in Latin-1 needs `encoding: latin-1`"


def _explain(
    frame: DataFrame,
    batch: Batch,
    typed: Mapping[str, Column],
    texts: Mapping[str, Column],
    whole_line: Sequence[tuple[Column, str]],
    local: Mapping[str, Column],
    *,
    raw: Column,
    line: Column,
) -> DataFrame:
    """Values, and the sentences for those that do not fit. A line that is no record at all has only the first of `whole_line`."""
    nulls = _null_texts(batch.source)
    values, unfit = [], []
    for column, spec in batch.source.columns.items():
        text, value = texts[column], typed[column]
        is_null = text.isin(*nulls) if nulls else F.lit(False)
        if spec.type == "string":
            if "" in batch.source.nulls:
                is_null = is_null | (text == "")
            values.append(F.when(is_null, F.lit(None)).otherwise(value).alias(column))
            continue
        is_null = F.coalesce(is_null | (text == ""), F.lit(True))
        quoted = F.concat(F.lit(f"{column}: '"), F.substring(text, 1, _LONGEST_TEXT))
        unfit.append(F.when(~is_null & value.isNull(), F.concat(quoted, F.lit(f"' is not {_a(spec.type)}"))))
        if column in local and _gaps(batch.timezone):
            # Read as if it were UTC: the local time as written. With a zone in the text both readings agree.
            skipped = (local[column] != value) & (F.from_utc_timestamp(value, batch.timezone) != local[column])
            told = F.concat(quoted, F.lit(f"' does not exist in {batch.timezone}: a clock change skips it"))
            unfit.append(F.when(~is_null & skipped, told))
        values.append(F.when(is_null, F.lit(None)).otherwise(value).alias(column))
    malformed = F.coalesce(
        F.lit(None).cast("string"), *(F.when(found, F.lit(sentence)) for found, sentence in whole_line)
    )
    problems = F.array_compact(F.array(*unfit)) if unfit else F.array().cast("array<string>")
    corrupt = F.col(f"typed.{_CORRUPT}").isNull() if batch.has_plain_reader else F.lit(False)
    return frame.withColumn("malformed", malformed).select(
        *values,
        FILE,
        F.when(F.col("malformed").isNull(), raw).otherwise(line).alias(RAW),
        F.when(F.col("malformed").isNull(), problems).otherwise(F.array("malformed")).alias(PROBLEMS),
        corrupt.alias(FITS),
    )


def _local_times(texts: Mapping[str, Column], batch: Batch) -> dict[str, Column]:
    """The texts of timestamp columns read as if they were UTC."""
    times = [column for column in texts if batch.source.columns[column].type == "timestamp"]
    return {column: _from_text(texts[column], "timestamp", batch, timezone="UTC") for column in times}


def _from_text(text: Column, kind: str, batch: Batch, timezone: str = "") -> Column:
    """A single text as the CSV reader would read it; null when it does not fit."""
    options = {
        "sep": _NO_SEPARATOR,
        "quote": "",
        "escape": _NEVER,
        "nullValue": _NEVER,
        "timeZone": timezone or batch.timezone,
    }
    return F.from_csv(text, f"v {kind}", options)["v"]


def _text_lines(spark: SparkSession, urls: Sequence[str]) -> DataFrame:
    """Lines that hold anything but white space, as the CSV and JSON readers see them."""
    lines = spark.read.option("__globPaths__", "false").text(list(urls))
    # The first comparison settles nearly every line; the pattern is for lines that begin with white space.
    return lines.filter((F.col("value") >= "!") | F.col("value").rlike(r"[^\x00-\x20]"))


def _csv_options(batch: Batch) -> dict[str, str]:
    nulls = _null_texts(batch.source)
    null = nulls[0] if nulls else _NEVER
    return {
        "sep": batch.source.delimiter,
        "escape": '"',  # RFC 4180; Spark's default, a backslash, corrupts "a ""b"" c"
        "nullValue": null,
        "emptyValue": null if "" in batch.source.nulls else "",
        "timeZone": batch.timezone,
        "encoding": "ISO-8859-1" if batch.source.encoding == "latin-1" else "UTF-8",
        "columnNameOfCorruptRecord": _CORRUPT,
    }


def _ticked(name: str) -> str:
    """A name as SQL takes it whatever it holds."""
    return "`" + name.replace("`", "``") + "`"


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "int" else f"a {kind}"


def _null_texts(source: Source) -> list[str]:
    return [text for text in source.nulls if text]


@cache
def _gaps(timezone: str) -> tuple[tuple[int, int], ...]:
    """(second of the day in UTC at which clocks jump forward, by how many seconds) of all such changes from 1970 to 2100."""
    zone, found = ZoneInfo(timezone), set()
    day = datetime(1970, 1, 1, tzinfo=UTC)
    step = timedelta(days=1)
    while day.year < 2100:
        gap = _offset(zone, day + step) - _offset(zone, day)
        if gap > 0:
            low, high = 0, 86400
            while high - low > 1:
                middle = (low + high) // 2
                moved = _offset(zone, day + timedelta(seconds=middle)) != _offset(zone, day)
                low, high = (low, middle) if moved else (middle, high)
            found.add((high % 86400, gap))
        day += step
    return tuple(sorted(found))


def _offset(zone: ZoneInfo, moment: datetime) -> int:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())
