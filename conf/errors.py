"""The base of all expected failures and the one that a configuration causes; `transforms.errors` adds the families of data and models.

Messages are sentences: where, what was expected, what was found, what to do. `problems` holds one sentence each
when several of one kind were found together.
"""

from __future__ import annotations

from collections.abc import Sequence


class MillraceError(Exception):
    """Base of all expected failures; anything else is a bug and exits 1."""

    exit_code = 1

    def __init__(self, message: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (message,) if isinstance(message, str) else tuple(message)
        super().__init__("\n".join(self.problems))


class ConfigError(MillraceError, ValueError):
    """The pipeline file, the environment or an argument is wrong."""

    exit_code = 2
