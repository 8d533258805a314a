"""The feature stages of a pipeline as a recipe: each fold's map of one raw design, which `designs` has the formulas of.

Everything that stages would learn from the rows of a fold follows from the moments of its cells, except medians and modes, which
stock `Imputer` finds. So all folds and all settings of the stages share the passes over one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
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
    StringIndexerModel,
    VectorAssembler,
)
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, NumericType, StringType, StructType

from models.exact.driver import designs
from models.exact.driver.affine import Affine
from models.exact.driver.designs import Columns
from models.exact.driver.moments import Moments
from models.exact.driver.workers import vector_values
from transforms.errors import ModelError

# More levels than this in all text columns together go the way of one search a fold.
MOST_LEVELS = 4096

# What a column is made of, as far as it matters to the stages after it.
NUMBER, VECTOR, TEXT, IMPUTED, INDEX, ONE_HOT, MAPPED = range(7)
_ASSEMBLED = (NUMBER, VECTOR, IMPUTED, INDEX, ONE_HOT, MAPPED)
_SCALED = (VECTOR, ONE_HOT, MAPPED)


# By strategy, relative error and column.
Surrogates = dict[tuple[str, float, str], float]


class NoRecipe(Exception):
    """The stages are no map of the raw design; the message says why."""


@dataclass(frozen=True)
class Sources:
    """Columns of the frame that a raw design is made of: `imputed` are those of `numbers` that may be missing."""

    numbers: frozenset[str] = frozenset()
    imputed: frozenset[str] = frozenset()
    vectors: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()

    def __or__(self, other: Sources) -> Sources:
        return Sources(
            self.numbers | other.numbers,
            self.imputed | other.imputed,
            self.vectors | other.vectors,
            self.texts | other.texts,
        )


@dataclass(frozen=True)
class RawDesign:
    """The raw design: values of the numbers, flags, vectors, and the one-hot columns of each text.

    Attributes:
        fills: number -> what stands for a missing value; only of those that have a flag.
        widths: vector -> its length.
        levels: text -> its levels in the order of their names.
    """

    numbers: tuple[str, ...]
    fills: Mapping[str, float]
    widths: Mapping[str, int]
    levels: Mapping[str, tuple[str, ...]]
    first: Mapping[tuple[str, str], int] = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        lengths = {("value", name): 1 for name in self.numbers}
        lengths |= {("flag", name): 1 for name in self.fills}
        lengths |= {("vector", name): width for name, width in self.widths.items()}
        lengths |= {("level", name): len(levels) for name, levels in self.levels.items()}
        ends = list(accumulate(lengths.values(), initial=0))
        object.__setattr__(self, "first", dict(zip(lengths, ends[:-1], strict=True)))
        object.__setattr__(self, "size", ends[-1])

    @property
    def dense(self) -> Column:
        """Array of double: all but the one-hot columns."""
        values = [
            F.coalesce(_known(name), F.lit(self.fills[name])) if name in self.fills else F.col(_ticked(name))
            for name in self.numbers
        ]
        flags = [_known(name).isNull() for name in self.fills]
        plain = F.array(*(column.cast("double") for column in (*values, *flags)))
        return F.concat(plain.cast("array<double>"), *(vector_values(F.col(_ticked(name))) for name in self.widths))

    def with_codes(self, frame: DataFrame) -> tuple[DataFrame, Column | None, tuple[int, ...]]:
        """The frame, a column of codes in it (the level of each text, -1 for null), and how many levels each has."""
        texts = [name for name, levels in self.levels.items() if levels]
        if not texts:
            return frame, None, ()
        counts = tuple(len(self.levels[name]) for name in texts)
        outputs = [f"_code_of_{i}" for i in range(len(texts))]
        indexer = StringIndexerModel.from_arrays_of_labels(
            [list(self.levels[name]) for name in texts], texts, outputs, handleInvalid="keep"
        )
        codes = [F.when(F.col(o) < n, F.col(o)).otherwise(-1).cast("int") for o, n in zip(outputs, counts, strict=True)]
        return indexer.transform(frame), F.array(*codes), counts


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


def raw_design(frame: DataFrame, sources: Sources, width: Callable[[str], int]) -> RawDesign:
    """The raw design that all recipes of one search share; asks the frame for means and levels.

    Args:
        width: length of a vector column.

    Raises:
        NoRecipe: the texts have too many levels.
    """
    numbers, imputed, texts = sorted(sources.numbers), sorted(sources.imputed), sorted(sources.texts)
    fills: dict[str, float] = {}
    if imputed:
        known = frame.select([_known(name).alias(f"known_{i}") for i, name in enumerate(imputed)])
        count, *facts = known.agg(
            F.count(F.lit(1)), *(of(column) for column in known.columns for of in (F.count, F.avg))
        ).collect()[0]
        counted = zip(imputed, facts[::2], facts[1::2], strict=True)
        fills = {name: mean or 0.0 for name, number, mean in counted if number < count}
    widths = {name: width(name) for name in sorted(sources.vectors)}
    return RawDesign(tuple(numbers), fills, widths, _levels(frame, texts))


def surrogates(stages: Iterable[Any], rows: DataFrame) -> Surrogates:
    """Medians and modes, as stock imputers learn them from training rows."""
    learned: Surrogates = {}
    for stage in stages:
        if isinstance(stage, Imputer) and stage.getStrategy() != "mean":
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


def _levels(frame: DataFrame, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not texts:
        return {}
    each = (F.struct(F.lit(i).alias("at"), F.col(_ticked(name)).alias("level")) for i, name in enumerate(texts))
    pairs = frame.select(F.explode(F.array(*each)).alias("pair")).select("pair.*").filter(F.col("level").isNotNull())
    found = pairs.distinct().limit(MOST_LEVELS + 1).collect()
    if len(found) > MOST_LEVELS:
        raise NoRecipe(f"{', '.join(texts)} have more than {MOST_LEVELS} levels")
    # In the order of Java's strings, in which StringIndexer breaks ties.
    return {
        name: tuple(sorted((r["level"] for r in found if r["at"] == i), key=lambda text: text.encode("utf-16-be")))
        for i, name in enumerate(texts)
    }


def _known(name: str) -> Column:
    """A number, null where it is null or NaN."""
    return F.nanvl(F.col(_ticked(name)).cast("double"), F.lit(None).cast("double"))


def _ticked(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
