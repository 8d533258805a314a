"""How the feature frame comes about, block after block: each finds the names that it uses and makes new ones."""

from __future__ import annotations

from collections.abc import Iterator

from conf.document import Path, Problem
from conf.names import dotted, missing
from conf.schema import Features, Join, PeriodicSpine, Pipeline, Source

# Columns that the tables and models add themselves.
_TAKEN = (
    *("as_of", "label", "label_known_at", "part", "fold", "train_from", "features"),
    *("prediction", "probability", "rawprediction", "score", "model_version", "revision", "refused", "search"),
)


class _Frame:
    """The columns of the feature frame as they come about: each name with the path that made it."""

    def __init__(self, source: Source | None) -> None:
        self.known = source is not None
        self.made: dict[str, Path] = {}
        self.columns = set(source.all_columns) if source else set()
        self._lower = {column.lower(): column for column in self.columns}

    def uses(self, path: Path, name: str) -> Iterator[Problem]:
        if self.known:
            yield from missing(path, name, sorted(self.columns), "a column of the spine or of what stands before")

    def makes(self, path: Path, name: str, *, same: bool = False) -> Iterator[Problem]:
        """`same`: the expression is the column itself, so that there is nothing to confuse."""
        if name.lower() in _TAKEN:
            yield Problem(
                path,
                f"{dotted(path)}: {name} is a column that every feature table or model has already. Choose another name.",
            )
        elif name.lower() in self._lower and not same:
            first = self.made.get(name.lower())
            origin = dotted(first) if first else "a column of the spine"
            yield Problem(path, f"{dotted(path)}: the name {name} is taken by {origin}. Choose another.")
        self.columns.add(name)
        self._lower.setdefault(name.lower(), name)
        self.made.setdefault(name.lower(), path)


def columns(pipeline: Pipeline) -> list[str]:
    """All columns of the feature frame: of the spine, and made by the blocks of `features`."""
    features = pipeline.features
    spine = pipeline.sources.get(features.spine_source)
    made = [*(spine.all_columns if spine else ()), *features.columns]
    made += [name for join in features.joins for name in join.take]
    made += [window.column(name, width) for window in features.windows for name in window.take for width in window.over]
    return [*made, *(name for children in features.children for name in children.take)]


def problems(pipeline: Pipeline) -> Iterator[Problem]:
    """What `features` refers to in vain, and names that it makes twice."""
    features, sources = pipeline.features, pipeline.sources
    periodic = isinstance(features.spine, PeriodicSpine)
    spine = sources.get(features.spine_source)
    yield from missing(
        ("features", "spine", "entities") if periodic else ("features", "spine"),
        features.spine_source,
        sources,
        "a source",
    )
    if periodic and features.as_of:
        yield Problem(
            ("features", "as_of"), "features.as_of: the steps of a periodic spine are its as_of. Remove the line."
        )
    if periodic and spine and not spine.key:
        yield Problem(
            ("features", "spine"),
            f"features.spine.entities: {features.spine_source} has no key, so its rows are no entities. Write sources.{features.spine_source}.key.",
        )
    if features.as_of and spine and spine.at is None:
        yield Problem(
            ("features", "as_of"),
            f"features.as_of needs the time of the spine's rows, found none. Write sources.{features.spine_source}.at.",
        )
    frame = _Frame(spine)
    yield from _label(pipeline, frame)
    for name, expression in features.columns.items():
        yield from frame.makes(("features", "columns", name), name, same=expression.strip(" `") == name)
    for index, join in enumerate(features.joins):
        yield from _join(pipeline, frame, index, join)
    yield from _aggregates(pipeline, frame)
    yield from _chosen(features, frame)


def _label(pipeline: Pipeline, frame: _Frame) -> Iterator[Problem]:
    label = pipeline.features.label
    if label.name in frame.columns and label.value.strip(" `") != label.name:
        yield Problem(
            ("features", "label", "name"),
            f"features.label.name: {label.name} is a column of the spine with another meaning. Choose another name.",
        )
    if label.of is not None:
        yield from _match(pipeline, frame, ("features", "label"), label.of, label.by)
        yield from _timed(pipeline, ("features", "label"), label.of)


