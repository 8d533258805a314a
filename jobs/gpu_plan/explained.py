"""What NVIDIA's RAPIDS plugin for Spark says of the operators of a plan: whether each would run on a GPU, and why not.

The plugin writes an operator a line, indented below the one that reads its rows, with the operator's expressions below it:

    !Exec <FilterExec> cannot run on GPU because not all expressions can be replaced
      !Expression <RLike> x#7 RLIKE a.*b cannot run on GPU because GPU does not currently support the operator class ...
      *Exec <FileSourceScanExec> will run on GPU
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_OPERATOR = re.compile(r"\s*[*!@#]\s*(?:Exec )?<(\w+Exec)> (.*)")
_REFUSED_EXPRESSION = re.compile(r"\s*!Expression <(\w+)> .*cannot run on GPU because (.*)")
# Says no more than that the expressions below it say why.
_EXPRESSIONS = "not all expressions can be replaced"
# The reason of an operator that the plugin takes but for the Python function in it.
PYTHON = "Python stays on processors, its rows need not"
MOST = 160  # letters of a reason: some list every column


@dataclass(frozen=True)
class Explained:
    """An operator by the name of Spark's class, such as `ProjectExec`.

    Attributes:
        reason: why it would stay on processors, in the plugin's words; None where it would not.
        columns: numbers that Spark gave to the columns in its expressions; unique in a session, so that they tell one operator from another.
    """

    operator: str
    reason: str | None
    columns: frozenset[str]


def parse(lines: Iterable[str]) -> list[Explained]:
    """Every operator in the order of the lines; other lines are passed over."""
    found: list[tuple[str, str | None, set[str], list[str]]] = []
    for line in lines:
        if match := _OPERATOR.match(line):
            found.append((match[1], _reason(match[2]), set(), []))
        elif found:
            found[-1][2].update(columns(line))
            if match := _REFUSED_EXPRESSION.match(line):
                found[-1][3].append(f"{match[1]}: {_short(match[2])}")
    return [
        Explained(operator, _with_expressions(reason, refused), frozenset(named))
        for operator, reason, named, refused in found
    ]


def columns(text: str) -> list[str]:
    """The numbers of the columns that a text names, as `x#7` and `y#8L`."""
    return re.findall(r"#(\d+)", text)


def _reason(verdict: str) -> str | None:
    if "will run on GPU" in verdict:
        return None
    if "will partially run on GPU" in verdict:
        return PYTHON
    return _short(verdict.partition(" because ")[2]) or verdict.strip()


def _with_expressions(reason: str | None, refused: list[str]) -> str | None:
    """The innermost expressions say why those around them are refused: they come last."""
    if reason is None or _EXPRESSIONS not in reason or not refused:
        return reason
    others = [part for part in reason.split("; ") if part != _EXPRESSIONS]
    return "; ".join([*others, refused[-1]])


def _short(reason: str) -> str:
    """Without what names single columns and objects, so that equal reasons add up."""
    reason = re.sub(r"\. The data type of following expressions.*", "", reason.strip())
    reason = re.sub(r" \[[^\]]*#\d[^\]]*\]", "", reason)
    reason = re.sub(r"#\d+L?|@[0-9a-f]{6,}|\$\$Lambda\S*", "", reason)
    reason = re.sub(r"GPU does not currently support the operator class \S+", "not supported", reason)
    parts = sorted({part if len(part) <= MOST else f"{part[:MOST]}..." for part in reason.split("; ")})
    return "; ".join(parts)
