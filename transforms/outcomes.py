"""What of a source is known only later, and when: the gates that keep outcomes out of the past.

A column listed in `outcomes` is known at its entry's `known_at`. A derived column that is computed from outcome columns and is
not listed itself is known when all of them are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.schema import Source
from transforms.instants import instant

Gates = Mapping[str, frozenset[str]]


def columns_used(frame: DataFrame, expression: str) -> set[str]:
    """The columns of `frame` that a SQL expression (an aggregate too) reads: resolved by Spark, in the case that the expression has."""
    references = frame.select(F.expr(expression))._jdf.queryExecution().analyzed().references().iterator()
    used = set()
    while references.hasNext():
        used.add(references.next().name())
    return used


def gates(rows: DataFrame, source: Source) -> dict[str, frozenset[str]]:
    """Column known later, in lower case -> the `known_at` expressions that must all have come to pass.

    Args:
        rows: has the source's columns, the derived ones too.
    """
    found = {column.lower(): frozenset([outcome.known_at]) for column, outcome in source.outcome_columns.items()}
    for name, expression in source.derive.items():
        if found and name.lower() not in found:
            inherited = gates_of(found, columns_used(rows, expression))
            if inherited:
                found[name.lower()] = inherited
    return found


def gates_of(known_later: Gates, used: Iterable[str]) -> frozenset[str]:
    """The gates of all columns that an expression uses; empty when it uses no outcome."""
    return frozenset().union(*(known_later.get(column.lower(), frozenset()) for column in used))


def known_at(rows: DataFrame, source: Source, gates_used: frozenset[str], timezone: str) -> Column | None:
    """When what was used of a row is known: the latest of its gates, else the source's `known_at`, else its `at`.

    Null where one of the gates is null: nobody can say that it has come to pass. None for a source without time.
    """
    expressions = sorted(gates_used) or [text for text in (source.known_at or source.at,) if text]
    if not expressions:
        return None
    moments = [instant(rows, expression, timezone) for expression in expressions]
    if len(moments) == 1:
        return moments[0]
    all_known = reduce(lambda left, right: left & right, (moment.isNotNull() for moment in moments))
    return F.when(all_known, F.greatest(*moments))
