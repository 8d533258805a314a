"""Outcome columns where a feature could see them: known only after the decision, they may stand in labels and in gated windows alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from conf.document import Path, Problem
from conf.names import dotted
from conf.schema import Children, Join, Pipeline, Source, Window
from conf.sql_text import mentioned

_CURE = "Use it in the label or in a window, which wait until it is known, or remove it."


def problems(pipeline: Pipeline) -> list[Problem]:
    """Every place where a feature reads an outcome of its source; sources that do not exist are passed over."""
    spine = pipeline.sources.get(pipeline.features.spine_source)
    found = list(_spine(pipeline, spine)) if spine is not None else []
    return found + list(_joined(pipeline))


def outcomes(source: Source) -> dict[str, str]:
    """Lower-case name of a column known only later -> when.

    A derived column that is computed from such columns and is not listed itself is known when all of them are.
    """
    known = {column.lower(): outcome.known_at for column, outcome in source.outcome_columns.items()}
    for column, expression in source.derive.items():
        used = mentioned(expression) & set(known)
        if used and column.lower() not in known:
            known[column.lower()] = " and ".join(dict.fromkeys(known[name] for name in sorted(used)))
    return known


def _spine(pipeline: Pipeline, spine: Source) -> Iterator[Problem]:
    features = pipeline.features
    late = {
        column: f"an outcome of {features.spine_source} that is known only at {known}"
        for column, known in outcomes(spine).items()
    }
    late = {**_label_columns(pipeline, spine), **late}

    def leaks(path: Path, names: Iterable[str]) -> Iterator[Problem]:
        for column in sorted({name.lower() for name in names} & set(late)):
            yield Problem(path, f"{dotted(path)} uses {column}, {late[column]}. {_CURE}")

    if features.as_of:
        yield from leaks(("features", "as_of"), mentioned(features.as_of))
    for name, expression in features.columns.items():
        yield from leaks(("features", "columns", name), mentioned(expression))
    blocks: dict[str, Sequence[Join | Window | Children]] = {
        "joins": features.joins,
        "windows": features.windows,
        "children": features.children,
    }
    for block, entries in blocks.items():
        for index, entry in enumerate(entries):
            made = {name for earlier in features.joins[:index] for name in earlier.take} if block == "joins" else set()
            yield from leaks(("features", block, index, "by"), set(entry.by) - made)
    for list_name, names in (("numeric", features.numeric), ("categorical", features.categorical)):
        for index, name in enumerate(names):
            path = ("features", list_name, index)
            if name.lower() == features.label.name.lower():
                yield Problem(path, f"{dotted(path)} is {name}, the label itself. Remove it.")
            elif name not in features.columns:  # an expression of that name was judged above
                yield from leaks(path, [name])


def _label_columns(pipeline: Pipeline, spine: Source) -> dict[str, str]:
    """The one column that alone decides the label: it gives the answer away even where no outcome is declared."""
    label = pipeline.features.label
    columns = {column.lower() for column in spine.all_columns}
    used = mentioned(label.value) & columns
    return dict.fromkeys(used, "the column that decides the label") if label.of is None and len(used) == 1 else {}


def _joined(pipeline: Pipeline) -> Iterator[Problem]:
    """Joins and children take values as they are; windows wait until what they match by and aggregate is known."""
    features = pipeline.features
    for index, join in enumerate(features.joins):
        yield from _taken(
            pipeline,
            join.source,
            ("features", "joins", index),
            join.by.values(),
            {name: {column.lower()} for name, column in join.take.items()},
        )
    for index, children in enumerate(features.children):
        yield from _taken(
            pipeline,
            children.of,
            ("features", "children", index),
            children.by.values(),
            {name: mentioned(expression) for name, expression in children.take.items()},
        )


def _taken(
    pipeline: Pipeline, name: str, path: Path, by: Iterable[str], take: Mapping[str, Set[str]]
) -> Iterator[Problem]:
    source = pipeline.sources.get(name)
    late = outcomes(source) if source else {}
    used: dict[Path, Set[str]] = {(*path, "by"): {column.lower() for column in by}}
    used |= {(*path, "take", name): columns for name, columns in take.items()}
    for place, columns in used.items():
        for column in sorted(columns & set(late)):
            yield Problem(
                place,
                f"{dotted(place)} uses {column}, an outcome of {name} that is known only at {late[column]}. {_CURE}",
            )
