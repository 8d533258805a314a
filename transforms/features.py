"""The feature table: what was known of each row of the spine before its moment of decision, in contract order."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from conf.schema import Pipeline
from transforms import contracts, joins, spine, trailing_columns
from transforms.contracts import Contract, Field
from transforms.days import Days
from transforms.errors import ConfigError
from transforms.expressions import derived_types
from transforms.spine import AS_OF

# What of a source decides the values of features and labels; where its files lie and what is expected of them does not.
_MEANING = {"columns", "derive", "key", "at", "known_at", "static", "outcomes"}


def frame(
    sources: Mapping[str, DataFrame], pipeline: Pipeline, *, run_date: date, only: Days | None = None
) -> DataFrame:
    """One row per spine row: its key, `as_of` (null without time), numeric features as double, categorical ones as string.

    Numbers that are not finite are null. Outcome columns are taken out of every table before anything may be computed from it,
    but for windows, which see them from the moment that they were known.

    Args:
        sources: silver rows by source name.
        run_date: last day of a periodic spine.
        only: rows whose `as_of` lies in one of these days; None for all.

    Raises:
        ContractError: a lookup table has several rows for one key, or a function changed the rows.
        ConfigError: what is not a window aggregate stands in a window, or a source without time is joined by time.
    """
    rows = spine.rows(sources, pipeline, run_date=run_date)
    if only is not None:
        rows = rows.where(only.hold(F.col(AS_OF)))
    rows = _with_columns(rows, pipeline)
    rows = joins.with_joins(rows, sources, pipeline, only)
    rows = trailing_columns.with_windows(rows, sources, pipeline, only)
    rows = joins.with_children(rows, sources, pipeline)
    rows = joins.with_function(rows, pipeline)
    return _in_contract_order(rows, pipeline)


@dataclass(frozen=True)
class Tables:
    """The contracts of what the job `features` writes, and the key columns that all of them share."""

    key: tuple[Field, ...]
    features: Contract
    labels: Contract
    membership: Contract


def tables(spark: SparkSession, pipeline: Pipeline) -> Tables:
    """The contracts of a pipeline's feature, label and membership tables.

    Raises:
        ConfigError: key columns whose type no feature can have.
    """
    name = pipeline.features.spine_source
    source = pipeline.sources[name]
    silver = contracts.silver(pipeline.pipeline, name, source, derived_types(spark, source))
    key = key_fields(pipeline, silver)
    return Tables(
        key,
        contract(pipeline, silver),
        contracts.labels(pipeline.pipeline, label_version(pipeline), key),
        contracts.membership(pipeline.pipeline, membership_version(pipeline), key),
    )


def key_fields(pipeline: Pipeline, silver: Contract) -> tuple[Field, ...]:
    """The key columns of the feature table: those of the spine source, as its silver table has them."""
    by_name = {field.name: field for field in silver.fields}
    return tuple(by_name[name] for name in contracts.silver_key(pipeline.sources[pipeline.features.spine_source]))


def contract(pipeline: Pipeline, silver: Contract) -> Contract:
    """The contract of the feature table. A feature that is a key column stands in the table once.

    Args:
        silver: contract of the spine source.

    Raises:
        ConfigError: key columns whose type no feature can have; all are listed.
    """
    spec = pipeline.features
    key = key_fields(pipeline, silver)
    types = {field.name: DataType.fromDDL(field.type).simpleString() for field in key}
    problems = []
    for block, names, kind in (("numeric", spec.numeric, "double"), ("categorical", spec.categorical, "string")):
        for name in names:
            if types.get(name, kind) != kind:
                problems.append(
                    f"features.{block}: {name} is a key column of type {types[name]}, and a feature there is {kind}."
                    f" Add it under another name, such as columns: {{{name}_value: {name}}}."
                )
    if problems:
        raise ConfigError(problems)
    meaning = _meanings(pipeline)
    fields = [Field(name, "double", meaning.get(name, "numeric feature")) for name in spec.numeric if name not in types]
    fields += [
        Field(name, "string", meaning.get(name, "categorical feature"))
        for name in spec.categorical
        if name not in types
    ]
    return contracts.features(pipeline.pipeline, version(pipeline), key, fields)


def version(pipeline: Pipeline) -> str:
    """Eight hex digits of all that decides the values of features."""
    spec = pipeline.features
    left_out = set() if _label_in_windows(pipeline) else {"label"}
    parts = [spec.model_dump(mode="json", exclude=left_out), pipeline.timezone]
    names = {
        spec.spine_source,
        *(j.source for j in spec.joins),
        *(w.of for w in spec.windows),
        *(c.of for c in spec.children),
    }
    return _eight_digits(
        *parts, _sources(pipeline, names), joins.function_source(spec.function) if spec.function else None
    )


def label_version(pipeline: Pipeline) -> str:
    """Eight hex digits of all that decides the label."""
    spec = pipeline.features
    parts = spec.model_dump(mode="json", include={"spine", "as_of", "label"})
    names = {spec.spine_source, *([spec.label.of] if spec.label.of else [])}
    return _eight_digits(parts, pipeline.task, pipeline.classes, pipeline.timezone, _sources(pipeline, names))


def membership_version(pipeline: Pipeline) -> str:
    """Eight hex digits of all that decides parts and folds."""
    split = pipeline.split
    grouped = version(pipeline) if split.test.by or split.folds.by else None
    return _eight_digits(label_version(pipeline), split.model_dump(mode="json"), grouped)


def _with_columns(rows: DataFrame, pipeline: Pipeline) -> DataFrame:
    """The feature columns beside what later steps need, without outcomes. All are computed from the source's own columns."""
    spec = pipeline.features
    observed = joins.observable(rows, pipeline.sources[spec.spine_source])
    wide = observed.withColumns({name: F.expr(text) for name, text in spec.columns.items()})
    if spec.function is not None:
        return wide
    # Each window sends whole rows through a shuffle: only what is still needed should travel.
    links = [*(j.by for j in spec.joins), *(w.by for w in spec.windows), *(c.by for c in spec.children)]
    needed = {*spine.row_key(pipeline), AS_OF, *spec.numeric, *spec.categorical}.union(*links)
    return wide.select(*(name for name in wide.columns if name in needed))


