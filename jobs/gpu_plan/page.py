"""What `gpu-plan` found, added up by stage, for people and for programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.gpu_plan.explained import Explained
from jobs.gpu_plan.operators import Operator

UNSEEN = "not explained by the plugin"
MOST_REASONS = 5


@dataclass
class Stage:
    """Task seconds of one job, by where they would be spent.

    Attributes:
        accepted: in operators that the plugin would run on a GPU.
        of_log: in Delta's reads and writes of its own log, which are many and small.
        refused: in other operators, by operator and reason.
    """

    job: str
    accepted: float = 0.0
    of_log: float = 0.0
    refused: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    @property
    def share(self) -> float:
        """Of all but Delta's log, what is accepted; 0 where nothing was done."""
        rest = self.accepted + sum(self.refused.values())
        return self.accepted / rest if rest else 0.0

    def most_refused(self) -> list[tuple[tuple[str, str], float]]:
        """Operators and reasons that a hundredth of a second or more is spent for, most first."""
        worth_telling = (each for each in self.refused.items() if each[1] >= 0.01)
        return sorted(worth_telling, key=lambda each: -each[1])

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "job": self.job,
            "accepted_seconds": round(self.accepted, 2),
            "delta_log_seconds": round(self.of_log, 2),
            "refused_seconds": round(sum(self.refused.values()), 2),
            "share_on_gpu": round(self.share, 4),
            "refused": [
                {"operator": operator, "reason": reason, "seconds": round(seconds, 2)}
                for (operator, reason), seconds in self.most_refused()
            ],
        }


def added_up(job: str, ran: Iterable[Operator], said: Sequence[Explained]) -> Stage:
    """Each operator that ran, with the verdict on the one that shares most columns with it; on several, in equal parts."""
    by_name: Mapping[str, list[Explained]] = _by_name(said)
    stage = Stage(job)
    for operator in ran:
        if operator.of_log:
            stage.of_log += operator.seconds
            continue
        verdicts = _closest(operator, by_name.get(operator.name, []))
        for verdict in verdicts:
            part = operator.seconds / len(verdicts)
            if verdict.reason is None:
                stage.accepted += part
            else:
                stage.refused[operator.name, verdict.reason] += part
        if not verdicts:
            stage.refused[operator.name, UNSEEN] += operator.seconds
    return stage


def show(stages: Sequence[Stage], console: Console) -> None:
    """A table of stages, and under it why what stays on processors does."""
    table = Table("stage", "on a GPU", "share", "stays", "Delta's log")
    for stage in stages:
        refused = sum(stage.refused.values())
        cells = f"{stage.accepted:.1f} s", f"{stage.share:.0%}", f"{refused:.1f} s", f"{stage.of_log:.1f} s"
        table.add_row(stage.job, *cells)
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
