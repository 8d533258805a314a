"""A pipeline file, an environment overlay and `--set` to one checked `Pipeline` and `Environment`.

All that is wrong is said at once, each with file, line, path and cure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import ValidationError

from conf import references, validation
from conf.document import Document, Path, parse, parse_value
from conf.errors import ConfigError
from conf.names import dotted
from conf.schema import Environment, Pipeline
from conf.values import Spec

ENVIRONMENT = "environment"
S = TypeVar("S", bound=Spec)
_OWN = resources.files("conf")  # on a cluster in the zip that spark-submit ships


@dataclass(frozen=True)
class Positions:
    """Where each setting was written. Paths of the environment begin with `environment`."""

    file: str
    lines: dict[Path, str] = field(default_factory=dict)

    def where(self, path: Iterable[str | int]) -> str:
        """`conf/flights.yaml:31`, or `--set train.seed`: of the path itself, else of its nearest parent that has one."""
        path = tuple(path)
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return self.file

    def sentence(self, path: Iterable[str | int], message: str) -> str:
        """The message behind its place; a name that the place ends with is not said twice."""
        where = self.where(path)
        return f"{where}: {message.removeprefix(where.removeprefix('--set ') + ': ')}"


@dataclass(frozen=True)
class Loaded:
    """A checked configuration and where each part of it was written."""

    pipeline: Pipeline
    environment: Environment
    positions: Positions


def load(path: str | FilePath, *, environment: str | FilePath | None = None, settings: Sequence[str] = ()) -> Loaded:
    """Read, override and check.

    Args:
        path: a pipeline file, or the name of one: `flights` is `conf/flights.yaml`.
        environment: a file, or the name of one: `local` is `conf/env/local.yaml`; None for defaults.
        settings: `a.b=c`, as the flag `--set` takes it: the path mirrors the YAML (`features.joins.0.within=2 hours`), the value is
            YAML in flow form. `environment.lake=...` reaches the environment. A later one wins.

    Raises:
        ConfigError: all problems of one kind at once: first syntax, then unknown keys, types and ranges, then names that refer to nothing.
    """
    file, written = _find(path, "pipeline file", "conf")
    values: dict[str, Any] = dict(written.values)
    lines = {place: f"{file}:{line}" for place, line in written.lines.items()}
    if ENVIRONMENT in values:
        raise ConfigError(
            f"{lines[(ENVIRONMENT,)]}: {ENVIRONMENT} does not belong to a pipeline file. Write a file conf/env/NAME.yaml and name it with --env."
        )
    overlay_file, overlay = "", Document({}, {})
    if environment is not None:
        overlay_file, overlay = _find(environment, "environment file", "conf/env")
        lines |= {(ENVIRONMENT, *place): f"{overlay_file}:{line}" for place, line in overlay.lines.items()}
    values[ENVIRONMENT] = overlay.values
    _apply(values, lines, settings)
    positions = Positions(file, lines)
    machine = values.pop(ENVIRONMENT)
    problems: list[str] = []
    pipeline = _checked(Pipeline, values, (), positions, problems)
    surroundings = _checked(Environment, machine, (ENVIRONMENT,), positions, problems)
    if pipeline is None or surroundings is None:
        raise ConfigError(problems)
    found = references.problems(pipeline)
    if found:
        raise ConfigError([positions.sentence(problem.path, problem.message) for problem in found])
    return Loaded(pipeline, surroundings, positions)


def load_environment(name: str | FilePath) -> Environment:
    """An environment overlay alone, for what needs no pipeline.

    Raises:
        ConfigError: no such file, or something in it is wrong.
    """
    file, written = _find(name, "environment file", "conf/env")
    positions = Positions(file, {(ENVIRONMENT, *place): f"{file}:{line}" for place, line in written.lines.items()})
    problems: list[str] = []
    environment = _checked(Environment, dict(written.values), (ENVIRONMENT,), positions, problems)
    if environment is None:
        raise ConfigError(problems)
    return environment


def _find(path: str | FilePath, what: str, folder: str) -> tuple[str, Document]:
    """The first place that holds the file, as it is called in messages, and its content.

    Places are the path as given, then by name the working directory's folder and millrace's own.

    Raises:
        ConfigError: no such file, the sentence lists the places; or it cannot be read.
    """
    places: list[Traversable] = [FilePath(path)]
    if len(FilePath(path).parts) == 1:
        name = f"{path}" if FilePath(path).suffix in (".yaml", ".yml") else f"{path}.yaml"
        places += [FilePath(folder) / name, _OWN.joinpath(*FilePath(folder).parts[1:], name)]
    for place in places:
        if place.is_file():
            return _called(place), _read(place, _called(place))
    raise ConfigError(
        f"expected the {what} {path}, found none. Looked in: {', '.join(dict.fromkeys(str(place) for place in places))}."
    )


def _called(place: Traversable) -> str:
    """A file of millrace's own folder goes by its path within it, where that is the working directory."""
    home = FilePath.cwd()
    is_own = isinstance(place, FilePath) and home in place.parents and FilePath(str(_OWN)).parent == home
    return os.path.relpath(str(place)) if is_own else str(place)


