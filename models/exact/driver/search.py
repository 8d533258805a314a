"""One exact search: the grid points of one frame of features, from the rows to genuine models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pyspark.ml import Estimator, Model
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.linalg import VectorUDT
from pyspark.ml.regression import LinearRegression
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from models.exact.driver import moments, native
from models.exact.driver.cells import Cells, Flags
from models.exact.driver.linear_search import LinearSearch, is_weighted
from models.exact.driver.logistic_search import LogisticSearch
from models.exact.driver.maps import Maps
from models.exact.driver.raw_design import RawDesign
from models.exact.driver.solution import Solution
from models.exact.driver.workers import Design, open_passes, vector_values
from models.folds import Folds
from transforms.errors import ModelError

OnPass = Callable[[int, int], None]


class Search(Protocol):
    """A search over one set of rows."""

    @property
    def filled(self) -> Flags:
        """(C), the cells with rows of positive weight."""
        ...

    def folds(self, pairs: Sequence[tuple[int, int]]) -> list[Solution]:
        """The models of (point, fold) pairs, each with its metric on the fold's validation rows."""
        ...

    def whole(self, point: int) -> Solution:
        """The model of one grid point on all rows, those that no fold validates on included."""
        ...


@contextmanager
def opened(
    frame: DataFrame,
    folds: Folds,
    estimators: Sequence[Estimator[Any]],
    evaluator: Evaluator | None,
    *,
    width: int,
    maps: Maps | None = None,
    on_pass: OnPass | None = None,
) -> Iterator[Search]:
    """A search whose workers are let go at the end.

    Args:
        frame: features, label, weight and the fold columns.
        estimators: one for each grid point, all of one class and with the same columns.
        evaluator: None where only models of all rows are wanted.
        width: columns of the raw design; without one, of the features.
        maps: from a raw design to the features; without, the estimators' column has the features.
        on_pass: called after each pass with its number and how many models still move.
    """
    first: Any = estimators[0]
    cells = Cells.of(folds)
    is_linear = isinstance(first, LinearRegression)
    raw = maps.raw if maps else None
    frame, design = _design(frame, first) if raw is None else _raw_design(frame, first, raw)
    reply = moments.size(width, cells.count) if is_linear else 0
    with open_passes(frame, cells, design, several=not is_linear, reply=reply) as passes:
        if is_linear:
            yield LinearSearch(passes, cells, estimators, evaluator, maps)  # type: ignore[arg-type]
        else:
            yield LogisticSearch(passes, cells, estimators, evaluator, maps=maps, on_pass=on_pass)  # type: ignore[arg-type]


def model_of(estimator: Any, solution: Solution, training: DataFrame | None = None) -> Model:
    """A genuine MLlib model, with a training summary if `training` rows are given."""
    if isinstance(estimator, LinearRegression):
        return native.linear_model(
            estimator,
            solution.coefficients[0],
            float(solution.intercepts[0]),
            training=training,
            inverse_diagonal=solution.inverse_diagonal,
        )
    return native.logistic_model(
        estimator,
        solution.coefficients,
        solution.intercepts,
        classes=solution.classes,
        multinomial=solution.multinomial,
        training=training,
        objectives=() if solution.objective is None else (solution.objective,),
    )


def width(frame: DataFrame, features: str) -> int:
    """Number of features: from the column's metadata, else of the first row.

    Raises:
        ModelError: there is no row.
    """
    attributes = frame.schema[features].metadata.get("ml_attr", {})
    if "num_attrs" in attributes:
        return int(attributes["num_attrs"])
    row = frame.select(features).first()
    if row is None:
        raise ModelError("There are no rows to fit: expected at least one in each fold.")
    return int(row[0].size)


def _design(frame: DataFrame, estimator: Any) -> tuple[DataFrame, Design]:
    """The frame, and its features as they are."""
    features = estimator.getFeaturesCol()
    if not isinstance(frame.schema[features].dataType, VectorUDT):
        found = frame.schema[features].dataType.simpleString()
        raise ModelError(f"Column '{features}' is {found}; expected a vector: assemble the features first.")
    label, weight = _label(estimator)
    return frame, Design(vector_values(F.col(features)), label, weight)


def _raw_design(frame: DataFrame, estimator: Any, raw: RawDesign) -> tuple[DataFrame, Design]:
    """The frame with codes, and what features are made of."""
    frame, codes, levels = raw.with_codes(frame)
    label, weight = _label(estimator)
    return frame, Design(raw.dense, label, weight, codes, levels)


def _label(estimator: Any) -> tuple[Column, Column | None]:
    """Label and weight."""
    weight = F.col(estimator.getWeightCol()).cast("double") if is_weighted(estimator) else None
    return F.col(estimator.getLabelCol()).cast("double"), weight
