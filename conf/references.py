"""What needs more than one block to judge: every name refers to something, every time has what it is measured by, nothing collides."""

from __future__ import annotations

import math
import zoneinfo
from collections.abc import Iterator

from conf import composition, leaks
from conf.document import Path, Problem
from conf.names import did_you_mean, dotted, missing
from conf.schema import METRICS, Pipeline, Source

# Short names of estimators and the tasks they fit; anything with a dot is a path that models.search judges.
ESTIMATORS = {
    "logistic_regression": ("binary", "multiclass"),
    "linear_regression": ("regression",),
    "boosted_trees": ("binary", "multiclass", "regression"),
    "random_forest": ("binary", "multiclass", "regression"),
}

# Columns that silver tables add themselves.
_SILVER_COLUMNS = ("event_date", "row_id")


def problems(pipeline: Pipeline) -> list[Problem]:
    """Every reference that leads nowhere and every leak, in the order of the file's blocks."""
    found = [
        *_general(pipeline),
        *_sources(pipeline),
        *composition.problems(pipeline),
        *_split(pipeline),
        *_training(pipeline),
    ]
    return found + leaks.problems(pipeline)


def _general(pipeline: Pipeline) -> Iterator[Problem]:
    zones = zoneinfo.available_timezones()
    if pipeline.timezone not in zones:
        yield Problem(
            ("timezone",), f"timezone: {pipeline.timezone!r} is not a time zone. {_zone_hint(pipeline.timezone, zones)}"
        )
    classes = pipeline.classes
    if pipeline.task == "multiclass" and len(classes) < 2:
        yield Problem(
            ("classes",),
            f"classes: a multiclass task needs the list of its classes, at least two, found {len(classes)}.",
        )
    if pipeline.task != "multiclass" and classes:
        yield Problem(
            ("classes",), f"classes belong to a multiclass task, found the task {pipeline.task}. Remove them."
        )
    for name in sorted({name for name in classes if classes.count(name) > 1}):
        yield Problem(("classes",), f"classes: {name} is listed twice.")


def _zone_hint(name: str, zones: set[str]) -> str:
    hint = did_you_mean(name, zones)
    return hint if hint.startswith("Did") else "Expected a name such as Europe/Berlin."


def _sources(pipeline: Pipeline) -> Iterator[Problem]:
    for name, source in pipeline.sources.items():
        path: Path = ("sources", name)
        yield from _collisions(path, source)
        known = source.all_columns
        for index, column in enumerate(source.key):
            yield from missing((*path, "key", index), column, known, f"a column of {name}")
        seen: set[str] = set()
        for index, outcome in enumerate(source.outcomes):
            place = (*path, "outcomes", index, "columns")
            for column in outcome.columns:
                yield from missing(place, column, known, f"a column of {name}")
                if column in seen:
                    yield Problem(
                        place, f"{dotted(place)}: {column} is an outcome twice. Keep the entry with the right known_at."
                    )
                if column in source.key:
                    yield Problem(
                        place,
                        f"{dotted(place)}: {column} is part of the key of {name}, so it is known from the start. Remove it here or there.",
                    )
                seen.add(column)
        yield from _times(path, source)
        yield from _expectations(path, name, source)


def _collisions(path: Path, source: Source) -> Iterator[Problem]:
    first: dict[str, Path] = {}
    for block, names in (("columns", source.columns), ("derive", source.derive)):
        for name in names:
            place = (*path, block, name)
            if name.lower() in _SILVER_COLUMNS:
                yield Problem(
                    place,
                    f"{dotted(place)}: {name} is a column that every table of rows has already. Choose another name (`from` names the header).",
                )
            elif name.lower() in first:
                other = dotted(first[name.lower()])
                yield Problem(
                    place,
                    f"{dotted(place)} has the name of {other}; upper and lower case are the same to Spark. Choose another name.",
                )
            first.setdefault(name.lower(), place)


