"""Queries brought together with the events that they may see, in pieces that fit in memory.

Both sides are cut by (key, time bucket), a bucket being at least as wide as the furthest look back. A query belongs to the
bucket of its moment; an event is sent to its own bucket and, if a query there can still see it, to the next. So a query
finds all it needs in one bucket, a hot key spreads over its buckets, and nothing depends on how the input was partitioned.

Buckets are hashed into a bounded number of bins, and what travels through the shuffle is not rows but blocks of Arrow
columns, one per bin and some hundred thousand rows: rows would be sorted, sent and converted one by one. For the same reason a
question to rows that another question has answered takes them as blocks too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial, reduce
from operator import and_
from weakref import WeakKeyDictionary

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from transforms.blocks import COLUMNS, Packing, Sides, Unpacking, microseconds
from transforms.layout import Layout
from transforms.same_rows import same_rows

Answer = Callable[[Sides], Iterable[pa.Array]]
Carried = Mapping[str, str | Column]  # a name stands for that column as it is: it is sent once, whatever else it is for

_MOST_BINS = 1 << 15
_WIDEST = timedelta(days=100 * 366)


def bucket_width(reach: timedelta) -> int:
    """Microseconds of a bucket for queries that look back by `reach`.

    Wide buckets copy fewer events to the next bucket, narrow ones spread a hot key over more tasks: eight times the reach,
    but no more than a week unless that is less than twice the reach. At that every second event is copied.
    """
    return microseconds(max(2 * reach, min(8 * reach, timedelta(days=7))))


def problems_of_sides(
    queries: DataFrame, events: DataFrame, *, by: Mapping[str, str], as_of: str, known_at: str, reach: timedelta
) -> list[str]:
    """What keeps two frames from being compared: absent columns, keys of different types, instants that are no timestamps."""
    problems = [f"no column {name!r} among the queries" for name in (*by, as_of) if name not in queries.columns]
    absent = [name for name in (*by.values(), known_at) if name not in events.columns]
    problems += [f"no column {name!r} among the events" for name in absent]
    if not by:
        problems.append("`by` names no column: expected at least one key")
    if not timedelta(0) < reach <= _WIDEST:
        problems.append(f"a look back of {reach} is not usable: expected more than 0 and at most 100 years")
    if problems:
        return problems
    for frame, name in ((queries, as_of), (events, known_at)):
        found = frame.schema[name].dataType
        if not isinstance(found, T.TimestampType):
            problems.append(f"{name!r} is {found.simpleString()}, expected timestamp: cast it, in the time zone meant")
    for mine, theirs in by.items():
        left, right = queries.schema[mine].dataType, events.schema[theirs].dataType
        if not isinstance(left, T.AtomicType):
            problems.append(f"key {mine!r} is {left.simpleString()}: a key is a plain value")
        elif _common_type(left, right) is None:
            found_types = f"{left.simpleString()}, {theirs!r} is {right.simpleString()}"
            problems.append(f"key {mine!r} is {found_types}: cast one to the other's type")
    return problems


def _common_type(left: T.DataType, right: T.DataType) -> T.DataType | None:
    if left == right:
        return left
    if isinstance(left, T.IntegralType) and isinstance(right, T.IntegralType):
        return T.LongType()
    floating = (T.FloatType, T.DoubleType)
    return T.DoubleType() if isinstance(left, floating) and isinstance(right, floating) else None


def _wider(left: T.DataType, right: T.DataType) -> pa.DataType | None:
    """What keys of different types are compared as, None for equal types."""
    if left == right:
        return None
    return pa.int64() if _common_type(left, right) == T.LongType() else pa.float64()


def answer_each(
    queries: DataFrame,
    events: DataFrame,
    *,
    by: Mapping[str, str],
    as_of: str,
    known_at: str,
    reach: timedelta,
    carried: Carried,
    added: Sequence[T.StructField],
    answer: Answer,
) -> DataFrame:
    """Every row of `queries` once, unchanged, with the `added` columns that `answer` gives for it.

    `answer` runs in the workers: it takes the queries and the events of some buckets (see `Sides`) and gives one array per
    added column, in the order of the queries. `carried` are the columns that it needs of the events, under its names for them.
    Events without an instant or with a null in their key are left out; queries like that are asked, with `matchable` false.
    """
    wider = [_wider(queries.schema[mine].dataType, events.schema[theirs].dataType) for mine, theirs in by.items()]
    asked, asking = _sent(queries, as_of, tuple(by), wider, {name: name for name in queries.columns})
    told, telling = _sent(events, known_at, tuple(by.values()), wider, carried)
    bins = min(max(256, 8 * int(str(queries.sparkSession.conf.get("spark.sql.shuffle.partitions")))), _MOST_BINS)
    packing = Packing(asking, telling, bucket_width(reach), microseconds(reach), bins)
    before = _answers.get(queries) if queries.storageLevel == StorageLevel.NONE else None
    one_pass = None if before else same_rows(asked, told)
    if one_pass is not None:
        rows, mine, theirs = one_pass
        blocks = rows.mapInArrow(partial(packing.both, schema=_arrow(rows), mine=mine, theirs=theirs), COLUMNS)
    else:
        known = reduce(and_, (told[i].isNotNull() for i in (telling.instant, *telling.keys)))
        packed = asked.mapInArrow(packing.queries, COLUMNS) if before is None else before.packed(packing)
        blocks = packed.unionAll(told.where(known).mapInArrow(packing.events, COLUMNS))
    unpacking = Unpacking(asking, telling, bucket_width(reach))
    names = [*queries.columns, *(field.name for field in added)]

    def answers(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for both in unpacking.sides(batches):
            yield from pa.table([*both.queries.columns, *answer(both)], names).to_batches(max_chunksize=1 << 16)

    schema = T.StructType([*queries.schema.fields, *added])
    sorted_blocks = blocks.repartition("bin").sortWithinPartitions("bin", "kind")
    answered = sorted_blocks.mapInArrow(answers, schema)
    _answers[answered] = _Answers(sorted_blocks, answers)
    return answered


@dataclass(frozen=True, eq=False)
class _Answers:
    """How a frame was answered. The next question takes its rows as they come from there, in Arrow: to rows and back takes longer."""

    blocks: DataFrame
    answers: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]

    def packed(self, packing: Packing) -> DataFrame:
        """The answers as blocks of the next question's queries."""
        return self.blocks.mapInArrow(partial(_packed, self.answers, packing), COLUMNS)


