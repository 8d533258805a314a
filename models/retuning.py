"""Cross-validation from statistics of rows: linear regression after new rows, without reading the old ones again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pyspark.ml import Estimator, Model
from pyspark.sql import DataFrame

from models import any_estimator, exact_estimator
from models.any_estimator import Route
from models.exact.driver import choice
from models.exact.driver import search as exact_search
from models.exact.driver.cells import Cells
from models.exact.driver.linear_search import LinearSearch
from models.exact.driver.statistics import SeenRows, Statistics
from models.grid_search import Search
from models.trials import Trial, TuningResult, finite
from transforms.errors import ModelError


def statistics(search: Search, frame: DataFrame, how_folded: Mapping[str, Any]) -> Statistics:
    """What the search needs to know of these rows, by one pass over them.

    Args:
        how_folded: what decides the fold of a row; statistics of rows that were folded otherwise cannot be added to these.

    Raises:
        ModelError: the search needs more than that of rows, there are none, or fold numbers are out of range.
    """
    first = _routes(search)[0]
    search.folds.check(frame, whole=False)
    features = any_estimator.through(first.prefix, frame)
    if features.isEmpty():
        raise ModelError("There are no rows to take statistics of: keep those that you have.")
    last: Any = first.last
    width = exact_search.width(features, last.getFeaturesCol())
    reason = exact_estimator.too_wide(width, search.folds)
    if reason:
        raise ModelError(f"Statistics of these rows cannot be kept: {reason}.")
    with exact_search.opened(features, search.folds, [last], search.evaluator, width=width) as opened:
        assert isinstance(opened, LinearSearch)
        read = {"features": _names(features, last.getFeaturesCol(), width), "keyType": _key_type(frame, how_folded)}
        return Statistics(opened.by_cell, {**_columns(first), **how_folded, **read})


def fit(search: Search, seen: Statistics, how_folded: Mapping[str, Any]) -> tuple[TuningResult, Model]:
    """Try every grid point on every fold of all rows that the statistics stand for, and fit the best one to them.

    Returns:
        The scores, and the best point's model. It has no training summary, for which MLlib would read the rows.

    Raises:
        ModelError: the search needs more than statistics of rows, these are of other columns or folds, or a part of a fold has no
            rows.
    """
    routes = _routes(search)
    # Names of features and the type of the key are the rows' own.
    seen.require({**seen.definition, **_columns(routes[0]), **how_folded})
    lasts: list[Any] = [way.last for way in routes]
    any_estimator.check_values(lasts[0])
    tried = LinearSearch(SeenRows(seen), Cells.of(search.folds), lasts, search.evaluator)  # type: ignore[arg-type]
    pairs = [(point, fold) for point in range(len(routes)) for fold in range(search.folds.count)]
    trials = []
    for (point, fold), solution in zip(pairs, tried.folds(pairs), strict=True):
        value, error = finite(solution.value)
        trials.append(Trial("", point, {}, fold, search.metric, value, 0.0, choice.LINEAR, error))
    values = [np.nan if trial.value is None else trial.value for trial in trials]
    scores = np.array(values).reshape(len(routes), search.folds.count)
    result = TuningResult(tuple(trials), scores, search.evaluator.isLargerBetter())
    best = routes[result.require_best()]
    model = exact_search.model_of(best.last, tried.whole(best.point))
    return result, best.model(best.prefix, model)


def _routes(search: Search) -> list[Route]:
    """The grid points.

    Raises:
        ModelError: some need more than statistics of rows; every reason is told.
    """
    routes = [any_estimator.route(search.estimator, *point) for point in enumerate(search.grid)]
    reasons = {reason for way in routes if (reason := _reason_against(way, search))}
    if not reasons and len({(way.keys, any_estimator.columns(way.last)) for way in routes}) > 1:
        reasons.add("the grid is over feature stages or columns")
    if reasons:
        raise ModelError(
            [f"Statistics of rows do not do for this search: {reason}. Fit all rows." for reason in sorted(reasons)]
        )
    return routes


def _columns(way: Route) -> dict[str, Any]:
    """The columns that the estimator reads, and the stages before it; uids, which differ from process to process, left out."""
    stages = [
        [type(stage).__name__, {param.name: stage.getOrDefault(param) for param in stage.params if stage.isSet(param)}]
        for stage in way.prefix
    ]
    names = dict(zip(("featuresCol", "labelCol", "weightCol"), any_estimator.columns(way.last), strict=True))
    text = json.dumps({**names, "stages": stages}, sort_keys=True, default=str)
    for place, stage in enumerate(way.prefix):
        text = text.replace(stage.uid, f"stage {place}")
    found: dict[str, Any] = json.loads(text)
    return found


def _names(rows: DataFrame, features: str, width: int) -> list[str] | int:
    """Names of the features as the column's metadata has them, else their number."""
    kinds = rows.schema[features].metadata.get("ml_attr", {}).get("attrs", {})
    named = {each["idx"]: each["name"] for kind in kinds.values() for each in kind if "name" in each}
    return [named[place] for place in range(width)] if len(named) == width else width


def _key_type(rows: DataFrame, how_folded: Mapping[str, Any]) -> str | None:
    """Hashes of equal keys of two types differ."""
    key = how_folded.get("keyCol")
    return rows.schema[key].dataType.simpleString() if key else None


def _reason_against(way: Route, search: Search) -> str | None:
    if any(isinstance(stage, Estimator) for stage in way.prefix):
        return "feature stages learn from all rows"
    if choice.solver(way.last) not in (choice.LINEAR, None):
        return "only linear regression is determined by sums over rows"
    reason = exact_estimator.reason_against(way, search.evaluator, insist=search.exact)
    if reason is None and search.evaluator.getOrDefault("metricName") == "mae":
        return "mae needs the errors of single rows"
    return reason
