"""The operators of queries that have run, and about how long tasks were busy with each.

Spark measures the tasks of a query as a whole, and by themselves only some operators: scans, sorts, aggregations, Python, both ends of a
shuffle. Their times overlap where one reads from another. So a query's task time goes to the operators that were measured in proportion
to what was measured, at most as much, and the rest in equal parts to the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.gpu_plan.explained import columns

# Metrics, by name, that are the time of the operator itself.
OWN_TIMES = (
    "scan time", "sort time", "time in aggregation build", "time to execute Python code", "shuffle write time", "fetch wait time",
)  # fmt: skip
# Where rows are handed on, and nothing is done to them.
_PASSING = ("AdaptiveSparkPlan", "InputAdapter", "AQEShuffleRead", "ReusedExchange", "ColumnarToRow", "WriteFiles")
_DELTA_LOG = ("_delta_log", "DeltaLogFileIndex")
_CLASSES = {
    "Scan ExistingRDD": "RDDScanExec", "Scan": "FileSourceScanExec", "Exchange": "ShuffleExchangeExec",
}  # fmt: skip
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Operator:
    """One operator of one query.

    Attributes:
        name: Spark's class, such as `ProjectExec`.
        seconds: share of the task time of its query.
        columns: as in `explained.Explained`.
        of_log: whether its query reads or writes a Delta table's own log.
    """

    name: str
    seconds: float
    columns: frozenset[str]
    of_log: bool


def of(query: Mapping[str, Any], graph: Mapping[str, Any], task_seconds: float) -> list[Operator]:
    """The operators of a query, as Spark's status store has it and the graph of its last plan, by the names of the store's JSON."""
    nodes = [node for node in _nodes(graph["nodes"]) if not node["name"].startswith(_PASSING)]
    if not nodes:
        return []
    of_log = str(query["description"]).startswith("Delta: ") or any(
        word in node["desc"] for node in nodes for word in _DELTA_LOG
    )
    measured = [_measured(node, query["metricValues"] or {}) for node in nodes]
    total = sum(measured)
    scale = min(1.0, task_seconds / total) if total else 0.0
    others = measured.count(0.0)
    part = max(task_seconds - total * scale, 0.0) / (others or len(nodes))
    return [
        Operator(
            class_name(node["name"]),
            own * scale + (part if own == 0 or others == 0 else 0.0),
            frozenset(columns(node["desc"])),
            of_log,
        )
        for node, own in zip(nodes, measured, strict=True)
    ]


def class_name(node: str) -> str:
    """`Scan parquet ` is Spark's `FileSourceScanExec`, `Project` its `ProjectExec`."""
    known = next((name for prefix, name in _CLASSES.items() if node == prefix or node.startswith(f"{prefix} ")), None)
    return known or f"{re.split(r'[ (]', node.strip())[0]}Exec"


def seconds(text: str) -> float:
    """Of a metric as Spark shows it: `675 ms`, or a total with its spread over tasks in a line of its own."""
    match = re.match(r"([\d.,]+) (ms|s|min|m|h)\b", text.rpartition("\n")[2])
    return float(match[1].replace(",", "")) * _UNITS[match[2]] if match else 0.0


def _nodes(graph: Any) -> Iterator[Mapping[str, Any]]:
    """Operators alone, taken out of the stages of generated code that Spark shows them in."""
    for each in graph:
        if each.get("cluster"):
            yield from _nodes(each["cluster"]["nodes"])
        else:
            yield each["node"]


def _measured(node: Mapping[str, Any], values: Mapping[str, str]) -> float:
    own = (metric for metric in node["metrics"] if metric["name"] in OWN_TIMES)
    return sum(seconds(values.get(str(metric["accumulatorId"]), "")) for metric in own)
