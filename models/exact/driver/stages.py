"""The feature stages of a pipeline as a recipe: each fold's map of one raw design, which `designs` has the formulas of.

Everything that stages would learn from the rows of a fold follows from the moments of its cells, except medians and modes, which
stock `Imputer` finds. So all folds and all settings of the stages share the passes over one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pyspark.ml import Estimator
from pyspark.ml.feature import (
    Imputer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    StandardScaler,
    StringIndexer,
    VectorAssembler,
)
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import DataFrame
from pyspark.sql.types import DoubleType, NumericType, StringType, StructType

from models.exact.driver import designs
from models.exact.driver.affine import Affine
from models.exact.driver.designs import Columns
from models.exact.driver.moments import Moments
from models.exact.driver.raw_design import NoRecipe, RawDesign, Sources
from transforms.errors import ModelError

# What a column is made of, as far as it matters to the stages after it.
NUMBER, VECTOR, TEXT, IMPUTED, INDEX, ONE_HOT, MAPPED = range(7)
_ASSEMBLED = (NUMBER, VECTOR, IMPUTED, INDEX, ONE_HOT, MAPPED)
_SCALED = (VECTOR, ONE_HOT, MAPPED)


# By strategy, relative error and column.
Surrogates = dict[tuple[str, float, str], float]


@dataclass(frozen=True, eq=False)
class Part:
    """The training rows of a fold, or all rows.

    Attributes:
        rows: moments of the raw design, not weighted.
        validated: of the rows to be predicted; None where there are none.
        surrogates: medians and modes that stock imputers learned.
    """

    rows: Moments
    validated: Moments | None = None
    surrogates: Surrogates = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Recipe:
    """The fitted stages of a grid point, and the column that its estimator reads."""

    stages: tuple[Any, ...]
    features: str
    sources: Sources

    @classmethod
    def of(cls, stages: Sequence[Any], features: str, schema: StructType) -> Recipe:
        """Of stages before an estimator that reads `features`, over a frame of that schema.

        Raises:
            NoRecipe: a stage is none of those known here, or reads what it cannot here.
        """
        made: dict[str, tuple[int, bool]] = {}
        sources = Sources()
        for stage in stages:
            if type(stage) not in _STAGES:
                raise NoRecipe(f"{type(stage).__name__} is no map of the columns that folds could share")
            accepts = _STAGES[type(stage)]
            inputs = [made.get(name) or _source(name, schema) for name in inputs_of(stage)]
            reason = accepts(
                stage, inputs, [schema[n].dataType if n in schema.names else None for n in inputs_of(stage)]
            )
            if reason:
                raise NoRecipe(f"{type(stage).__name__} {reason}")
            read = [name for name in inputs_of(stage) if name not in made]
            sources |= _sources(read, schema, is_imputed=isinstance(stage, Imputer))
            made |= dict.fromkeys(outputs_of(stage), _made(stage, inputs))
        if made.get(features, (NUMBER, False))[0] not in _SCALED:
            raise NoRecipe(f"no stage that is fitted leads to '{features}'")
        return cls(tuple(stages), features, sources)

    def columns(self, raw: RawDesign, part: Part) -> Columns:
        """The features as a map of the raw design, as these stages would make them once fitted on a part.

        Raises:
            ModelError: a stage cannot be fitted on the part, or fails on the rows to be predicted.
        """
        made: dict[str, Columns] = {}
        orders: dict[str, Any] = {}  # index column -> levels in its order
        for stage in self.stages:
            names = list(zip(inputs_of(stage), outputs_of(stage), strict=False))
            if isinstance(stage, Imputer):
                made |= {output: _imputed(stage, name, raw, part) for name, output in names}
            elif isinstance(stage, StringIndexer):
                for name, output in names:
                    order = _order(stage, name, raw, part)
                    made[output] = designs.indexed(raw.size, _first_level(raw, name), order)
                    orders[output] = name, order, stage.getHandleInvalid() == "keep"
            elif isinstance(stage, OneHotEncoder):
                for name, output in names:
                    text, order, keeps = orders[name]
                    made[output] = _one_hot(raw, text, order, keeps=keeps, drop_last=stage.getDropLast())
            elif isinstance(stage, VectorAssembler):
                parts = [made[name] if name in made else _raw(name, raw) for name in inputs_of(stage)]
                made[stage.getOutputCol()] = designs.assembled(parts)
            else:
                name = stage.getInputCol()
                made[stage.getOutputCol()] = _scaled(stage, made[name] if name in made else _raw(name, raw), part)
        return made[self.features]

    def affine(self, raw: RawDesign, part: Part) -> Affine:
        """`columns` as workers' passes take it."""
        return self.columns(raw, part).affine


