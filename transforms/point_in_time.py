"""As-of join: to each query the last row that was known before its moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from conf.values import Duration
from transforms.arrays import runs
from transforms.blocks import Sides
from transforms.errors import ContractError
from transforms.time_buckets import answer_each, problems_of_sides


def as_of_join(
    queries: DataFrame,
    rows: DataFrame,
    *,
    by: Mapping[str, str],
    as_of: str,
    known_at: str,
    at: str,
    key: Sequence[str],
    within: timedelta | Duration,
    take: Mapping[str, str],
) -> DataFrame:
    """The queries, each row once and unchanged, and the columns of `take` (new name -> column of `rows`) of one row each.

    That row is the last with equal key and `as_of - within <= known_at < as_of`. Of rows known at the same instant the one
    with the largest `at` wins, then the one with the largest `key`, compared column by column, a null below any value. It is
    taken as a whole: what is null in it stays null. A null in the key, in `as_of` or in `known_at` matches nothing; a query
    without a match has nulls. The result does not depend on the order or partitioning of either frame.

    Raises:
        ContractError: a column is absent, or its type does not fit its role; all problems are listed.
    """
    reach = within.length if isinstance(within, Duration) else within
    problems = problems_of_sides(queries, rows, by=by, as_of=as_of, known_at=known_at, reach=reach)
    problems += _problems(queries, rows, at=at, key=key, take=take)
    if problems:
        raise ContractError([f"as-of join: {problem}." for problem in problems])
    ranking = {f"rank_{i}": name for i, name in enumerate((at, *key))}
    taken = {f"taken_{i}": name for i, name in enumerate(take.values())}
    return answer_each(
        queries,
        rows,
        by=by,
        as_of=as_of,
        known_at=known_at,
        reach=reach,
        carried=ranking | taken,
        added=[T.StructField(new, rows.schema[name].dataType) for new, name in take.items()],
        answer=partial(_take, taken=tuple(taken), ranking=tuple(ranking), reach=reach),
    )


def _problems(
    queries: DataFrame, rows: DataFrame, *, at: str, key: Sequence[str], take: Mapping[str, str]
) -> list[str]:
    wanted = dict.fromkeys((at, *key, *take.values()))
    problems = [f"no column {name!r} among the rows" for name in wanted if name not in rows.columns]
    for name in (at, *key):
        if name in rows.columns and not isinstance(rows.schema[name].dataType, T.AtomicType):
            problems.append(
                f"{name!r} is {rows.schema[name].dataType.simpleString()}: rows are ordered by plain values"
            )
    taken = {column.lower() for column in queries.columns}
    problems += [f"{new!r} is already a column: take it under another name" for new in take if new.lower() in taken]
    if not take:
        problems.append("`take` names no column")
    return problems


def _take(both: Sides, *, taken: Sequence[str], ranking: Sequence[str], reach: timedelta) -> list[pa.ChunkedArray]:
    rows: list[pa.ChunkedArray] = both.events.select(list(taken)).take(_last_known(both, ranking, reach)).columns
    return rows


def _last_known(both: Sides, ranking: Sequence[str], reach: timedelta) -> pa.Array:
    """For each query the position of its row among the events, null where there is none."""
    ends = both.ends()
    starts = both.starts(reach, ends)
    order = _ranked_within_ties(both, ranking)
    missing = starts == ends
    return pa.array(order[np.where(missing, 0, ends - 1)] if len(order) else ends, mask=missing)


def _ranked_within_ties(both: Sides, ranking: Sequence[str]) -> np.typing.NDArray[np.int64]:
    """Positions of the events in order of time, those known at the same instant by `at` and key."""
    instant = runs(both.event_codes)
    order = np.arange(len(instant))
    same = instant[1:] == instant[:-1]
    tied = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same])) if len(order) else order
    if len(tied):
        rivals = both.events.select(list(ranking)).take(tied)
        columns = {"instant": pa.array(instant[tied])}
        for name in ranking:
            columns |= {f"{name}_known": rivals.column(name).is_valid(), name: rivals.column(name)}
        by = [(name, "ascending") for name in columns]
        order[tied] = tied[pc.sort_indices(pa.table(columns), sort_keys=by).to_numpy()]
    return order
