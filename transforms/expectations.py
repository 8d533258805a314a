"""Expectations on a table, by Great Expectations' own names and arguments, judged by Great Expectations."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import great_expectations as gx
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.exceptions.exceptions import ExpectationNotFoundError
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from pyspark.sql import DataFrame

from transforms.errors import ConfigError, ContractError

Expectation = Mapping[str, Mapping[str, Any]]

# Great Expectations reports at INFO and draws progress bars; neither belongs in a job's log.
logging.getLogger("great_expectations").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Verdict:
    """What became of one expectation. `success` is None where nothing was judged: no rows."""

    id: str
    type: str
    kwargs: dict[str, Any]
    success: bool | None
    observed: Any

    def sentence(self) -> str:
        """What was expected of what, and what was found."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.kwargs.items() if name != "column")
        column = f" of {self.kwargs['column']}" if "column" in self.kwargs else ""
        return f"{self.type}{column} ({arguments}): found {_shown(self.observed)}"


def judge(frame: DataFrame, expectations: Sequence[Expectation], *, name: str) -> list[Verdict]:
    """One verdict per expectation, in their order.

    An expectation about values passes vacuously on a frame without rows; its verdict is then None. Only aggregates reach the
    driver (SUMMARY would bring rows).

    Args:
        frame: what is judged. It is scanned once or more for each kind of expectation.
        name: of the table, for error messages.

    Raises:
        ConfigError: Great Expectations does not know an expectation, or not with these arguments.
        ContractError: an expectation could not be computed, which says nothing about the data.
    """
    asked = [(kind, dict(arguments)) for expectation in expectations for kind, arguments in expectation.items()]
    if not asked:
        return []
    # The same expectation twice comes back once; results come back in an order of their own: hence by identity.
    distinct = {_identity(kind, arguments): _configured(kind, arguments, name) for kind, arguments in asked}
    found = {
        result.expectation_config.meta["identity"]: result for result in _validate(frame, list(distinct.values()), name)
    }
    _raise_failures(found, name)
    is_empty = frame.isEmpty()
    verdicts = []
    for number, (kind, arguments) in enumerate(asked, start=1):
        result = found[_identity(kind, arguments)]
        vacuous = is_empty and not kind.startswith("expect_table_")
        success = None if vacuous else bool(result.success)
        observed = None if vacuous else _observed(result.result)
        verdicts.append(Verdict(f"{name}:{number}", kind, arguments, success, observed))
    return verdicts


def _validate(frame: DataFrame, expectations: Sequence[Any], name: str) -> list[Any]:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    suite = gx.ExpectationSuite(name=name)
    for expectation in expectations:
        suite.add_expectation(expectation)
    # persist=True, the default, would leave the frame cached for ever.
    source = context.data_sources.add_spark("frame", persist=False)
    batch = source.add_dataframe_asset("frame").add_batch_definition_whole_dataframe("frame")
    # BASIC brings at most 20 unexpected values to the driver, SUMMARY more; COMPLETE would bring all.
    return list(batch.get_batch({"dataframe": frame}).validate(suite, result_format="BASIC").results)


def _configured(kind: str, arguments: Mapping[str, Any], name: str) -> Any:
    meta = {"identity": _identity(kind, arguments)}
    try:
        return ExpectationConfiguration(type=kind, kwargs=dict(arguments), meta=meta).to_domain_obj()
    except ExpectationNotFoundError as error:
        raise ConfigError(
            f"{name}: {kind} is not an expectation of Great Expectations {gx.__version__}. Look its name up in the gallery."
        ) from error
    except ValueError as error:  # pydantic's, which lists what is wrong line by line
        told = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise ConfigError(f"{name}: {kind} does not take these arguments: {told}") from error


def _identity(kind: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps([kind, arguments], sort_keys=True, default=str)


def _raise_failures(found: Mapping[str, Any], name: str) -> None:
    """An exception inside an expectation is reported as a result without success; it is no verdict on the data."""
    problems = []
    for identity, result in found.items():
        messages = _exceptions(result.exception_info or {})
        if messages:
            kind = json.loads(identity)[0]
            problems.append(
                f"{name}: {kind} could not be judged: {messages[0]}. This is no verdict on the data; correct the expectation."
            )
    if problems:
        raise ContractError(problems)


def _exceptions(info: Mapping[str, Any]) -> list[str]:
    """The messages in either form of `exception_info`: one exception, or one for each metric."""
    each = [info] if "raised_exception" in info else [value for value in info.values() if isinstance(value, Mapping)]
    return [_first_line(one.get("exception_message")) for one in each if one.get("raised_exception")]


def _first_line(message: Any) -> str:
    lines = str(message or "no message").strip().splitlines()
    return lines[0].rstrip(".") if lines else "no message"


def _observed(result: Mapping[str, Any]) -> Any:
    """The value that was compared, or for expectations about each value the counts; never the values themselves."""
    if "observed_value" in result:
        return _finite(result["observed_value"])
    counts = ("element_count", "unexpected_count", "unexpected_percent")
    return {name: _finite(result[name]) for name in counts if name in result}


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _shown(observed: Any) -> str:
    if isinstance(observed, Mapping) and "unexpected_count" in observed:
        return f"{observed['unexpected_count']} unexpected of {observed.get('element_count')}"
    return "nothing to compare" if observed is None else str(observed)
