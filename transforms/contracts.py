"""Table contracts: columns with types and meaning, the key that makes a row unique, and where the table lies in the lake.

Columns that begin with `_` say how a row came here; checksums that compare two lakes leave them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructField, StructType

from conf.schema import Source
from transforms.errors import ContractError

EVENT_DATE = "event_date"
ROW_ID = "row_id"


@dataclass(frozen=True)
class Field:
    """One column: `type` is Spark DDL, such as `array<string>`."""

    name: str
    type: str
    meaning: str
    required: bool = False


@dataclass(frozen=True)
class Contract:
    """What a table promises. `table` is its folder under the lake's root; at most one row per `key` (empty: no key).

    `statistics` are the columns whose smallest and largest value Delta keeps for each file, so that readers skip files (empty:
    the first 32). Each costs a comparison a row written.
    """

    table: str
    fields: tuple[Field, ...]
    key: tuple[str, ...] = ()
    cluster_by: tuple[str, ...] = ()
    partition_by: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        return [field.name for field in self.fields]

    @property
    def schema(self) -> StructType:
        return StructType(
            [StructField(f.name, DataType.fromDDL(f.type), not f.required, {"comment": f.meaning}) for f in self.fields]
        )

    def conform(self, frame: DataFrame) -> DataFrame:
        """Select the contract's columns in order.

        Raises:
            ContractError: as `check`.
        """
        self.check(frame.schema)
        return frame.select(*self.columns)

    def check(self, schema: StructType) -> None:
        """Compare a schema with the contract; other columns than the contract's may be there.

        Raises:
            ContractError: a column is missing or has another type; all differences are listed.
        """
        found = {field.name: field.dataType.simpleString() for field in schema}
        problems = []
        for field in self.schema:
            expected = field.dataType.simpleString()
            if field.name not in found:
                problems.append(f"missing column '{field.name}' ({expected})")
            elif found[field.name] != expected:
                problems.append(f"'{field.name}' is {found[field.name]}, expected {expected}")
        if problems:
            raise ContractError(
                f"{self.table}: {len(problems)} difference(s) from its contract: {'; '.join(problems)}."
            )


def key_condition(key: Iterable[str], left: str, right: str) -> Column:
    """Equality of all key columns of two aliased frames; nulls equal nulls."""
    condition = F.lit(True)
    for name in key:
        condition = condition & F.col(f"{left}.{name}").eqNullSafe(F.col(f"{right}.{name}"))
    return condition


def join_rows(left: DataFrame, right: DataFrame, key: Iterable[str]) -> DataFrame:
    """Inner join of two tables of the same rows; nulls in the key (an `as_of` without time) equal nulls. Key columns appear once."""
    key = tuple(key)
    condition = key_condition(key, "left", "right")
    added = [F.col(f"right.{name}") for name in right.columns if name not in key]
    return left.alias("left").join(right.alias("right"), condition, "inner").select("left.*", *added)


def silver_key(source: Source) -> tuple[str, ...]:
    """The declared key, else the content hash and ordinal that stand in for one."""
    return source.key or (ROW_ID,)


def silver(pipeline: str, name: str, source: Source, derived_types: Mapping[str, str]) -> Contract:
    """One row per key of a source: its columns, the derived ones (`derived_types`: name -> DDL type) and where each row came from."""
    key = silver_key(source)
    fields = [Field(c, spec.type, "read from the file", spec.required) for c, spec in source.columns.items()]
    fields += [Field(c, kind, source.derive[c]) for c, kind in derived_types.items()]
    if not source.key:
        fields.append(
            Field(ROW_ID, "string", "hash of the row's content and its ordinal among equal rows of its file", True)
        )
    if source.at:
        fields.append(Field(EVENT_DATE, "date", f"date of {source.at} in the pipeline's time zone"))
    fields += [
        Field("_file", "string", "file that delivered the row, relative to the raw root", True),
        Field("_delivery", "string", "manifest that brought it", True),
    ]
    partition = (source.partition_by,) if source.partition_by else ()
    cluster = (EVENT_DATE,) if source.at and not partition else ()
    statistics = (EVENT_DATE, "_delivery") if source.at else ("_delivery",)
    return Contract(f"silver/{pipeline}_{name}", tuple(fields), key, cluster, partition, statistics)


def quarantine(pipeline: str, name: str) -> Contract:
    """Every row that is not in silver, with all reasons; `kind` is bad, duplicate, unchanged or superseded."""
    return Contract(
        f"quarantine/{pipeline}_{name}",
        (
            Field(
                "kind", "string", "bad, or why the row counts as a duplicate: duplicate, unchanged, superseded", True
            ),
            Field("reasons", "array<string>", "every reason, one a rule or column", True),
            Field("raw", "string", "the row as read: JSON of header to text, or the line itself when it is malformed"),
            Field("rules", "string", "fingerprint of the columns, derivations and rules that judged it", True),
            Field("_file", "string", "file that delivered the row, relative to the raw root", True),
            Field("_delivery", "string", "manifest that brought it", True),
            Field("_attempt", "int", "attempt at that manifest; rows of refused attempts do not count", True),
        ),
    )


def files(pipeline: str) -> Contract:
    """The ledger of raw files: one row per file, manifest and attempt, and status reached."""
    return Contract(
        f"ops/{pipeline}_files",
        (
            Field("source", "string", "source of the pipeline file", True),
            Field("manifest", "string", "hash of the manifest that lists the file", True),
            Field("attempt", "int", "1 for the first try; one more after a refusal", True),
            Field("path", "string", "relative to the raw root", True),
            Field("etag", "string", "content identity: etag of the store, or a hash of the bytes", True),
            Field("size_bytes", "bigint", "size when listed", True),
            Field("status", "string", "planned, taken, refused, or replaced: all files were read again later", True),
            Field("rows_read", "bigint", "rows counted at the parser"),
            Field("rows_good", "bigint", "inserted or updated in silver"),
            Field("rows_quarantined", "bigint", "rows of kind bad"),
            Field("rows_duplicate", "bigint", "rows of kind duplicate, unchanged or superseded"),
            Field("silver_version", "bigint", "version of the silver table that holds them"),
            Field("run_date", "date", "run date of the attempt"),
            Field("recorded_at", "timestamp", "when this row was written", True),
        ),
        ("source", "manifest", "attempt", "path", "status"),
    )


def stages(pipeline: str) -> Contract:
    """The ledger of stages: a stage of a run is done when its row is here."""
    return Contract(
        f"ops/{pipeline}_stages",
        (
            Field("job", "string", "ingest, features, train, evaluate, promote or score", True),
            Field("run_date", "date", "the only clock that touches data; null for an ingest that was given none"),
            Field("fingerprint", "string", "hash of the specs that the job reads and of its input versions", True),
            Field("attempt", "int", "1, and one more for each --force", True),
            Field("inputs", "map<string,bigint>", "table -> version read", True),
            Field("outputs", "map<string,bigint>", "table -> version written", True),
            Field("rows_in", "bigint", "rows read"),
            Field("rows_out", "bigint", "rows written"),
            Field("seconds", "double", "wall-clock time", True),
            Field("details", "string", "JSON: what later jobs and the report need", True),
            Field("code", "string", "fingerprint of millrace's own code", True),
            Field("recorded_at", "timestamp", "when the stage was done", True),
        ),
        ("job", "run_date", "fingerprint", "attempt"),
    )


def features(pipeline: str, version: str, key: tuple[Field, ...], columns: Iterable[Field]) -> Contract:
    """One row per spine key (and `as_of` of a periodic spine); a changed definition is another `version` and another table."""
    fields = (*key, Field("as_of", "timestamp", "moment of decision (UTC); null without time"), *columns)
    return Contract(f"gold/{pipeline}_features_{version}", fields, (*(f.name for f in key), "as_of"))


def labels(pipeline: str, version: str, key: tuple[Field, ...]) -> Contract:
    """The label of each row of the feature table, null where it is not known at the run date."""
    fields = (
        *key,
        Field("as_of", "timestamp", "moment of decision (UTC); null without time"),
        Field("label", "double", "0 or 1, the index in `classes`, or the value; null: unlabelled"),
        Field("label_known_at", "timestamp", "when the label was known; null without time"),
    )
    return Contract(f"gold/{pipeline}_labels_{version}", fields, (*(f.name for f in key), "as_of"))


def membership(pipeline: str, version: str, key: tuple[Field, ...]) -> Contract:
    """Which part and folds a labelled row belongs to."""
    fields = (
        *key,
        Field("as_of", "timestamp", "moment of decision (UTC); null without time"),
        Field("part", "string", "train, test, or purged: its label was not known before the test part began", True),
        Field("fold", "int", "fold that validates on the row, -1 for none", True),
        Field(
            "train_from",
            "int",
            "time folds: first fold that may train on the row; null for none. Other folds: null, all others train",
        ),
    )
    return Contract(f"ops/{pipeline}_membership_{version}", fields, (*(f.name for f in key), "as_of"))


def trials(pipeline: str) -> Contract:
    """One row per candidate, grid point and fold."""
    return Contract(
        f"ops/{pipeline}_trials",
        (
            Field(
                "search", "string", "fingerprint of the search: specs, features, labels and membership versions", True
            ),
            Field("candidate", "string", "its name in the pipeline file", True),
            Field("point", "int", "index in the candidate's grid", True),
            Field("fold", "int", "fold validated on", True),
            Field("parameters", "string", "JSON of the grid point", True),
            Field("metric", "string", "name of the metric", True),
            Field("value", "double", "its value on the validation rows; null when the fit failed"),
            Field("seconds", "double", "fit and evaluation"),
            Field("solver", "string", "what fitted it", True),
            Field("error", "string", "why it failed"),
            Field("rounds", "int", "rounds of boosted trees; null for other models"),
            Field("share", "double", "part of its rounds after which better points stopped it; 1 if none did", True),
        ),
        ("search", "candidate", "point", "fold"),
    )


def metrics(pipeline: str) -> Contract:
    """Metrics of a model on the test rows, whole and by slice."""
    return Contract(
        f"ops/{pipeline}_metrics",
        (
            Field("model_version", "int", "version in the registry", True),
            Field("evaluation", "string", "fingerprint of the evaluation: specs and input versions", True),
            Field("slice", "string", "column of the slice, empty for all rows", True),
            Field("value_of_slice", "string", "value of that column, empty for all rows", True),
            Field("metric", "string", "name of the metric", True),
            Field("class", "string", "class for metrics of one class, empty otherwise", True),
            Field("value", "double", "null where it is not defined (one class only in the slice)"),
            Field("low", "double", "2.5 % quantile of the bootstrap"),
            Field("high", "double", "97.5 % quantile of the bootstrap"),
            Field("rows", "bigint", "rows measured", True),
        ),
        ("model_version", "evaluation", "slice", "value_of_slice", "metric", "class"),
    )


def curves(pipeline: str) -> Contract:
    """Points of the figures of the report: roc, pr, calibration, lift, importance, confusion, errors."""
    return Contract(
        f"ops/{pipeline}_curves",
        (
            Field("model_version", "int", "version in the registry", True),
            Field("evaluation", "string", "fingerprint of the evaluation", True),
            Field("curve", "string", "name of the figure", True),
            Field("series", "string", "line of the figure, or a raw column, or a class", True),
            Field("ordinal", "int", "order of the point", True),
            Field("x", "double", "see the curve's function in models.metrics"),
            Field("y", "double", "see the curve's function in models.metrics"),
            Field("rows", "double", "rows behind the point"),
        ),
        ("model_version", "evaluation", "curve", "series", "ordinal"),
    )


def out_of_fold(pipeline: str, version: str, key: tuple[Field, ...]) -> Contract:
    """The winner's predictions on the fold that each training row was held out of."""
    fields = (
        Field("search", "string", "fingerprint of the search", True),
        *key,
        Field("as_of", "timestamp", "moment of decision (UTC); null without time"),
        Field("fold", "int", "fold validated on", True),
        Field("label", "double", "the label", True),
        Field("prediction", "double", "predicted value, or index of the predicted class"),
        Field("probability", "array<double>", "probability of each class; null for regression"),
    )
    return Contract(f"gold/{pipeline}_out_of_fold_{version}", fields, ("search", *(f.name for f in key), "as_of"))


