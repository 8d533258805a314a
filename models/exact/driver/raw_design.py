"""The raw design: columns of the frame that all feature stages of a search start from, the same for every fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from pyspark.ml.feature import StringIndexerModel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from models.exact.driver.workers import vector_values

# More levels than this in all text columns together go the way of one search a fold.
MOST_LEVELS = 4096


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