def _match(
    pipeline: Pipeline, frame: _Frame, path: Path, name: str, by: dict[str, str], key: str = "of"
) -> Iterator[Problem]:
    """The other source exists, and so do both sides of `by`."""
    yield from missing((*path, key), name, pipeline.sources, "a source")
    for left, right in by.items():
        yield from frame.uses((*path, "by", left), left)
        if name in pipeline.sources:
            yield from missing((*path, "by", left), right, pipeline.sources[name].all_columns, f"a column of {name}")


def _timed(pipeline: Pipeline, path: Path, name: str) -> Iterator[Problem]:
    """What is matched by time needs a time on both sides."""
    source = pipeline.sources.get(name)
    if not pipeline.features.has_time:
        yield Problem(path, f"{dotted(path)} is matched by time, and the spine has none. Write features.as_of.")
    if source is not None and source.static:
        yield Problem(
            path,
            f"{dotted(path)}: {name} is static, so there is no time to match by. Write sources.{name}.at in place of static.",
        )
    elif source is not None and source.at is None:
        yield Problem(path, f"{dotted(path)}: {name} has no time to match by. Write sources.{name}.at.")


def _join(pipeline: Pipeline, frame: _Frame, index: int, join: Join) -> Iterator[Problem]:
    path: Path = ("features", "joins", index)
    yield from _match(pipeline, frame, path, join.source, join.by, "source")
    source = pipeline.sources.get(join.source)
    if source is not None:
        for name, column in join.take.items():
            yield from missing((*path, "take", name), column, source.all_columns, f"a column of {join.source}")
        if not source.static:
            yield from _timed(pipeline, path, join.source)
            if join.within is None:
                yield Problem(
                    path,
                    f"{dotted(path)}: the join with {join.source} needs `within`, how old its row may be, such as 3 hours."
                    f" If {join.source} never changes, write sources.{join.source}.static: true.",
                )
        elif join.within is not None:
            yield Problem(
                (*path, "within"),
                f"{dotted(path)}.within: {join.source} is static, so no row of it is too old. Remove the line.",
            )
    for name in join.take:
        yield from frame.makes((*path, "take", name), name)


def _aggregates(pipeline: Pipeline, frame: _Frame) -> Iterator[Problem]:
    features = pipeline.features
    made: list[tuple[Path, str]] = []
    for index, window in enumerate(features.windows):
        path: Path = ("features", "windows", index)
        yield from _match(pipeline, frame, path, window.of, window.by)
        yield from _timed(pipeline, path, window.of)
        made += [((*path, "take", name), window.column(name, width)) for name in window.take for width in window.over]
    for index, children in enumerate(features.children):
        path = ("features", "children", index)
        yield from _match(pipeline, frame, path, children.of, children.by)
        made += [((*path, "take", name), name) for name in children.take]
    for place, name in made:
        yield from frame.makes(place, name)


def _chosen(features: Features, frame: _Frame) -> Iterator[Problem]:
    """`numeric` and `categorical` pick the features; a function of the user's own may make columns that nobody can foresee."""
    seen: set[str] = set()
    for block, names in (("numeric", features.numeric), ("categorical", features.categorical)):
        for index, name in enumerate(names):
            path = ("features", block, index)
            if name.lower() in seen:
                yield Problem(path, f"{dotted(path)}: {name} is listed twice under numeric and categorical. Keep one.")
            seen.add(name.lower())
            if name.lower() in _TAKEN:
                yield Problem(
                    path,
                    f"{dotted(path)}: {name} is a column that every feature table or model has already. Give the column another name (`from` names the header).",
                )
            elif frame.known and features.function is None and name != features.label.name:
                yield from missing(
                    path,
                    name,
                    sorted(frame.columns),
                    "made by columns, joins, windows or children, nor a column of the spine",
                )
    if not seen:
        yield Problem(
            ("features",),
            "features: expected names under numeric or categorical, found none: there is nothing to learn from.",
        )