def _times(path: Path, source: Source) -> Iterator[Problem]:
    if source.static:
        for setting in ("at", "known_at", "outcomes", "partition_by"):
            if getattr(source, setting):
                yield Problem(
                    (*path, setting),
                    f"{dotted(path)} is static, so it has no time: remove `{setting}` or `static: true`.",
                )
    elif source.at is None:
        for setting in ("known_at", "partition_by"):
            if getattr(source, setting):
                yield Problem(
                    (*path, setting),
                    f"{dotted((*path, setting))} needs `at`, the time of a row's event, found none. Write sources.{path[1]}.at.",
                )


def _expectations(path: Path, name: str, source: Source) -> Iterator[Problem]:
    for block, entries in (("expect", source.expect), ("expect_table", source.expect_table)):
        for index, entry in enumerate(entries):
            place = (*path, block, index)
            if len(entry) != 1:
                yield Problem(
                    place,
                    f"{dotted(place)}: expected one expectation an entry, found {len(entry)}. Write one a line, each behind a dash.",
                )
            for kind, arguments in entry.items():
                if not kind.startswith("expect_"):
                    yield Problem(
                        place,
                        f"{dotted(place)}: {kind} is not an expectation: Great Expectations' names begin with expect_.",
                    )
                if isinstance(arguments.get("column"), str):
                    yield from missing(
                        (*place, kind, "column"), arguments["column"], source.all_columns, f"a column of {name}"
                    )


def _split(pipeline: Pipeline) -> Iterator[Problem]:
    split, features = pipeline.split, pipeline.features
    spine = pipeline.sources.get(features.spine_source)
    stored = [*(spine.key if spine else ()), *features.numeric, *features.categorical]
    for path, names, known, what in (
        (("split", "test", "by"), split.test.by, composition.columns(pipeline), "a column of the feature frame"),
        (("split", "folds", "by"), split.folds.by, composition.columns(pipeline), "a column of the feature frame"),
        (("evaluate", "slices"), pipeline.evaluate.slices, stored, "a feature or a key column of the spine"),
    ):
        for index, name in enumerate(names):
            if features.function is None or name in stored:
                yield from missing((*path, index), name, known, what)
    if not features.has_time:
        timed = {
            ("split", "test"): split.test.by_time,
            ("split", "folds"): split.folds.kind == "time",
            ("score", "since"): pipeline.score.since is not None,
        }
        for path, is_timed in timed.items():
            if is_timed:
                yield Problem(path, f"{dotted(path)} goes by time, and the spine has none. Write features.as_of.")
    if split.folds.kind == "stratified" and pipeline.task == "regression":
        yield Problem(
            ("split", "folds", "kind"),
            "split.folds.kind: stratified folds need classes, found a regression. Choose time, random or grouped.",
        )


def _training(pipeline: Pipeline) -> Iterator[Problem]:
    task, known = pipeline.task, METRICS[pipeline.task]
    yield from missing(("train", "metric"), pipeline.train.metric, known, f"a metric of a {task} task")
    for name, candidate in pipeline.train.named.items():
        path = ("train", "candidates", name, "estimator")
        if "." in candidate.estimator:
            continue
        if candidate.estimator in ESTIMATORS and task not in ESTIMATORS[candidate.estimator]:
            fitting = [estimator for estimator, tasks in ESTIMATORS.items() if task in tasks]
            yield Problem(
                path,
                f"{dotted(path)}: {candidate.estimator} does not fit a {task} task. Expected one of {', '.join(fitting)}.",
            )
        else:
            yield from missing(path, candidate.estimator, ESTIMATORS, "an estimator")
    for metric, value in pipeline.evaluate.floor.items():
        floor: Path = ("evaluate", "floor", metric)
        yield from missing(floor, metric, known, f"a metric of a {task} task")
        if not math.isfinite(value):
            yield Problem(floor, f"{dotted(floor)}: expected a finite number, found {value}.")
    if task != "binary" and "threshold" in pipeline.evaluate.model_fields_set:
        yield Problem(
            ("evaluate", "threshold"), f"evaluate.threshold belongs to a binary task, found the task {task}. Remove it."
        )
