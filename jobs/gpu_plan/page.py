"""What `gpu-plan` found, added up by stage, for people and for programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.gpu_plan.explained import PYTHON, Explained
from jobs.gpu_plan.operators import Operator

UNSEEN = "not explained by the plugin"
MOST_REASONS = 5
# Bytes a second that PCIe 4 moves to a card and back, in practice: what a GPU reads and writes goes through it at least once.
TRANSFER = 20e9


@dataclass
class Stage:
    """Task seconds of one job, by where they would be spent.

    Attributes:
        cores: that the tasks ran on.
        moved: bytes that tasks read and wrote, tables and shuffles.
        accepted: in operators that the plugin would run on a GPU.
        python: in operators that it takes but for their Python function, whose rows come from a GPU then and go back to it.
        of_log: in Delta's reads and writes of its own log, which are many and small.
        refused: in other operators, by operator and reason.
    """

    job: str
    cores: int = 1
    moved: int = 0
    accepted: float = 0.0
    python: float = 0.0
    of_log: float = 0.0
    refused: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    @property
    def stays(self) -> float:
        """Seconds of what is refused."""
        return sum(self.refused.values())

    def share(self, seconds: float) -> float:
        """Of all but Delta's log; 0 where nothing was done."""
        whole = self.accepted + self.python + self.stays
        return seconds / whole if whole else 0.0

    @property
    def at_best(self) -> float:
        """How many times as fast a GPU can make this stage: what it takes costs nothing but moving the bytes, the rest what it did.

        The price of a machine with a GPU, in that of this one, at which it breaks even at the most.
        """
        rest = self.python + self.stays + self.of_log
        whole, with_gpu = self.accepted + rest, rest + self.cores * self.moved / TRANSFER
        return max(1.0, whole / with_gpu) if with_gpu else 1.0

    def most_refused(self) -> list[tuple[tuple[str, str], float]]:
        """Operators and reasons that a hundredth of a second or more is spent for, most first."""
        worth_telling = (each for each in self.refused.items() if each[1] >= 0.01)
        return sorted(worth_telling, key=lambda each: -each[1])

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "job": self.job,
            "accepted_seconds": round(self.accepted, 2),
            "python_seconds": round(self.python, 2),
            "delta_log_seconds": round(self.of_log, 2),
            "refused_seconds": round(self.stays, 2),
            "share_on_gpu": round(self.share(self.accepted), 4),
            "share_with_python": round(self.share(self.accepted + self.python), 4),
            "at_best": round(self.at_best, 2),
            "refused": [
                {"operator": operator, "reason": reason, "seconds": round(seconds, 2)}
                for (operator, reason), seconds in self.most_refused()
            ],
        }


def add_up(stage: Stage, ran: Iterable[Operator], said: Sequence[Explained]) -> None:
    """Each operator that ran, with the verdict on the one that shares most columns with it; on several, in equal parts."""
    by_name: Mapping[str, list[Explained]] = _by_name(said)
    for operator in ran:
        if operator.of_log:
            stage.of_log += operator.seconds
            continue
        verdicts = _closest(operator, by_name.get(operator.name, []))
        for verdict in verdicts:
            part = operator.seconds / len(verdicts)
            if verdict.reason is None:
                stage.accepted += part
            elif verdict.reason == PYTHON:
                stage.python += part
            else:
                stage.refused[operator.name, verdict.reason] += part
        if not verdicts:
            stage.refused[operator.name, UNSEEN] += operator.seconds


def show(stages: Sequence[Stage], console: Console) -> None:
    """A table of stages, and under it why what stays on processors does."""
    table = Table("stage", "on a GPU", "Python between", "stays", "Delta's log", "at best")
    for stage in stages:
        parts = (f"{part:.1f} s ({stage.share(part):.0%})" for part in (stage.accepted, stage.python, stage.stays))
        table.add_row(stage.job, *parts, f"{stage.of_log:.1f} s", f"{stage.at_best:.1f} times as fast")
    console.print(table)
    for stage in stages:
        for (operator, reason), seconds in stage.most_refused()[:MOST_REASONS]:
            console.print(f"{stage.job}: {seconds:.1f} s in {operator}: {reason}", markup=False, highlight=False)


def _by_name(said: Iterable[Explained]) -> Mapping[str, list[Explained]]:
    found: dict[str, list[Explained]] = defaultdict(list)
    for each in said:
        found[each.operator].append(each)
    return found


def _closest(operator: Operator, said: Sequence[Explained]) -> list[Explained]:
    most = max((len(each.columns & operator.columns) for each in said), default=0)
    return [each for each in said if len(each.columns & operator.columns) == most]
