"""What a person sees while jobs run: a live view on a terminal, plain log lines elsewhere, never both."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from conf.errors import MillraceError

log = logging.getLogger(__name__)


SECONDS_BETWEEN_LINES = 1.0


class Progress:
    """Plain lines: the form for logs, Airflow and tests. Steps that come in quick succession share a line."""

    def __init__(self) -> None:
        self._spoke = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around the work of one stage."""
        log.info("%s: started", name)
        yield

    def message(self, text: str) -> None:
        """One line about what was done."""
        log.info("%s", text)

    def advance(self, done: int, total: int, best: str = "", doing: str = "") -> None:
        """`done` of `total` steps of the present stage, the best result so far, and what is under way."""
        if done < total and time.monotonic() - self._spoke < SECONDS_BETWEEN_LINES:
            return
        self._spoke = time.monotonic()
        told = (f"best so far {best}" if best else "", doing)
        log.info("%d of %d done%s", done, total, "".join(f", {text}" for text in told if text))


class LiveProgress(Progress):
    """A live view: the stage at work with its steps, time spent and time left; finished stages scroll up as lines."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[best]}"),
            console=console,
            transient=True,
        )
        self._task: int | None = None

    def __enter__(self) -> LiveProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        task = self._bars.add_task(name, total=None, best="")
        self._task, outer = task, self._task
        started = time.monotonic()
        finished = False
        try:
            yield
            finished = True
        finally:
            self._bars.remove_task(task)
            self._task = outer
            if not finished:
                self.message(f"[red]✗[/red] {name} stopped after {time.monotonic() - started:.1f} s")

    def message(self, text: str) -> None:
        self._bars.console.print(text, highlight=False)

    def advance(self, done: int, total: int, best: str = "", doing: str = "") -> None:
        if self._task is not None:
            text = ", ".join(part for part in (f"best {best}" if best else "", doing) if part)
            self._bars.update(self._task, completed=done, total=total, best=text)  # type: ignore[arg-type]


def for_console(console: Console) -> Progress:
    """The live view when the console is a terminal, plain lines otherwise."""
    return LiveProgress(console) if console.is_terminal else Progress()


def print_problems(error: MillraceError, console: Console) -> None:
    """Each problem of an error as it is: brackets in it are no markup."""
    for problem in error.problems:
        console.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
