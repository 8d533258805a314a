"""Sentences about names: the nearest one that exists, and lists of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from conf.document import Path, Problem


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is written most like `name`, None when none is close."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(known, reverse=True)}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`Did you mean split.folds?`, or else all known names (the first twelve of many)."""
    known = list(dict.fromkeys(known))
    close = nearest(name, known)
    if close is not None:
        return f"Did you mean {prefix}{close}?"
    if not known:
        return "There is none to choose from."
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"Expected one of {', '.join(known[:12])}{more}."


def dotted(path: Iterable[str | int]) -> str:
    """A path as `--set` writes it: `train.candidates.trees`, `features.joins.0.by`."""
    return ".".join(str(part) for part in path)


def missing(path: Path, name: str, known: Iterable[str], what: str) -> Iterator[Problem]:
    """A problem when `name` is not among the known ones; `what` completes "x is not ..."."""
    known = list(known)
    if name not in known:
        yield Problem(path, f"{dotted(path)}: {name} is not {what}. {did_you_mean(name, known)}")
