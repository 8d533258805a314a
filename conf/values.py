"""What the blocks of a pipeline file are made of: names, mappings of names, durations and calendar periods."""

from __future__ import annotations

import math
import os.path
import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from conf import secrets

IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_DURATION = re.compile(r"(\d+)\s*(second|minute|hour|day|week)s?")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:")
_PERIOD = re.compile(r"(\d+)\s*(hour|day|week|month|year)s?")


class Spec(BaseModel):
    """Base of all blocks: unknown keys are refused, values are not coerced, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


def _identifier(value: Any) -> Any:
    if not isinstance(value, str) or not IDENTIFIER.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a name: expected a letter, then letters, digits and underscores, at most 64"
        )
    return value


def as_tuple(value: Any) -> Any:
    """A YAML list as the tuple that a frozen block holds."""
    return tuple(value) if isinstance(value, list) else value


def _same_names(value: Any) -> Any:
    """`[a, b]` is short for `{a: a, b: b}`."""
    return {name: name for name in value} if isinstance(value, list) else value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"expected a number, found {str(value).lower() if isinstance(value, bool) else repr(value)}")
    return value


def _absolute(folder: str) -> str:
    """Delta takes a relative path for a table's name, and Hadoop and Python would each resolve it in their own way."""
    return folder if _SCHEME.match(folder) else os.path.abspath(folder)


def _published(target: str) -> str:
    """What Prometheus can come by: the node exporter reads files of one ending only, and passes others over in silence."""
    if not target or target.startswith(("http://", "https://")):
        return target
    if _SCHEME.match(target) or not target.endswith(".prom"):
        raise ValueError(
            f"expected a file that ends in .prom, for the node exporter, or the http:// or https:// address of a push gateway,"
            f" found {target!r}"
        )
    return os.path.abspath(target)


class Duration(Spec):
    """A length of time such as `3 hours`; `text` is kept for column names and messages."""

    text: str
    length: timedelta

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _DURATION.fullmatch(value.strip())
        if not match or int(match[1]) == 0:
            raise ValueError(
                f"{value!r} is not a duration: expected a positive number and second, minute, hour, day or week, such as 3 hours"
            )
        return {"text": value.strip(), "length": timedelta(**{match[2] + "s": int(match[1])})}

    @property
    def seconds(self) -> int:
        return int(self.length.total_seconds())

    @property
    def suffix(self) -> str:
        """Ending of a column name: `7 days` gives `7_days`."""
        return re.sub(r"\s+", "_", self.text)


class Period(Spec):
    """A calendar step such as `1 month`."""

    text: str
    count: int
    unit: Literal["hour", "day", "week", "month", "year"]

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _PERIOD.fullmatch(value.strip())
        if not match or int(match[1]) == 0:
            raise ValueError(
                f"{value!r} is not a period: expected a positive number and hour, day, week, month or year, such as 1 month"
            )
        return {"text": value.strip(), "count": int(match[1]), "unit": match[2]}


Name = Annotated[str, BeforeValidator(_identifier)]
Number = Annotated[int | float, BeforeValidator(_number)]  # whole or not, as it is written
Address = Annotated[str, AfterValidator(secrets.refused_address)]
Folder = Annotated[Address, AfterValidator(_absolute), Field(validate_default=True)]
MetricsTarget = Annotated[Address, AfterValidator(_published)]
SparkSettings = dict[
    Annotated[str, AfterValidator(secrets.refused_name)], Annotated[str, AfterValidator(secrets.refused_value)]
]
Expression = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(as_tuple)]
Texts = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Mapping = Annotated[dict[Name, Name], BeforeValidator(_same_names)]