def _read(file: Traversable, called: str) -> Document:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{called}: expected text in UTF-8, found the byte 0x{error.object[error.start]:02x} at offset {error.start}. Save it as UTF-8."
        ) from None
    except OSError as error:
        raise ConfigError(f"{called}: cannot be read: {error.strerror}.") from None
    return parse(text, called)


def _apply(values: dict[str, Any], lines: dict[Path, str], settings: Sequence[str]) -> None:
    """Write each `a.b=c` into the values and remember that it came from `--set`.

    Raises:
        ConfigError: a setting without `=`, or whose path leads nowhere; all of them at once.
    """
    problems: list[str] = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        where = f"--set {name}"
        try:
            if not equals or not all(name.split(".")):
                raise ConfigError(f"--set {setting}: expected PATH=VALUE, such as split.folds.count=5.")
            path = _place(values, name.split("."), parse_value(text, where), where)
        except ConfigError as error:
            problems += error.problems
            continue
        for known in [known for known in lines if known[: len(path)] == path]:
            del lines[known]
        lines[path] = where
    if problems:
        raise ConfigError(problems)


def _place(values: dict[str, Any], names: list[str], value: Any, where: str) -> Path:
    """Set one value, making the optional blocks on the way; returns its path, list positions as numbers."""
    block: Any = values
    path: tuple[str | int, ...] = ()
    for depth, name in enumerate(names):
        last = depth == len(names) - 1
        step: str | int = name
        if isinstance(block, list):
            if not name.isdecimal() or int(name) >= len(block):
                raise ConfigError(
                    f"{where}: {dotted(path)} is a list of {len(block)}: expected a position from 0, found {name}."
                )
            step = int(name)
        elif not isinstance(block, dict):
            raise ConfigError(
                f"{where}: {dotted(path)} is {validation.describe(block)}, expected a block to hold {name}. Set {dotted(path)} as a whole."
            )
        elif name not in block and not last:
            _require_block(block, (*path, name), where)
            block[name] = {}
        path = (*path, step)
        if last:
            block[step] = value
        else:
            block = block[step]
    return path


def _require_block(block: dict[str, Any], path: Path, where: str) -> None:
    """A block that the file leaves out may be made when the vocabulary has it; a name that the user chose must be there."""
    model, inner = (Environment, path[1:]) if path[0] == ENVIRONMENT else (Pipeline, path)
    if str(path[-1]) not in validation.field_names(validation.container(model, inner[:-1])):
        prefix = f"{ENVIRONMENT}." if model is Environment else ""
        raise ConfigError(f"{where}: {prefix}{validation.unknown(model, inner, block)}")


def _checked(
    model: type[S], values: dict[str, Any], prefix: Path, positions: Positions, problems: list[str]
) -> S | None:
    """The values as a spec, or None after adding every problem."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for path, sentence in validation.problems(model, values, error):
            place = (*prefix, *path)
            name = f"{dotted(prefix)}." if prefix and positions.where(place).startswith("--set") else ""
            problems.append(positions.sentence(place, _misplaced(model, path, values) or name + sentence))
    return None


def _misplaced(model: type[Spec], path: Path, values: dict[str, Any]) -> str | None:
    """A setting of the machines in the pipeline file, or the reverse: say which file it belongs to."""
    if len(path) != 1 or path[0] not in values or path[0] in validation.field_names(model):
        return None
    if model is Pipeline and path[0] in validation.field_names(Environment):
        return f"{path[0]} belongs to the environment file (conf/env/NAME.yaml) or --set environment.{path[0]}=..., not to the pipeline file."
    if model is Environment and path[0] in validation.field_names(Pipeline):
        return f"{path[0]} belongs to the pipeline file, not to the environment file: an environment never changes what is computed."
    return None