def surrogates(stages: Iterable[Any], rows: DataFrame) -> Surrogates:
    """Medians and modes, as stock imputers learn them from training rows."""
    learned: Surrogates = {}
    for stage in stages:
        if not isinstance(stage, Imputer) or stage.getStrategy() == "mean":
            continue
        if any(_learned_by(stage, name) not in learned for name in inputs_of(stage)):
            row = stage.fit(rows).surrogateDF.collect()[0]
            learned |= {_learned_by(stage, name): float(row[name]) for name in inputs_of(stage)}
    return learned


def _learned_by(imputer: Any, column: str) -> tuple[str, float, str]:
    return imputer.getStrategy(), imputer.getRelativeError(), column


def inputs_of(stage: Any) -> list[str]:
    """Columns that a stage reads."""
    return _names(stage, "inputCols", "inputCol")


def outputs_of(stage: Any) -> list[str]:
    """Columns that a stage writes."""
    return _names(stage, "outputCols", "outputCol")


def _names(stage: Any, several: str, one: str) -> list[str]:
    if stage.hasParam(several) and stage.isSet(stage.getParam(several)):
        return list(stage.getOrDefault(several))
    return [stage.getOrDefault(one)] if stage.hasParam(one) else []


# which stages there are, and what they accept: a reason against, or None

Inputs = Sequence[tuple[int, bool]]  # kind, and whether each column is at most one column of the raw design


def _accepts_imputer(stage: Any, inputs: Inputs, types: Sequence[Any]) -> str | None:
    if any(kind != NUMBER for kind, _ in inputs):
        return "reads a column that another stage makes"
    if any(not isinstance(found, DoubleType) for found in types):
        return "reads a column that is no double, and rounds what it learns"
    return None if np.isnan(stage.getMissingValue()) else "has a missingValue of its own"


def _accepts_indexer(stage: Any, inputs: Inputs, types: Sequence[Any]) -> str | None:
    if any(kind != TEXT for kind, _ in inputs):
        return "reads a column that is no text of the frame"
    return "skips rows" if stage.getHandleInvalid() == "skip" else None


def _accepts_encoder(stage: Any, inputs: Inputs, types: Sequence[Any]) -> str | None:
    if any(kind != INDEX for kind, _ in inputs):
        return "reads a column that no StringIndexer makes"
    return "keeps invalid values" if stage.getHandleInvalid() == "keep" else None


def _accepts_assembler(stage: Any, inputs: Inputs, types: Sequence[Any]) -> str | None:
    if any(kind not in _ASSEMBLED for kind, _ in inputs):
        return "reads a column that is no number"
    return "skips rows" if stage.getHandleInvalid() == "skip" else None


def _accepts_scaler(stage: Any, inputs: Inputs, types: Sequence[Any]) -> str | None:
    return None if all(kind in _SCALED for kind, _ in inputs) else "reads a column that is no vector"


def _accepts_range_scaler(stage: Any, inputs: Inputs, types: Sequence[Any]) -> str | None:
    # The range of a sum of columns, or of filled ones, does not follow from their ranges.
    if not all(single for _, single in inputs):
        return "needs the range of imputed or indexed columns"
    return _accepts_scaler(stage, inputs, types)


_STAGES: Mapping[type, Callable[[Any, Inputs, Sequence[Any]], str | None]] = {
    Imputer: _accepts_imputer,
    StringIndexer: _accepts_indexer,
    OneHotEncoder: _accepts_encoder,
    VectorAssembler: _accepts_assembler,
    StandardScaler: _accepts_scaler,
    MinMaxScaler: _accepts_range_scaler,
    MaxAbsScaler: _accepts_range_scaler,
}


def is_shared(stage: Any) -> bool:
    """Whether a stage belongs into a recipe; others must be applied to the frame before."""
    return isinstance(stage, (Estimator, VectorAssembler))


