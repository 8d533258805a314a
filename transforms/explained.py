"""Every row of raw files with its raw text and a sentence for each value that does not fit its type.

The slow reader beside `parse.plain`; both judge a value by Spark's own parser, so that they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StringType, StructField, StructType, TimestampNTZType

from transforms.clock_changes import skipped
from transforms.parse import CORRUPT, FILE, NEVER, Batch, csv_options, null_texts, text_lines, ticked

# Columns that this reader adds to the declared ones and FILE.
RAW = "_raw"  # the row as read: JSON of header to text, or the line itself
PROBLEMS = "_problems"  # sentences
FITS = "_fits"  # the row fits the declared types as it stands: `parse.plain` has it too

_NO_SEPARATOR = "\x01\x02\x03"
_LONGEST_TEXT = 100  # characters of a value that a sentence quotes
_NOT_UTF8 = "malformed: the line is not valid UTF-8; a file in Latin-1 needs `encoding: latin-1`"


def rows(spark: SparkSession, batch: Batch, urls: Sequence[str]) -> DataFrame:
    """All rows: declared columns (null where a value does not fit), FILE, RAW, PROBLEMS and FITS."""
    readers = {"csv": _explained_csv, "json": _explained_json, "parquet": _explained_parquet}
    return readers[batch.source.file_format](spark, batch, urls)


def _explained_csv(spark: SparkSession, batch: Batch, urls: Sequence[str]) -> DataFrame:
    # A separator that no line holds makes Spark's reader hand over whole lines; it drops headers and blank lines as `plain` does.
    reader = spark.read.options(header="true", sep=_NO_SEPARATOR, quote="", escape=NEVER)
    reader = reader.option("encoding", csv_options(batch)["encoding"])
    line_schema = StructType([StructField("line", StringType())])
    lines = reader.schema(line_schema).csv(list(urls)).select("line", F.input_file_name().alias(FILE))

    source, width = batch.source, len(batch.header)
    options = csv_options(batch)
    names = {name: f"c{i}" for i, name in enumerate(batch.header)}
    types = {names[name]: source.columns[column].type for column, name in batch.columns.items()}
    typed_schema = ", ".join(f"{c} {types.get(c, 'string')}" for c in names.values())
    text_schema = ", ".join(f"{c} string" for c in names.values())
    text_options = {**options, "nullValue": NEVER, "emptyValue": ""}
    frame = lines.select(
        "line",
        FILE,
        F.from_csv("line", f"{typed_schema}, {CORRUPT} string", options).alias("typed"),
        F.from_csv("line", f"{text_schema}, {CORRUPT} string", text_options).alias("text"),
    )
    texts = {column: F.col("text")[names[name]] for column, name in batch.columns.items()}
    typed = {column: F.col("typed")[names[name]] for column, name in batch.columns.items()}

    # One more field at the end of the line is swallowed by a quote that was left open.
    ended = F.from_csv(F.concat("line", F.lit(source.delimiter + "~")), f"{text_schema}, last string", text_options)
    odd_quotes = (F.length("line") - F.length(F.replace("line", F.lit('"'), F.lit("")))) % 2 == 1
    open_quote = odd_quotes & ~F.coalesce(ended["last"].eqNullSafe(F.lit("~")), F.lit(False))
    whole_line = [
        (open_quote, "malformed: a quote is left open at the end of the line; a value may not span lines"),
        (F.col(f"text.{CORRUPT}").isNotNull(), f"malformed: the line does not have {width} field(s)"),
    ]
    if source.encoding == "utf-8":
        whole_line.append((F.contains("line", F.lit("\ufffd")), _NOT_UTF8))
    raw = F.to_json(
        F.struct(*(F.col("text")[c].alias(name) for name, c in names.items())), {"ignoreNullFields": "false"}
    )
    return _explain(frame, batch, typed, texts, whole_line, _local_times(texts, batch), raw=raw, line=F.col("line"))


def _explained_json(spark: SparkSession, batch: Batch, urls: Sequence[str]) -> DataFrame:
    lines = text_lines(spark, urls)
    value = (
        F.decode(F.col("value").cast("binary"), "ISO-8859-1") if batch.source.encoding == "latin-1" else F.col("value")
    )
    lines = lines.select(F.ltrim(value, F.lit("\ufeff")).alias("line"), F.input_file_name().alias(FILE))

    source = batch.source
    fields = [(ticked(name), source.columns[column].type) for column, name in batch.columns.items()]
    options = {"timeZone": batch.timezone, "columnNameOfCorruptRecord": CORRUPT}
    typed_schema = ", ".join(f"{name} {kind}" for name, kind in fields) + f", {CORRUPT} string"
    text_schema = ", ".join(f"{name} string" for name, _ in fields) + f", {CORRUPT} string"
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
        (F.col("text").isNull() | F.col(f"text.{CORRUPT}").isNotNull(), "malformed: the line is not a JSON object"),
        (F.coalesce(repeated, F.lit(False)), "malformed: the object has the same name twice"),
    ]
    if source.encoding == "utf-8":
        damaged = ~F.is_valid_utf8("line") | F.contains("line", F.lit("\ufffd"))
        whole_line.append((damaged, _NOT_UTF8))
    return _explain(
        frame, batch, typed, texts, whole_line, _local_times(texts, batch), raw=F.col("line"), line=F.col("line")
    )


def _explained_parquet(spark: SparkSession, batch: Batch, urls: Sequence[str]) -> DataFrame:
    read = spark.read.parquet(*urls)
    frame = read.select(
        F.struct(*(F.col(ticked(name)) for name in batch.header)).alias("row"), F.input_file_name().alias(FILE)
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
    nulls = null_texts(batch.source)
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
        if column in local and skipped(batch.timezone):
            # Read as if it were UTC: the local time as written. With a zone in the text both readings agree.
            is_skipped = (local[column] != value) & (F.from_utc_timestamp(value, batch.timezone) != local[column])
            told = F.concat(quoted, F.lit(f"' does not exist in {batch.timezone}: a clock change skips it"))
            unfit.append(F.when(~is_null & is_skipped, told))
        values.append(F.when(is_null, F.lit(None)).otherwise(value).alias(column))
    malformed = F.coalesce(
        F.lit(None).cast("string"), *(F.when(found, F.lit(sentence)) for found, sentence in whole_line)
    )
    problems = F.array_compact(F.array(*unfit)) if unfit else F.array().cast("array<string>")
    corrupt = F.col(f"typed.{CORRUPT}").isNull() if batch.has_plain_reader else F.lit(False)
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
        "escape": NEVER,
        "nullValue": NEVER,
        "timeZone": timezone or batch.timezone,
    }
    return F.from_csv(text, f"v {kind}", options)["v"]


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "int" else f"a {kind}"
