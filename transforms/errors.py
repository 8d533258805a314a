"""The errors that a user can cause, by family. Each carries the exit code of the process that ends with it.

The two that a configuration needs live in `conf.errors`, which imports nothing of ours; they are named here with the others.
"""

from __future__ import annotations

from conf.errors import ConfigError, MillraceError

__all__ = ["ConfigError", "ContractError", "MillraceError", "ModelError", "QualityError", "RefusedError"]


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
