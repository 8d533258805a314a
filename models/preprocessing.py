"""Raw feature columns -> one vector, by stock MLlib stages that run inside the cross-validation.

Column names are made of the raw name, `=` (no raw name can hold it) and what was done to it, so that the attribute names of the
assembled vector lead back to raw columns: `distance=value`, `distance=missing`, `carrier=levels_UA`, `carrier=index`.

NaN and infinite numbers are treated as missing. A null category is a level of its own, `(missing)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pyspark.ml import PipelineModel
from pyspark.ml.feature import Imputer, OneHotEncoder, SQLTransformer, StandardScaler, StringIndexer, VectorAssembler
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

FEATURES, LABEL = "features", "label"
# Whether a row is not trained on, but tells boosted trees when to stop.
ASIDE = "row=aside"
MISSING_LEVEL = "(missing)"
# MLlib's trees cut every feature into as many bins as the widest category has levels: beyond this, levels become numbers.
MAX_LEVELS = 254


class Design(Enum):
    """How an estimator wants its features."""

    LINEAR = "imputed, one-hot"
    SCALED = "imputed, one-hot, divided by the standard deviation"
    TREES = "imputed, indexed categories"
    BOOSTED = "missing kept, indexed categories"

    @property
    def imputes(self) -> bool:
        return self is not Design.BOOSTED


@dataclass(frozen=True)
class Profile:
    """What the stages need to know of the training part.

    Attributes:
        numeric, categorical: raw feature columns in contract order.
        missing: numeric columns with at least one missing value.
        levels: categorical column -> number of different values, the missing level included.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    missing: frozenset[str]
    levels: dict[str, int]


def is_missing(name: str) -> Column:
    """Condition: null, NaN or infinite."""
    column = F.col(name)
    return column.isNull() | F.isnan(column) | (F.abs(column) == float("inf"))


def profile(frame: DataFrame, numeric: Sequence[str], categorical: Sequence[str]) -> Profile:
    """One pass over the training part."""
    missing = [F.max(is_missing(name)).alias(name) for name in numeric]
    levels = [F.count_distinct(F.coalesce(name, F.lit(MISSING_LEVEL))).alias(name) for name in categorical]
    row = frame.agg(F.count(F.lit(1)), *missing, *levels).collect()[0]
    flagged = frozenset(name for name in numeric if row[name])
    return Profile(tuple(numeric), tuple(categorical), flagged, {name: int(row[name]) for name in categorical})


def fitted_stages(model: PipelineModel) -> Iterator[Any]:
    """The stages of a model, those of pipelines in it too, as a stack is one of pipelines."""
    for stage in model.stages:
        if isinstance(stage, PipelineModel):
            yield from fitted_stages(stage)
        else:
            yield stage


def stages(profile: Profile, design: Design, impute: str) -> list[Any]:
    """The feature stages of a pipeline, ending in the vector `features`.

    Args:
        impute: strategy of MLlib's Imputer, mean or median; the values are those of the rows that the pipeline is fitted on.
    """
    result: list[Any] = [SQLTransformer(statement=_cleaning(profile, design))]
    inputs = [f"{name}=value" for name in profile.numeric]
    if design.imputes and profile.numeric:
        outputs = [f"{name}=imputed" for name in profile.numeric]
        result.append(Imputer(inputCols=inputs, outputCols=outputs, strategy=impute))
        inputs = outputs + [f"{name}=missing" for name in profile.numeric if name in profile.missing]
    if profile.categorical:
        categorical_stages, columns = _categorical(profile, design)
        result += categorical_stages
        inputs = inputs + columns
    invalid = "error" if design.imputes else "keep"
    assembled = FEATURES if design is not Design.SCALED else "assembled"
    result.append(VectorAssembler(inputCols=inputs, outputCol=assembled, handleInvalid=invalid))
    if design is Design.SCALED:
        result.append(StandardScaler(inputCol=assembled, outputCol=FEATURES))
    return result


def max_bins(profile: Profile) -> int:
    """Bins that MLlib's trees need for the categories: their levels and one for unseen ones; at least MLlib's default."""
    return max([32, *(count + 1 for count in profile.levels.values() if count <= MAX_LEVELS)])


def _cleaning(profile: Profile, design: Design) -> str:
    """Missing numbers as null, flags where the training part has missing ones, null categories as a level."""
    columns = ["*"]
    for name in profile.numeric:
        missing = f"`{name}` IS NULL OR isnan(`{name}`) OR abs(`{name}`) = double('Infinity')"
        columns.append(f"IF({missing}, NULL, `{name}`) AS `{name}=value`")
        if design.imputes and name in profile.missing:
            columns.append(f"IF({missing}, 1.0D, 0.0D) AS `{name}=missing`")
    columns += [f"coalesce(`{name}`, '{MISSING_LEVEL}') AS `{name}=level`" for name in profile.categorical]
    return f"SELECT {', '.join(columns)} FROM __THIS__"


def _categorical(profile: Profile, design: Design) -> tuple[list[Any], list[str]]:
    """Stages of the categorical columns, and the columns to assemble.

    An unseen category has the index after the last known one. One-hot drops that last place, so that an unseen category is a row
    of zeros; there is no other baseline, every known level has its coefficient.
    """
    names = profile.categorical
    indices = [f"{name}=index" for name in names]
    indexer = StringIndexer(
        inputCols=[f"{name}=level" for name in names],
        outputCols=indices,
        handleInvalid="keep",
        stringOrderType="frequencyDesc",
    )
    if design in (Design.LINEAR, Design.SCALED):
        vectors = [f"{name}=levels" for name in names]
        return [indexer, OneHotEncoder(inputCols=indices, outputCols=vectors, dropLast=True)], vectors
    wide = [name for name in names if profile.levels[name] > MAX_LEVELS and design is Design.TREES]
    if not wide:
        return [indexer], indices
    # Arithmetic leaves the category's metadata behind, and MLlib then splits the rank by frequency as a number.
    ranks = ", ".join(f"`{name}=index` + 0.0D AS `{name}=rank`" for name in wide)
    columns = [f"{name}=rank" if name in wide else f"{name}=index" for name in names]
    return [indexer, SQLTransformer(statement=f"SELECT *, {ranks} FROM __THIS__")], columns
