"""Records of raw files, counted without parsing their fields: what a reader keeps is compared with it, so that no row is lost.

A record of CSV and JSON is a line that holds more than white space. Odd are lines that only `explained.rows` reads rightly: those
with an odd number of quotes (a value may run over the end of the line) and those that are not valid UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Source
from transforms.parse import FILE, text_lines

_COUNTS = f"{FILE} STRING, rows LONG, odd LONG"
_QUOTE, _SPACE, _ASCII = 0x22, 0x20, 0x7F
_INDENTED = re.compile(rb"(?:^|\n)[\x00-\x20]")  # a line that begins with white space may hold nothing else
_BYTE_ORDER_MARK, _REPLACEMENT = b"\xef\xbb\xbf", "\ufffd".encode()


def count(spark: SparkSession, source: Source, urls: Sequence[str]) -> DataFrame:
    """FILE, `rows` and `odd` of files of any size, compressed ones too; those without a line are left out."""
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
    return lines.groupBy(F.input_file_name().alias(FILE)).agg(
        (F.count(F.lit(1)) - _headers(source)).alias("rows"), F.count_if(odd).alias("odd")
    )


def count_whole(spark: SparkSession, source: Source, urls: Sequence[str]) -> DataFrame:
    """As `count`, of text files that are not compressed and fit a worker's memory: whole arrays of bytes instead of one line at a time."""
    files = spark.read.format("binaryFile").load(list(urls)).select(F.input_file_name(), "content")
    is_csv, is_utf8 = source.file_format == "csv", source.encoding == "utf-8"
    return files.mapInArrow(partial(_counted, headers=_headers(source), is_csv=is_csv, is_utf8=is_utf8), _COUNTS)


def count_lines(content: bytes, *, is_csv: bool, is_utf8: bool) -> tuple[int, int]:
    """Lines that hold more than white space, and how many of them are odd."""
    content = content.removeprefix(_BYTE_ORDER_MARK)
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    is_quoted = is_csv and b'"' in content
    is_damaged = is_utf8 and not content.isascii() and not _is_sound(content)
    if not is_quoted and not is_damaged and not _INDENTED.search(content):
        return content.count(b"\n") + (content[-1:] not in (b"", b"\n")), 0
    data = np.frombuffer(content, np.uint8)
    starts = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(data == ord("\n")) + 1])
    starts = starts[starts < data.size]
    if not starts.size:
        return 0, 0
    largest = np.maximum.reduceat(data, starts)
    odd = np.bitwise_xor.reduceat(data == _QUOTE, starts) if is_quoted else np.zeros(starts.size, bool)
    if is_damaged:
        ends = np.append(starts[1:], data.size)
        for line in np.flatnonzero(largest > _ASCII):
            odd[line] |= not _is_sound(content[starts[line] : ends[line]])
    is_line = largest > _SPACE
    return int(is_line.sum()), int((is_line & odd).sum())


def _counted(
    batches: Iterator[pa.RecordBatch], *, headers: int, is_csv: bool, is_utf8: bool
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        found = [
            (url, lines - headers, odd)
            for url, content in zip(batch.column(0).to_pylist(), batch.column(1), strict=True)
            for lines, odd in [count_lines(content.as_py(), is_csv=is_csv, is_utf8=is_utf8)]
            if lines
        ]
        urls, rows, odd = zip(*found, strict=True) if found else ((), (), ())
        columns = [pa.array(urls, pa.string()), pa.array(rows, pa.int64()), pa.array(odd, pa.int64())]
        yield pa.record_batch(columns, [FILE, "rows", "odd"])


def _is_sound(content: bytes) -> bool:
    """Valid UTF-8 in which nothing was replaced."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return _REPLACEMENT not in content


def _headers(source: Source) -> int:
    return 1 if source.file_format == "csv" else 0
