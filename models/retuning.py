"""Cross-validation from statistics of rows: linear regression after new rows, without reading the old ones again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
from pyspark.ml import Estimator, Model, PipelineModel
from pyspark.sql import DataFrame

from models import any_estimator, exact_estimator
from models.any_estimator import Route
from models.exact.driver import choice
from models.exact.driver import search as exact_search
from models.exact.driver.cells import Cells
from models.exact.driver.linear_search import LinearSearch
from models.exact.driver.statistics import SeenRows, Statistics
from models.grid_search import Search
from models.trials import TuningResult
from transforms.errors import ModelError


def statistics(search: Search, frame: DataFrame, how_folded: Mapping[str, Any]) -> Statistics:
    """What the search needs to know of these rows, by one pass over them.

    Args:
        how_folded: what decides the fold of a row; statistics of rows that were folded otherwise cannot be added to these.

    Raises:
        ModelError: the search needs more than that of rows, or fold numbers are out of range.
    """
    first = _routes(search)[0]
    search.folds.check(frame, whole=False)
    features = reduce(lambda rows, stage: stage.transform(rows), first.prefix, frame)
    last: Any = first.last
    width = exact_search.width(features, last.getFeaturesCol())
    reason = exact_estimator.too_wide(width, search.folds)
    if reason:
        raise ModelError(f"Statistics of these rows cannot be kept: {reason}.")
    with exact_search.opened(features, search.folds, [last], search.evaluator) as opened:
        assert isinstance(opened, LinearSearch)
        return Statistics(opened.by_cell, {**_columns(first), **how_folded, "features": width})


def fit(search: Search, seen: Statistics, how_folded: Mapping[str, Any]) -> tuple[TuningResult, Model]:
    """Try every grid point on every fold of all rows that the statistics stand for, and fit the best one to them.

    Returns:
        The scores, and the best point's model. It has no training summary, for which MLlib would read the rows.

    Raises:
        ModelError: the search needs more than statistics of rows, these are of other columns or folds, or a part of a fold has no
            rows.
    """
    routes = _routes(search)
    seen.require({**_columns(routes[0]), **how_folded, "features": seen.definition.get("features")})
    lasts: list[Any] = [way.last for way in routes]
    tried = LinearSearch(SeenRows(seen), Cells.of(search.folds), lasts, search.evaluator)  # type: ignore[arg-type]
    pairs = [(point, fold) for point in range(len(routes)) for fold in range(search.folds.count)]
    values = [solution.value for solution in tried.folds(pairs)]
    scores = np.array(values, dtype=np.float64).reshape(len(routes), search.folds.count)
    result = TuningResult((), scores, search.evaluator.isLargerBetter())
    best = routes[result.require_best()]
    model = exact_search.model_of(best.last, tried.whole(best.point))
    return result, PipelineModel([*best.prefix, model]) if best.is_pipeline else model


def _routes(search: Search) -> list[Route]:
    """The grid points.

    Raises:
        ModelError: some need more than statistics of rows; every reason is told.
    """
    routes = [any_estimator.route(search.estimator, *point) for point in enumerate(search.grid)]
    reasons = {reason for way in routes if (reason := _reason_against(way, search))}
    if not reasons and len({exact_estimator.columns(way.last) for way in routes}) > 1:
        reasons.add("the grid is over columns")
    if reasons:
        raise ModelError(
            [f"Statistics of rows do not do for this search: {reason}. Fit all rows." for reason in sorted(reasons)]
        )
    return routes


def _columns(way: Route) -> dict[str, Any]:
    return dict(zip(("featuresCol", "labelCol", "weightCol"), exact_estimator.columns(way.last), strict=True))


def _reason_against(way: Route, search: Search) -> str | None:
    if any(isinstance(stage, Estimator) for stage in way.prefix):
        return "feature stages learn from all rows"
    if choice.solver(way.last) not in (choice.LINEAR, None):
        return "only linear regression is determined by sums over rows"
    return exact_estimator.reason_against(way, search.evaluator, insist=search.exact)
