"""A checked pipeline back to the text of a pipeline file: what was run, with every `--set` in place."""

from __future__ import annotations

from io import StringIO
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from conf.schema import Column, Pipeline
from conf.values import Duration, Period


def as_yaml(pipeline: Pipeline) -> str:
    """A file that loads to an equal pipeline; settings that have their default are left out."""
    stream = StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 120
    writer.dump(_plain(pipeline), stream)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, (Duration, Period)):
        return value.text
    if isinstance(value, Column) and value.header is None:
        return value.type + ("!" if value.required else "")
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        written = {name: getattr(value, name) for name in fields if getattr(value, name) != fields[name].default}
        return {fields[name].alias or name: _plain(part) for name, part in written.items()}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