_answers: WeakKeyDictionary[DataFrame, _Answers] = WeakKeyDictionary()


def _packed(
    before: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    packing: Packing,
    batches: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """The answers to one question as blocks of the next."""
    schema = packing.asking.schema

    def typed(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = zip(batch.columns, schema.types, strict=True)
        return pa.RecordBatch.from_arrays([column.cast(kind) for column, kind in columns], schema=schema)

    yield from packing.queries(map(typed, before(batches)))


def _sent(
    frame: DataFrame, instant: str, keys: Sequence[str], wider: Sequence[pa.DataType | None], carried: Carried
) -> tuple[DataFrame, Layout]:
    """Each column that has a role, once, under a name that cannot be another's; and which is for what."""
    plain = list(dict.fromkeys([*(c for c in carried.values() if isinstance(c, str)), instant, *keys]))
    computed = {name: column for name, column in carried.items() if not isinstance(column, str)}
    columns = [*(frame[name] for name in plain), *computed.values()]
    sent = frame.select(*(column.alias(f"column_{i}") for i, column in enumerate(columns)))
    roles = {
        name: plain.index(column) if isinstance(column, str) else len(plain) + list(computed).index(name)
        for name, column in carried.items()
    }
    return sent, Layout(_arrow(sent), plain.index(instant), tuple(map(plain.index, keys)), tuple(wider), roles)


def _arrow(frame: DataFrame) -> pa.Schema:
    """What an empty frame's `toArrow` would say, for two Spark jobs less."""
    large = frame.sparkSession.conf.get("spark.sql.execution.arrow.useLargeVarTypes") == "true"
    return to_arrow_schema(frame.schema, timezone="UTC", prefers_large_types=large)
