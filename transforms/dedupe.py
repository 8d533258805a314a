"""One row per key, whatever the order in which files arrive.

Rows of one key are put in a total order: by `latest`, then by the delivery date in the path, then by path, then by content.
The first of them is the key's row. Two rows of the same path stand in the order of delivery: a path holds one file at a time,
so that only its newest content is the truth. A row that is equal to the stored one changes nothing, whatever its rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial, reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from transforms.contracts import ROW_ID, Contract

KIND = "_kind"  # why a row leaves: duplicate, unchanged, superseded; null for the key's row
STORED = "_stored"  # the row is in the table already
CONTENT = "_content"  # hash of the row's content, how it came here left out
HASH = "_hash"  # hash of the key
_BLOCK = "bin INT, incoming BOOLEAN, hashes BINARY"

_DATE = r"(?<![0-9])((?:19|20)[0-9]{2})[-_/.]?(0[1-9]|1[0-2])(?:[-_/.]?(0[1-9]|[12][0-9]|3[01]))?"
_LATEST = re.compile(r"(.*?)(?:\s+(asc|desc))?(?:\s+nulls\s+(first|last))?", re.IGNORECASE | re.DOTALL)


def content_hash(columns: Iterable[str]) -> Column:
    """128 bits over columns: nulls count, and no two different rows are written alike (JSON of each value's exact text)."""
    texts = F.struct(*(F.col(name).cast("string").alias(name) for name in columns))
    return F.substring(F.sha2(F.to_json(texts), 256), 1, 32)


def row_id(columns: Iterable[str]) -> Column:
    """Stand-in for a key: content hash, and ordinal 1; `number_equal_rows` counts on."""
    return F.concat(content_hash(columns), F.lit(":1"))


def key_hash(contract: Contract) -> Column:
    """A hash of the key (of a row id: without its ordinal). Different keys may share it; equal keys always do."""
    if contract.key == (ROW_ID,):
        return F.xxhash64(F.substring_index(ROW_ID, ":", 1))
    return F.xxhash64(*contract.key)


def repeated(incoming: DataFrame, contract: Contract, stored: DataFrame | None = None) -> DataFrame:
    """Hashes of keys that `incoming` has more than once, or that are in `stored` too.

    Nearly all keys come once, so that a hash aggregate would hold every one of them. Sorted numbers take a fifth of its time, and
    they are shuffled in blocks, since a row that holds one number is mostly overhead.

    Args:
        incoming, stored: have the contract's key columns; no others are read.
    """
    session = incoming.sparkSession
    partitions = int(session.conf.get("spark.sql.shuffle.partitions") or 1)
    sides = [(incoming, True)] if stored is None else [(incoming, True), (stored, False)]
    blocks = [
        rows.select(key_hash(contract).alias(HASH)).mapInArrow(partial(_blocks, incoming=mine, bins=partitions), _BLOCK)
        for rows, mine in sides
    ]
    by_bin = reduce(DataFrame.unionByName, blocks).repartition(partitions, "bin")
    return by_bin.mapInArrow(_repeated, f"{HASH} LONG")


def _blocks(batches: Iterator[pa.RecordBatch], *, incoming: bool, bins: int) -> Iterator[pa.RecordBatch]:
    """The hashes of a partition, a block of bytes for each bin."""
    parts = [batch.column(0).to_numpy() for batch in batches]
    if not parts:
        return
    hashes = np.sort(np.concatenate(parts))
    # In order, so that the hashes of a bin stand together: bins are equal stretches of all 64-bit numbers.
    edges = np.searchsorted(hashes, [-(2**63) + k * (2**64 // bins) for k in range(1, bins)])
    blocks = [part.tobytes() for part in np.split(hashes, edges)]
    columns = [pa.array(range(bins), pa.int32()), pa.array([incoming] * bins), pa.array(blocks, pa.binary())]
    yield pa.record_batch(columns, ["bin", "incoming", "hashes"])


def _repeated(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The hashes of some bins that came in twice, or came in and are stored."""
    sides: dict[bool, list[npt.NDArray[np.int64]]] = {True: [], False: []}
    for batch in batches:
        for incoming, block in zip(batch.column("incoming").to_pylist(), batch.column("hashes"), strict=True):
            sides[incoming].append(np.frombuffer(block.as_buffer(), np.int64))
    hashes, stored = (np.sort(np.concatenate([np.empty(0, np.int64), *blocks])) for blocks in sides.values())
    twice = hashes[1:][hashes[1:] == hashes[:-1]]
    few, many = sorted((hashes, stored), key=len)
    known = few[np.searchsorted(many, few, "left") < np.searchsorted(many, few, "right")]
    yield pa.record_batch([pa.array(np.unique(np.concatenate([twice, known])))], [HASH])


def resolve(candidates: DataFrame, contract: Contract, *, latest: str | None) -> DataFrame:
    """Name the row of each key.

    Args:
        candidates: every row of the keys in question, in contract order, with STORED; at most one of a key is stored.
        latest: SQL of the order, the largest first (`updated_at`, `updated_at desc`) or the smallest (`version asc`); nulls last.

    Returns:
        The candidates with CONTENT and KIND. A stored row is replaced only by one that ranks higher and differs.
    """
    frame = candidates.withColumn(CONTENT, content_hash(content_columns(contract)))
    if contract.key == (ROW_ID,):
        frame = number_equal_rows(frame)
    key = Window.partitionBy(*contract.key)
    ranked = key.orderBy(*_order(latest)).rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    frame = frame.withColumns(
        {
            "first_content": F.first(CONTENT).over(ranked),
            "first_stored": F.first(STORED).over(ranked),
            "stored_content": F.max(F.when(F.col(STORED), F.col(CONTENT))).over(key),
            "rank": F.row_number().over(key.orderBy(*_order(latest))),
        }
    )
    stays = F.col("first_stored") | F.coalesce(F.col("first_content") == F.col("stored_content"), F.lit(False))
    is_row = F.when(stays, F.col(STORED)).otherwise(F.col("rank") == 1)
    equal = F.col(CONTENT) == F.when(stays, F.col("stored_content")).otherwise(F.col("first_content"))
    kind = (
        F.when(is_row, F.lit(None))
        .when(F.col(STORED), "superseded")
        .when(~stays, "duplicate")
        .when(equal, "unchanged")
        .otherwise("superseded")
    )
    return frame.withColumn(KIND, kind).drop("first_content", "first_stored", "stored_content", "rank")


def number_equal_rows(frame: DataFrame) -> DataFrame:
    """Give equal rows of one file the ordinals 1, 2, ...; equal rows of two files then share their row ids, as a renamed copy should."""
    same = Window.partitionBy(CONTENT, "_file", STORED).orderBy(ROW_ID)
    ordinal = F.when(F.col(STORED), F.col(ROW_ID)).otherwise(
        F.concat(F.substring_index(ROW_ID, ":", 1), F.lit(":"), F.row_number().over(same))
    )
    return frame.withColumn(ROW_ID, ordinal)


def content_columns(contract: Contract) -> list[str]:
    """What a row says: all columns but those that tell how it came here."""
    return [name for name in contract.columns if not name.startswith("_") and name != ROW_ID]


def delivery_date(file: Column) -> Column:
    """The last date in a path as text that sorts: 2024-01-05, 20240105, 2024/01/05, year=2024/month=01/day=05, 2024-01."""
    plain = F.regexp_replace(file, r"(?i)(year|month|day|date|dt)=", "")
    dates = F.regexp_extract_all(plain, F.lit(f"({_DATE})"), F.lit(1))
    return F.regexp_replace(F.try_element_at(dates, F.lit(-1)), "[^0-9]", "")


def rank_of(path: str) -> tuple[str, str]:
    """A path's place in the order of deliveries: its date as `delivery_date` gives it, then the path."""
    plain = re.sub(r"(?i)(year|month|day|date|dt)=", "", path)
    dates = [match[0] for match in re.finditer(_DATE, plain)]
    return re.sub("[^0-9]", "", dates[-1]) if dates else "", path


def _order(latest: str | None) -> list[Column]:
    order = [F.desc_nulls_last(delivery_date(F.col("_file"))), F.desc("_file"), F.asc(STORED), F.desc(CONTENT)]
    if latest is None:
        return order
    match = _LATEST.fullmatch(latest.strip())
    assert match is not None
    first, nulls_first = F.expr(match[1]), (match[3] or "last").lower() == "first"
    if (match[2] or "desc").lower() == "asc":
        return [F.asc_nulls_first(first) if nulls_first else F.asc_nulls_last(first), *order]
    return [F.desc_nulls_first(first) if nulls_first else F.desc_nulls_last(first), *order]
