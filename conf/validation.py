"""Plain values to typed specs: what pydantic finds wrong, as sentences with the path, what was expected, what was found and the cure."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from conf.document import Path, Problem, parse_value
from conf.errors import ConfigError
from conf.names import did_you_mean, dotted
from conf.values import Duration, Period, Spec

# Type of problem -> what was expected; pydantic's own names for them.
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "date_type": "a date such as 2013-11-01",
    "date_from_datetime_inexact": "a date such as 2013-11-01",
    "dict_type": "a block of `name: value`",
    "tuple_type": "a list",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "of at most"),
}


def problems(model: type[Spec], values: Mapping[str, Any], error: ValidationError) -> list[Problem]:
    """Every problem once: the path where it stands in `values`, and a sentence that begins with that path.

    Args:
        model: what the values were checked against; its fields are the names to choose from.
    """
    found: dict[Problem, None] = {}
    for detail in error.errors(include_url=False):
        path = _path(values, detail)
        if not _is_other_form(values, detail):
            found[Problem(path, _sentence(model, path, detail))] = None
    return list(found)


def container(model: type[Spec], path: Path) -> Any:
    """The annotation at a path of a spec, without optional and metadata; None where the path leaves the vocabulary."""
    annotation: Any = model
    for step in path:
        annotation = _step(annotation, step)
        if annotation is None:
            return None
    return annotation


def field_names(annotation: Any) -> list[str]:
    """What the keys of a block are called in YAML; nothing for anything but a block with fixed keys."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [field.alias or name for name, field in annotation.model_fields.items()]
    return []


def _step(annotation: Any, step: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if (field.alias or name) == step:
                return _plain(field.annotation)
        return None
    arguments = get_args(annotation)
    if get_origin(annotation) is dict and isinstance(step, str):
        return _plain(arguments[1])
    if get_origin(annotation) is tuple and isinstance(step, int):
        return _plain(arguments[0])
    return None


def _plain(annotation: Any) -> Any:
    """Without `Annotated` and `| None`; of two forms the block, since a name has no parts."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        forms = [_plain(form) for form in get_args(annotation) if form is not type(None)]
        blocks = [form for form in forms if isinstance(form, type) and issubclass(form, BaseModel)]
        return (blocks or forms)[0]
    return annotation


def _path(values: Any, detail: ErrorDetails) -> Path:
    """pydantic's location without the steps that are no keys: names of alternatives, `[key]`."""
    path: list[str | int] = []
    for index, step in enumerate(detail["loc"]):
        last = index == len(detail["loc"]) - 1
        if _holds(values, step):
            values = values[step]
        elif not (last and detail["type"] in ("missing", "extra_forbidden")):
            continue
        path.append(step)
    return tuple(path)


def _is_other_form(values: Any, detail: ErrorDetails) -> bool:
    """`spine` is a name or a block: what one form says of a value written in the other is noise."""
    for step in detail["loc"]:
        if _holds(values, step):
            values = values[step]
        elif isinstance(step, str) and "_identifier" in step:
            return isinstance(values, Mapping)
        elif step == "PeriodicSpine":
            return not isinstance(values, Mapping)
    return False


def _holds(values: Any, step: str | int) -> bool:
    if isinstance(values, list):
        return isinstance(step, int) and step < len(values)
    return isinstance(values, Mapping) and step in values


def _sentence(model: type[Spec], path: Path, detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    name, found = dotted(path), detail["input"]
    if kind == "extra_forbidden":
        return unknown(model, path)
    if kind == "missing":
        return f"{name} is missing: expected {_form(container(model, path))}."
    if kind == "value_error":
        return f"{name}: {context['error']}."
    if kind == "literal_error":
        known = [word.strip("' ") for word in str(context["expected"]).replace(" or ", ", ").split(",")]
        expected = f"one of {', '.join(known)}" if len(known) > 1 else known[0]
        close = did_you_mean(str(found), known)
        cure = f" {close}" if close.startswith("Did") else ""
        return f"{name}: expected {expected}, found {describe(found)}.{cure}"
    if kind in _BOUNDS:
        key, word = _BOUNDS[kind]
        return f"{name}: expected a number {word} {context[key]}, found {describe(found)}."
    if kind == "too_short":
        return f"{name}: expected at least {context['min_length']} entry, found none."
    if kind == "string_too_short":
        return f"{name}: expected text, found an empty one. Write a value or remove the line."
    if kind == "string_too_long":
        return f"{name}: expected {context['max_length']} character, found {describe(found)}."
    if kind in ("model_type", "model_attributes_type"):
        return f"{name}: expected {_form(container(model, path))}, found {describe(found)}."
    expected = _EXPECTED.get(kind, detail["msg"])
    return f"{name}: expected {expected}, found {describe(found)}.{_cure(kind, found)}"


def unknown(model: type[Spec], path: Path, among: Iterable[str] = ()) -> str:
    """`train.fold is not a setting. Did you mean train.folds?`, from the block's fields and the names `among` that it holds."""
    parent = path[:-1]
    known = [*field_names(container(model, parent)), *among]
    return (
        f"{dotted(path)} is not a setting. {did_you_mean(str(path[-1]), known, dotted(parent) + '.' if parent else '')}"
    )


def _form(annotation: Any) -> str:
    """What a value of this annotation looks like in YAML."""
    if annotation is Duration:
        return "a duration such as 3 hours"
    if annotation is Period:
        return "a period such as 1 month"
    if annotation is date:
        return _EXPECTED["date_type"]
    if annotation in (int, float):
        return "a number"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a block of settings"
    return {dict: "a block of `name: value`", tuple: "a list"}.get(get_origin(annotation), "text")


def describe(value: Any) -> str:
    """What was found, as a person would call it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, date):
        return f"the date {value}"
    if isinstance(value, Mapping):
        return "a block"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _cure(kind: str, found: Any) -> str:
    if found is None:
        return " Write a value or remove the line."
    if kind == "string_type" and not isinstance(found, (Mapping, list, tuple)):
        return f" Put quotes around it: '{str(found).lower() if isinstance(found, bool) else found}'."
    if kind == "tuple_type":
        return " Put it in brackets: [ ]."
    if isinstance(found, str):
        try:
            unquoted = parse_value(found, "")
        except ConfigError:
            return ""
        return "" if isinstance(unquoted, (str, type(None), list, dict)) else " Remove the quotes."
    return ""