def _in_contract_order(rows: DataFrame, pipeline: Pipeline) -> DataFrame:
    spec = pipeline.features
    key = [name for name in spine.row_key(pipeline) if name != AS_OF]
    numeric = [_finite(F.col(name).cast("double")).alias(name) for name in spec.numeric if name not in key]
    categorical = [F.col(name).cast("string").alias(name) for name in spec.categorical if name not in key]
    return rows.select(*key, AS_OF, *numeric, *categorical)


def _finite(number: Column) -> Column:
    return F.when(F.abs(number) < float("inf"), number)


def _meanings(pipeline: Pipeline) -> dict[str, str]:
    """Column -> where it comes from, for the table's column comments."""
    spec = pipeline.features
    meaning = dict(spec.columns)
    for join in spec.joins:
        meaning |= {name: f"{join.source}.{column}" for name, column in join.take.items()}
    for window in spec.windows:
        for name, text in window.take.items():
            meaning |= {window.column(name, width): f"{text} of {window.of} over {width.text}" for width in window.over}
    for children in spec.children:
        meaning |= {name: f"{text} of {children.of}" for name, text in children.take.items()}
    return meaning


def _label_in_windows(pipeline: Pipeline) -> bool:
    name = re.compile(rf"\b{re.escape(pipeline.features.label.name)}\b", re.IGNORECASE)
    return any(name.search(text) for window in pipeline.features.windows for text in window.take.values())


def _sources(pipeline: Pipeline, names: Iterable[str]) -> dict[str, Any]:
    return {name: pipeline.sources[name].model_dump(mode="json", include=_MEANING) for name in sorted(names)}


def _eight_digits(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
