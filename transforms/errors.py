"""The errors that a user can cause, by family. Each carries the exit code of the process that ends with it.

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


class ContractError(MillraceError, ValueError):
    """Data does not have the columns, types, keys or counts that its contract states."""

    exit_code = 3


class QualityError(ContractError):
    """Expectations on a table failed; the table was restored."""


class ModelError(MillraceError, ValueError):
    """No model can be trained on this data, or none reaches the floor and there is no champion."""

    exit_code = 4


class RefusedError(MillraceError):
    """Another run holds the table, or the request is unsafe."""

    exit_code = 5
