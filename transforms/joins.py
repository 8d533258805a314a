"""What a row of the spine takes from other tables: as-of joins, static lookups, child aggregates, and the user's own function."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.schema import Join, Pipeline, Source
from transforms import outcomes, related, spine
from transforms.contracts import silver_key
from transforms.days import Days
from transforms.errors import ConfigError, ContractError
from transforms.instants import instant
from transforms.point_in_time import as_of_join
from transforms.spine import AS_OF


def with_joins(
    rows: DataFrame, sources: Mapping[str, DataFrame], pipeline: Pipeline, only: Days | None = None
) -> DataFrame:
    """Add the columns of each join in order; a later one may join on what an earlier one took.

    Args:
        only: the days that rows lie in, where that is known: rows that none of them can see are left out.
    """
    for index, join in enumerate(pipeline.features.joins):
        where = f"features.joins.{index}"
        other = observable(sources[join.source], pipeline.sources[join.source])
        if pipeline.sources[join.source].static:
            rows = _lookup(rows, other, join, pipeline.sources[join.source], where)
        else:
            rows = _last_known(rows, other, join, pipeline, where, only)
    return rows


def with_children(rows: DataFrame, sources: Mapping[str, DataFrame], pipeline: Pipeline) -> DataFrame:
    """Add aggregates over the detail rows that belong to each row.

    Where both sides have a time, details count that were known before `as_of`: the rule of windows and as-of joins.
    """
    for children in pipeline.features.children:
        source = pipeline.sources[children.of]
        details = observable(sources[children.of], source)
        known = outcomes.known_at(details, source, frozenset(), pipeline.timezone)
        timed = spine.has_time(pipeline) and known is not None
        if timed and known is not None:
            details = details.withColumn("_known_at", known)
        rows = related.totals(
            rows,
            details,
            by=children.by,
            row_key=spine.row_key(pipeline),
            take=children.take,
            before=(AS_OF, "_known_at") if timed else None,
        )
    return rows


def with_function(rows: DataFrame, pipeline: Pipeline) -> DataFrame:
    """Apply `features.function`, which may add or change columns but not rows.

    Raises:
        ConfigError: there is no such function.
        ContractError: it returned other rows or other keys.
    """
    path = pipeline.features.function
    if path is None:
        return rows
    changed = _function(path)(rows)
    if not isinstance(changed, DataFrame):
        raise ContractError(f"features.function: {path} returned {type(changed).__name__}, expected a DataFrame.")
    key = list(dict.fromkeys([*spine.row_key(pipeline), AS_OF]))
    missing = [name for name in key if name not in changed.columns]
    if missing:
        raise ContractError(
            f"features.function: {path} dropped the key column(s) {', '.join(missing)}. Return them as they came."
        )
    before, after = _rows_and_keys(rows, key), _rows_and_keys(changed, key)
    if before != after:
        kept = (
            "the same number of rows with other keys" if before[0] == after[0] else f"{after[0]} rows for {before[0]}"
        )
        raise ContractError(f"features.function: {path} returned {kept}. Return each row once, with its key unchanged.")
    return changed


def function_source(path: str) -> str:
    """The text of the module that holds `features.function`: an edit there is another version of the features."""
    return inspect.getsource(importlib.import_module(_function(path).__module__))


def observable(rows: DataFrame, source: Source) -> DataFrame:
    """A table without the columns known only later, and without those that say how its rows came there."""
    rows = spine.source_rows(rows)
    return rows.drop(*outcomes.gates(rows, source))


def _lookup(rows: DataFrame, other: DataFrame, join: Join, source: Source, where: str) -> DataFrame:
    """The columns taken from the one row with equal key; nulls match nothing."""
    if not set(silver_key(source)) <= set(join.by.values()):
        _require_unique(other, join, where)
    theirs = [other[name].alias(f"_by_{i}") for i, name in enumerate(join.by.values())]
    other = other.select(*theirs, *(other[name].alias(new) for new, name in join.take.items()))
    equal = [rows[name] == other[f"_by_{i}"] for i, name in enumerate(join.by)]
    return rows.join(other, equal, "left").drop(*(f"_by_{i}" for i in range(len(join.by))))


def _require_unique(other: DataFrame, join: Join, where: str) -> None:
    by = list(dict.fromkeys(join.by.values()))
    repeated = other.dropna(subset=by).groupBy(*by).count().where("count > 1")
    found = repeated.agg(F.count("*").alias("keys"), F.sum("count").alias("rows")).head()
    assert found is not None
    if found["keys"]:
        raise ContractError(
            f"{where}: expected one row of {join.source} per ({', '.join(by)}), found {found['keys']} value(s) with"
            f" {found['rows']} rows. Join on its whole key, or aggregate it with `children`."
        )


def _last_known(
    rows: DataFrame, other: DataFrame, join: Join, pipeline: Pipeline, where: str, only: Days | None
) -> DataFrame:
    source = pipeline.sources[join.source]
    known = outcomes.known_at(other, source, frozenset(), pipeline.timezone)
    if join.within is None or known is None:
        raise ConfigError(
            f"{where}: {join.source} is not static, so its rows are joined by time: give the join a `within` and the source an `at`."
        )
    at = instant(other, source.at, pipeline.timezone) if source.at else known
    other = other if only is None else other.where(only.hold(known, join.within.length))
    columns = {f"_by_{i}": name for i, name in enumerate(join.by.values())}
    columns |= {f"_key_{i}": name for i, name in enumerate(silver_key(source))}
    columns |= {f"_take_{i}": name for i, name in enumerate(join.take.values())}
    renamed = other.select(
        known.alias("_known_at"), at.alias("_at"), *(other[name].alias(new) for new, name in columns.items())
    )
    return as_of_join(
        rows,
        renamed,
        by={name: f"_by_{i}" for i, name in enumerate(join.by)},
        as_of=AS_OF,
        known_at="_known_at",
        at="_at",
        key=[name for name in columns if name.startswith("_key_")],
        within=join.within,
        take={name: f"_take_{i}" for i, name in enumerate(join.take)},
    )


def _function(path: str) -> Callable[[DataFrame], DataFrame]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"features.function: {path} cannot be imported ({error}). Expected the dotted path of a Python function DataFrame -> DataFrame."
        ) from error
    if not callable(found):
        raise ConfigError(
            f"features.function: {path} is {type(found).__name__}, expected a function DataFrame -> DataFrame."
        )
    return found  # type: ignore[no-any-return]


def _rows_and_keys(rows: DataFrame, key: list[str]) -> tuple[int, object]:
    """Number of rows, and a sum over the hashes of their keys that does not depend on order."""
    hashes = F.sum(
        F.xxhash64(*(F.coalesce(F.col(name).cast("string"), F.lit("\0")) for name in key)).cast("decimal(38,0)")
    )
    found = rows.agg(F.count("*").alias("rows"), hashes.alias("keys")).head()
    assert found is not None
    return found["rows"], found["keys"]