def _source(name: str, schema: StructType) -> tuple[int, bool]:
    kind = schema[name].dataType if name in schema.names else None
    if isinstance(kind, NumericType):
        return NUMBER, True
    if isinstance(kind, VectorUDT):
        return VECTOR, True
    if isinstance(kind, StringType):
        return TEXT, False
    raise NoRecipe(f"column '{name}' is {kind.simpleString() if kind else 'absent'}")


def _made(stage: Any, inputs: Inputs) -> tuple[int, bool]:
    if isinstance(stage, Imputer):
        return IMPUTED, False
    if isinstance(stage, StringIndexer):
        return INDEX, False
    if isinstance(stage, OneHotEncoder):
        return ONE_HOT, stage.getDropLast()
    return MAPPED, all(single for _, single in inputs)


def _sources(names: Sequence[str], schema: StructType, *, is_imputed: bool) -> Sources:
    kinds = {name: _source(name, schema)[0] for name in names}
    numbers, vectors, texts = (
        frozenset(name for name, kind in kinds.items() if kind == wanted) for wanted in (NUMBER, VECTOR, TEXT)
    )
    return Sources(numbers, numbers if is_imputed else frozenset(), vectors, texts)


# what stages learn from a part


def _imputed(stage: Any, name: str, raw: RawDesign, part: Part) -> Columns:
    value = raw.first["value", name]
    if name not in raw.fills:
        return designs.raw(raw.size, [value])
    flag, fill = raw.first["flag", name], raw.fills[name]
    if part.rows.nonzero[flag] == part.rows.count:
        raise ModelError(
            f"Imputer: column '{name}' has no value in the training rows of a fold; leave it out, or use fewer folds."
        )
    learned = part.surrogates.get(_learned_by(stage, name))
    if learned is None:
        learned = designs.mean_of_known(part.rows, value, flag, fill)
    return designs.imputed(raw.size, value, flag, fill, learned)


def _order(stage: Any, name: str, raw: RawDesign, part: Part) -> Any:
    """Levels of a text in the order of the fitted indexer's labels."""
    first, count = _first_level(raw, name), len(raw.levels[name])
    counts = part.rows.nonzero[first : first + count]
    if stage.getHandleInvalid() == "error":
        _refuse_unseen(name, raw, part)
    return designs.in_order(counts, stage.getStringOrderType())


def _refuse_unseen(name: str, raw: RawDesign, part: Part) -> None:
    first, count = _first_level(raw, name), len(raw.levels[name])
    levels = slice(first, first + count)
    for rows in (part.rows, part.validated):
        if rows is not None and rows.nonzero[levels].sum() < rows.count:
            raise ModelError(
                f"StringIndexer: column '{name}' is null in some rows, and handleInvalid is 'error'; set it to 'keep', or drop them."
            )
    if part.validated is None:
        return
    unseen = np.flatnonzero((part.validated.nonzero[levels] > 0) & (part.rows.nonzero[levels] == 0))
    if len(unseen):
        found = ", ".join(repr(raw.levels[name][at]) for at in unseen[:5])
        raise ModelError(
            f"StringIndexer: column '{name}' has {found} in the validation rows of a fold and not in its training rows, and"
            " handleInvalid is 'error'; set it to 'keep', or use fewer folds."
        )


def _one_hot(raw: RawDesign, text: str, order: Any, *, keeps: bool, drop_last: bool) -> Columns:
    first = _first_level(raw, text)
    if keeps:
        return designs.one_hot(raw.size, first, order, drop_last=drop_last)
    return designs.raw(raw.size, (first + (order[:-1] if drop_last else order)).tolist())


def _scaled(stage: Any, columns: Columns, part: Part) -> Columns:
    if isinstance(stage, StandardScaler):
        return designs.standardised(columns, part.rows, with_mean=stage.getWithMean(), with_std=stage.getWithStd())
    if isinstance(stage, MinMaxScaler):
        return designs.between(columns, part.rows, low=stage.getMin(), high=stage.getMax())
    return designs.by_largest(columns, part.rows)


def _raw(name: str, raw: RawDesign) -> Columns:
    if name in raw.widths:
        first = raw.first["vector", name]
        return designs.raw(raw.size, list(range(first, first + raw.widths[name])))
    return designs.raw(raw.size, [raw.first["value", name]])


def _first_level(raw: RawDesign, name: str) -> int:
    return raw.first["level", name]
