"""A progress that tests can read."""

from __future__ import annotations

from jobs.progress import Progress


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.steps: list[tuple[int, int, str]] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def advance(self, done: int, total: int, best: str = "", doing: str = "") -> None:
        self.steps.append((done, total, best))
