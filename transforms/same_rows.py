"""Whether two frames are computed row by row from the same rows: then one pass over those serves both."""

from __future__ import annotations

from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql.classic.column import Column as ClassicColumn


def same_rows(left: DataFrame, right: DataFrame) -> tuple[DataFrame, list[int], list[int]] | None:
    """A frame of the distinct columns of both, `column_0` and so on, and where those of each stand in it, in their order.

    None where the frames have not the same rows in the same order for certain: something else than a selection stands between
    one of them and what both start from, or a column is another one each time that it is computed.
    """
    session, jvm = left.sparkSession, left.sparkSession._jvm
    assert jvm is not None
    (base, mine), (other, theirs) = _selection(left), _selection(right)
    if not base.fastEquals(other):
        # All columns of a frame that lies in memory, renamed, are that frame again under other names.
        if not base.sameResult(other) or not (mine is None or theirs is None):
            return None
        base = other if mine is None else base
    mine, theirs = (_listed(base.output()) if columns is None else columns for columns in (mine, theirs))
    if not all(expression.deterministic() for expression in (*mine, *theirs)):
        return None
    distinct: list[Any] = []
    places = [_place(expression, distinct) for expression in (*mine, *theirs)]
    rows = DataFrame(jvm.org.apache.spark.sql.classic.Dataset.ofRows(session._jsparkSession, base), session)
    columns: list[Column] = [
        ClassicColumn(jvm.org.apache.spark.sql.classic.ExpressionUtils.column(expression)) for expression in distinct
    ]
    found = rows.select(*(column.alias(f"column_{i}") for i, column in enumerate(columns)))
    return found, places[: len(mine)], places[len(mine) :]


def _selection(frame: DataFrame) -> tuple[Any, list[Any] | None]:
    """What a frame selects from, in Catalyst's words, and the expressions that it selects; None for all columns in order."""
    jvm = frame.sparkSession._jvm
    assert jvm is not None
    # With cached data: what lies in memory stays where a selection starts from.
    plan = frame._jdf.queryExecution().withCachedData()
    plan = jvm.org.apache.spark.sql.catalyst.optimizer.CollapseProject.apply(plan)
    if plan.getClass().getSimpleName() != "Project":
        return plan, None
    return plan.child(), _listed(plan.projectList())


def _listed(sequence: Any) -> list[Any]:
    return [sequence.apply(i) for i in range(sequence.size())]


def _place(expression: Any, distinct: list[Any]) -> int:
    """Position of an expression among the distinct ones, to which it is added if it is new."""
    plain = expression.child() if expression.getClass().getSimpleName() == "Alias" else expression
    for place, known in enumerate(distinct):
        if plain.semanticEquals(known):
            return place
    distinct.append(plain)
    return len(distinct) - 1
