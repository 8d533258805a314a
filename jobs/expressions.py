"""One SQL expression of a pipeline file: what it may contain, and what Spark says of it against a frame without rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from conf.names import did_you_mean

MAX_CHARACTERS = 10_000
MAX_PARENTHESES = 100

# Names that Spark resolves to the clock, the user or the session where no column has them.
_SURROUNDINGS = frozenset(
    """
    current_catalog current_database current_date current_path current_schema current_time current_timestamp current_user
    localtimestamp session_user user
    """.split()  # noqa: SIM905 (reads worse as a list of quoted words)
)
_SUBQUERIES = (
    "ScalarSubquery",
    "InSubquery",
    "ListQuery",
    "Exists",
    "LateralSubquery",
    "FunctionTableSubqueryArgumentExpression",
)
_REFUSED_NODES = {
    **dict.fromkeys(_SUBQUERIES, "a subquery"),
    "WindowExpression": "OVER (...): write it under features.windows",
    "UnresolvedWindowExpression": "OVER (...): write it under features.windows",
    "ExpressionWithUnresolvedIdentifier": "IDENTIFIER(...)",
    **dict.fromkeys(
        ("First", "Last", "AnyValue", "AggregateExpression"),  # the parser resolves these three itself
        "first, last or any_value: which row comes first depends on how rows are split",
    ),
    "NamedParameter": "a parameter marker",
    "PosParameter": "a parameter marker",
}


@dataclass(frozen=True)
class Node:
    """One node of Spark's parsed tree: its class, and for functions and columns the parts of the name."""

    kind: str
    name: tuple[str, ...] = ()
    plain: bool = True  # a function without DISTINCT or FILTER
    children: int = 0


@dataclass(frozen=True)
class Analysis:
    """What an expression is: its type, or the problem that it has."""

    type: DataType | None = None
    problem: str | None = None


@cache
def allowed_functions() -> frozenset[str]:
    """The names in conf/functions.txt."""
    lines = resources.files("conf").joinpath("functions.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(name for line in lines if not line.startswith("#") for name in line.split())


def parse(spark: SparkSession, sql: str) -> list[Node]:
    """The nodes of Spark's parse tree, root first.

    Raises:
        pyspark.errors.ParseException: it is not SQL.
    """
    state = spark._jsparkSession.sessionState()
    return [_node(fields) for fields in json.loads(state.sqlParser().parseExpression(sql).toJSON())]


def analyse(frame: DataFrame, sql: str, *, aggregate: bool = False) -> Analysis:
    """Judge one expression against the columns of a frame.

    Args:
        aggregate: whether it must sum up many rows, or must stay within one.
    """
    if len(sql) > MAX_CHARACTERS or _parentheses(sql) > MAX_PARENTHESES:
        return Analysis(
            problem=f"expected at most {MAX_CHARACTERS:,} characters and {MAX_PARENTHESES} nested parentheses, found more."
        )
    try:
        problem = _refused(frame, parse(frame.sparkSession, sql))
        if problem:
            return Analysis(problem=problem)
        value = F.expr(sql).alias("value")
        result = frame.agg(value) if aggregate else frame.select(value)
        plan = result._jdf.queryExecution().analyzed()
        if not aggregate and str(plan.nodeName()) == "Aggregate":
            return Analysis(
                problem="an aggregate stands where one row at a time is looked at. Write it under features.windows or features.children."
            )
        if not plan.deterministic():
            return Analysis(problem="the result is not determined by the row. Use functions of conf/functions.txt.")
        return Analysis(type=result.schema["value"].dataType)
    except PySparkException as error:
        return Analysis(problem=sentence(error, frame.columns))


def sentence(error: PySparkException, columns: Iterable[str]) -> str:
    """Spark's error in one sentence: no error class, no plan, no position in generated text."""
    condition, parameters = error.getCondition() or "", error.getMessageParameters() or {}
    if condition.startswith(("UNRESOLVED_COLUMN", "UNRESOLVED_FIELD")):
        name = parameters.get("objectName", parameters.get("fieldName", "")).replace("`", "")
        return f"there is no column {name} here. {did_you_mean(name, columns)}"
    if condition in ("MISSING_GROUP_BY", "MISSING_AGGREGATION"):
        return "expected an aggregate such as count(*) or sum(x), found a value of single rows."
    if condition == "PARSE_SYNTAX_ERROR":
        return f"this is not an SQL expression: it cannot be read at {parameters.get('error', '')}."
    text = re.sub(r"^\[[A-Z_.0-9]+\]\s*", "", str(error).strip())
    text = re.split(r"\s*SQLSTATE|\s*;\s*line \d+|\n", text, maxsplit=1)[0]
    first = re.split(r"(?<=[^0-9])\.\s", text + " ", maxsplit=1)[0].strip().rstrip(".")
    return f"{first[:1].lower()}{first[1:]}." if isinstance(error, AnalysisException) else f"{first}."


def _node(fields: dict[str, Any]) -> Node:
    kind = fields["class"].rsplit(".", 1)[-1]
    name = tuple(part.strip() for part in str(fields.get("nameParts") or "[]").strip("[]").split(",") if part.strip())
    plain = not fields.get("isDistinct") and fields.get("filter") is None
    return Node(kind, name, plain, int(fields.get("num-children", 0)))


def _refused(frame: DataFrame, nodes: list[Node]) -> str | None:
    """The first thing that an expression may not contain, as a sentence."""
    columns = {column.lower() for column in frame.columns}
    for node in nodes:
        if node.kind in _REFUSED_NODES:
            return f"expressions may not contain {_REFUSED_NODES[node.kind]}."
        name = ".".join(node.name).lower()
        if node.kind == "UnresolvedFunction" and name not in allowed_functions():
            return _not_allowed(frame.sparkSession, name)
        if node.kind == "UnresolvedAttribute" and name in _SURROUNDINGS - columns:
            return f"{name} depends on when and where the job runs: expressions may depend on the row alone."
    return None


def _not_allowed(spark: SparkSession, name: str) -> str:
    if "." not in name and spark.catalog.functionExists(name):
        return f"{name} is left out of conf/functions.txt, the list of functions whose result depends on the row alone."
    hint = did_you_mean(name, allowed_functions())
    return (
        f"there is no function {name}. {hint if hint.startswith('Did') else 'The file conf/functions.txt lists all.'}"
    )


def _parentheses(sql: str) -> int:
    deepest = depth = 0
    for character in sql:
        depth += {"(": 1, ")": -1}.get(character, 0)
        deepest = max(deepest, depth)
    return deepest
