"""The aggregates that a trailing window may take, read from their SQL text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.errors import ParseException
from pyspark.sql import SparkSession

from transforms.errors import ConfigError
from transforms.windows import FUNCTIONS

_SAME = {"mean": "avg", "var_samp": "variance", "stddev_samp": "stddev", "std": "stddev"}


@dataclass(frozen=True)
class Call:
    """One aggregate: `function` of `transforms.windows.FUNCTIONS` over a SQL expression; None counts rows."""

    function: str
    argument: str | None


def parse(spark: SparkSession, text: str) -> Call:
    """Read an aggregate such as `avg(delay)`, `count(*)` or `sum(price * pieces)`.

    Raises:
        ConfigError: it is anything else than one of the window functions over one expression.
    """
    try:
        # Spark's own parser, so that quotes, comments and brackets mean here what they mean to Spark.
        tree = spark._jsparkSession.sessionState().sqlParser().parseExpression(text)
    except ParseException as error:
        raise ConfigError(f"{text!r} is not a SQL expression: {error.getCondition()}.") from error
    function = _function(tree)
    if function in FUNCTIONS:
        argument = text[text.index("(") + 1 : text.rindex(")")].strip()
        if argument != "*":
            return Call(function, argument)
        if function == "count":
            return Call(function, None)
    raise ConfigError(
        f"{text!r} is not an aggregate for a trailing window: expected one of {', '.join(FUNCTIONS)} over one expression, or count(*)."
    )


def _function(tree: Any) -> str | None:
    """The function of a parsed expression that is one plain call with one argument."""
    kind = tree.getClass().getSimpleName()
    if kind == "AggregateExpression":  # the parser itself resolves `last(x)`
        return str(tree.aggregateFunction().prettyName())
    if kind != "UnresolvedFunction" or tree.arguments().size() != 1:
        return None
    if tree.isDistinct() or tree.filter().isDefined() or tree.ignoreNulls().isDefined():
        return None
    name = str(tree.nameParts().mkString(".")).lower()
    return _SAME.get(name, name)
