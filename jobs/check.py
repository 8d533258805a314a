"""Every SQL expression of a pipeline, analysed by Spark against frames without rows, before anything is read.

What `conf` checks by names is checked here by types, and leaks are found by Spark's own analyser: the frames that features are
computed from hold no outcome columns.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    AtomicType,
    BooleanType,
    DataType,
    DateType,
    NullType,
    NumericType,
    StringType,
    TimestampType,
)

from conf.document import Path
from conf.load import Loaded
from conf.names import dotted
from conf.schema import Pipeline, Source
from jobs import expressions
from transforms import aggregates
from transforms.errors import ConfigError
from transforms.expressions import column_schema
from transforms.joins import observable

_NUMBER = (NumericType, BooleanType)
_MOMENT = (TimestampType, DateType)
_ORDER = re.compile(r"\s+(asc|desc)(\s+nulls\s+(first|last))?\s*$", re.IGNORECASE)


def analyse(spark: SparkSession, loaded: Loaded, *, trains: bool = True) -> None:
    """Check all expressions of a pipeline and, for what trains, the estimators and parameters of its candidates.

    Raises:
        ConfigError: every problem, each with its place in the file.
    """
    problems = [(path, f"{dotted(path)}: {text}") for path, text in _Check(spark, loaded.pipeline).problems()]
    if trains:
        problems += _of_candidates(loaded.pipeline)
    if problems:
        raise ConfigError([loaded.positions.sentence(path, text) for path, text in problems])


def _of_candidates(pipeline: Pipeline) -> Iterator[tuple[Path, str]]:
    # MLlib's classes and XGBoost's take a second, which a job that needs none does not have to wait for.
    from models import search

    try:
        search.plans(pipeline.train, pipeline.task)
    except ConfigError as error:
        for sentence in error.problems:
            yield tuple(sentence.partition(": ")[0].split(".")), sentence


class _Check:
    """Walks the pipeline in the order of its blocks; a column that failed is typed as null, so that it causes no second problem."""

    def __init__(self, spark: SparkSession, pipeline: Pipeline) -> None:
        self.spark = spark
        self.pipeline = pipeline
        self.found: list[tuple[Path, str]] = []
        self.rows: dict[str, DataFrame] = {}
        self.sound: dict[str, Source] = {}  # the sources, with NULL for each derived column that failed
        self.label_type: DataType = NullType()

    def problems(self) -> list[tuple[Path, str]]:
        for name, source in self.pipeline.sources.items():
            self._source(name, source)
        frame = self._spine()
        frame = self._joins(frame)
        frame = self._windows(frame)
        frame = self._children(frame)
        self._chosen(frame)
        return self.found

    def _type(
        self,
        frame: DataFrame,
        path: Path,
        sql: str,
        kinds: tuple[type[DataType], ...] = (),
        expected: str = "",
        *,
        aggregate: bool = False,
    ) -> DataType:
        """The type of an expression; NullType after a problem. Null fits every kind."""
        analysis = expressions.analyse(frame, sql, aggregate=aggregate)
        if analysis.type is None:
            self.found.append((path, str(analysis.problem)))
            return NullType()
        if kinds and not isinstance(analysis.type, (*kinds, NullType)):
            self.found.append((path, f"expected {expected}, found the type {analysis.type.simpleString()} of `{sql}`."))
            return NullType()
        return analysis.type

    def _source(self, name: str, source: Source) -> None:
        path: Path = ("sources", name)
        frame = self.spark.createDataFrame([], column_schema(source))
        derive = dict(source.derive)
        for column, sql in source.derive.items():
            if isinstance(self._type(frame, (*path, "derive", column), sql), NullType):
                derive[column] = "NULL"
            frame = frame.withColumn(column, F.expr(derive[column]))
        for setting, moment in (("at", source.at), ("known_at", source.known_at)):
            if moment:
                self._type(frame, (*path, setting), moment, _MOMENT, "a timestamp or date")
        for index, outcome in enumerate(source.outcomes):
            self._type(frame, (*path, "outcomes", index, "known_at"), outcome.known_at, _MOMENT, "a timestamp or date")
        if source.latest:
            self._type(
                frame,
                (*path, "latest"),
                _ORDER.sub("", source.latest),
                (AtomicType,),
                "something that can be put in order",
            )
        for rule, sql in source.rules.items():
            self._type(frame, (*path, "rules", rule), sql, (BooleanType,), "a condition, true or false")
        self.rows[name] = frame
        self.sound[name] = source.model_copy(update={"derive": derive})

    def _spine(self) -> DataFrame:
        features, name = self.pipeline.features, self.pipeline.features.spine_source
        observed = observable(self.rows[name], self.sound[name])
        if features.as_of:
            self._type(observed, ("features", "as_of"), features.as_of, _MOMENT, "a timestamp or date")
        self._label()
        observed = observed.withColumn("as_of", F.lit(None).cast("timestamp"))
        columns = {}
        for column, sql in features.columns.items():
            kind = self._type(observed, ("features", "columns", column), sql)
            columns[column] = F.lit(None) if isinstance(kind, NullType) else F.expr(sql)
        return observed.withColumns(columns)

    def _label(self) -> None:
        label, path = self.pipeline.features.label, ("features", "label", "value")
        kinds: tuple[type[DataType], ...]
        if self.pipeline.task == "multiclass":
            kinds, expected = (StringType,), "text, one of the classes (CAST a number AS STRING)"
        else:
            kinds, expected = _NUMBER, "a number" if self.pipeline.task == "regression" else "0 or 1, or a condition"
        rows = self.rows[label.of or self.pipeline.features.spine_source]
        self.label_type = self._type(rows, path, label.value, kinds, expected, aggregate=label.of is not None)

    def _match(self, frame: DataFrame, path: Path, name: str, by: dict[str, str]) -> None:
        """Both sides of `by` must compare without a cast: Spark would turn text into numbers, and fail on the first that is none."""
        other = self.rows[name]
        for left, right in by.items():
            ours, theirs = frame.schema[left].dataType, other.schema[right].dataType
            alike = (
                ours == theirs
                or NullType() in (ours, theirs)
                or (isinstance(ours, NumericType) and isinstance(theirs, NumericType))
            )
            if not alike:
                self.found.append(
                    (
                        (*path, "by", left),
                        f"{left} is {ours.simpleString()} and {right} of {name} is {theirs.simpleString()}, expected one type."
                        " Declare both alike, or derive a column with CAST.",
                    )
                )

    def _joins(self, frame: DataFrame) -> DataFrame:
        for index, join in enumerate(self.pipeline.features.joins):
            self._match(frame, ("features", "joins", index), join.source, join.by)
            types = self.rows[join.source].schema
            frame = frame.withColumns(
                {name: F.lit(None).cast(types[column].dataType) for name, column in join.take.items()}
            )
        return frame

    def _windows(self, frame: DataFrame) -> DataFrame:
        features, label = self.pipeline.features, self.pipeline.features.label
        made: dict[str, DataType] = {}
        events = dict(self.rows)
        spine = events[features.spine_source]
        if label.of is None and label.name not in spine.columns:
            events[features.spine_source] = spine.withColumn(label.name, F.lit(None).cast(self.label_type))
        for index, window in enumerate(features.windows):
            path: Path = ("features", "windows", index)
            self._match(frame, path, window.of, window.by)
            for name, sql in window.take.items():
                kind = self._window_type(events[window.of], (*path, "take", name), sql)
                made |= dict.fromkeys((window.column(name, width) for width in window.over), kind)
        return frame.withColumns({name: F.lit(None).cast(kind) for name, kind in made.items()})

    def _window_type(self, events: DataFrame, path: Path, sql: str) -> DataType:
        """The type of one aggregate; its argument is analysed as an expression of its own, `last` being no function elsewhere."""
        try:
            call = aggregates.parse(self.spark, sql)
        except ConfigError as error:
            self.found.append((path, str(error)))
            return NullType()
        kind: DataType = self._type(events, path, call.argument) if call.argument is not None else NullType()
        if call.argument is None or isinstance(kind, NullType):
            return kind
        return events.agg(F.expr(sql).alias("value")).schema["value"].dataType

    def _children(self, frame: DataFrame) -> DataFrame:
        for index, children in enumerate(self.pipeline.features.children):
            path: Path = ("features", "children", index)
            self._match(frame, path, children.of, children.by)
            rows = observable(self.rows[children.of], self.sound[children.of])
            for name, sql in children.take.items():
                kind = self._type(rows, (*path, "take", name), sql, aggregate=True)
                frame = frame.withColumn(name, F.lit(None).cast(kind))
        return frame

    def _chosen(self, frame: DataFrame) -> None:
        features = self.pipeline.features
        if features.function is not None:
            self._function(features.function)
            return
        for block, names, kinds, expected in (
            ("numeric", features.numeric, (*_NUMBER, NullType), "a number"),
            ("categorical", features.categorical, (AtomicType, NullType), "text, a number, a condition or a date"),
        ):
            for index, name in enumerate(names):
                kind = frame.schema[name].dataType
                if not isinstance(kind, kinds):
                    self.found.append(
                        (
                            ("features", block, index),
                            f"expected {expected}, found {name} of type {kind.simpleString()}.",
                        )
                    )

    def _function(self, path: str) -> None:
        module, _, name = path.rpartition(".")
        try:
            found = callable(getattr(importlib.import_module(module), name))
        except (ImportError, AttributeError, ValueError) as error:
            self.found.append(
                (
                    ("features", "function"),
                    f"{path} cannot be imported: {error}. Expected a function DataFrame -> DataFrame.",
                )
            )
            return
        if not found:
            self.found.append((("features", "function"), f"{path} is no function, expected DataFrame -> DataFrame."))