def releases(pipeline: str) -> Contract:
    """The history of the champion: one row per decision."""
    return Contract(
        f"ops/{pipeline}_releases",
        (
            Field("decision", "string", "fingerprint of the decision", True),
            Field("challenger", "int", "model version judged", True),
            Field("champion_before", "int", "model version that held the alias"),
            Field("champion_after", "int", "model version that holds it now"),
            Field("promoted", "boolean", "whether the alias moved", True),
            Field("reason", "string", "a sentence", True),
            Field("tables", "map<string,bigint>", "exact versions behind the challenger", True),
            Field("recorded_at", "timestamp", "when it was decided", True),
        ),
        ("decision",),
    )


def predictions(pipeline: str, key: tuple[Field, ...]) -> Contract:
    """Insert-only: one row per row scored, model version and revision."""
    fields = (
        *key,
        Field("as_of", "timestamp", "moment of decision (UTC); null without time"),
        Field("model_version", "int", "version in the registry", True),
        Field("revision", "int", "1, and one more for each --force", True),
        Field("prediction", "string", "predicted class, or the value as text for regression"),
        Field(
            "score",
            "double",
            "binary: probability of the event; multiclass: of the predicted class; regression: the value",
        ),
        Field("probability", "array<double>", "probability of each class; null for regression"),
        Field("refused", "string", "why the row could not be scored; null when it was"),
        Field("_run_date", "date", "run date of the scoring", True),
    )
    return Contract(
        f"gold/{pipeline}_predictions", fields, (*(f.name for f in key), "as_of", "model_version", "revision")
    )
