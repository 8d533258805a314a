"""A progress that tests can read."""

from __future__ import annotations

from jobs.progress import Progress


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)
