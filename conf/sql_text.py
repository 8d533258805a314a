"""The column names that an SQL expression mentions, found without Spark.

It errs on the side of too many: good enough to find a leak before a session exists. `jobs.check` asks Spark's own parser later.
"""

from __future__ import annotations

import re
from functools import cache

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<text>[rRxX]?'(?:[^'\\]|\\.|'')*(?:'|\Z)|[rRxX]?"(?:[^"\\]|\\.|"")*(?:"|\Z))
    | (?P<quoted>`(?:[^`]|``)*(?:`|\Z))
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?:BD|[LSYDF])?(?![A-Za-z0-9_]))
    | (?P<word>\w+)
    | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)

# Words that are never a column where they stand unquoted in an expression.
_KEYWORDS = frozenset(
    """
    all and any as asc between both by case cast collate cross current desc distinct div else end escape except exists extract false filter
    first following for from having ignore ilike in interval is last leading like limit not null nulls on or order over partition
    preceding range regexp respect rlike row rows similar some then to trailing true try_cast unbounded union using when where within
    """.split()  # noqa: SIM905 (a list of seventy quoted words reads worse)
)


@cache
def mentioned(sql: str) -> frozenset[str]:
    """Lower-case names that may be columns: not functions, keywords, type names after AS, units of an INTERVAL, or typed literals' types.

    `count(*)` mentions `*`; of `a.b` both parts are mentioned.
    """
    tokens = [(match.lastgroup, match[0]) for match in _TOKEN.finditer(sql) if match.lastgroup != "space"]
    names = set()
    for index, (kind, token) in enumerate(tokens):
        before = tokens[index - 1][1].lower() if index else ""
        after_kind, after = tokens[index + 1] if index + 1 < len(tokens) else ("", "")
        if kind == "quoted":
            names.add(token.strip("`").replace("``", "`").lower())
        elif kind == "word" and not _is_syntax(tokens, index, before, after_kind or "", after):
            names.add(token.lower())
        elif token == "*" and before == "(":
            names.add("*")
    return frozenset(names)


def _is_syntax(tokens: list[tuple[str | None, str]], index: int, before: str, after_kind: str, after: str) -> bool:
    word = tokens[index][1].lower()
    is_function = after == "("
    is_literal_type = after_kind == "text" and word in (
        "date",
        "timestamp",
        "timestamp_ntz",
        "timestamp_ltz",
        "interval",
    )
    is_unit = index >= 2 and tokens[index - 2][1].lower() == "interval" and tokens[index - 1][0] in ("number", "text")
    is_extracted = before == "(" and after.lower() == "from"
    # `first` and the like are keywords only beside their partners; as a bare word they may be a column.
    is_keyword = (
        word in _KEYWORDS
        and before != "."
        and not (word in ("first", "last", "current", "range", "row", "rows") and after in ("", ")", ","))
    )
    return is_function or is_literal_type or is_unit or is_extracted or is_keyword or before == "as"
