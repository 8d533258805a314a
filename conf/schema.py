"""The vocabulary of a pipeline file: typed, frozen models without Spark.

Each class is one block of the YAML; a field's name is its key there. Values are checked for shape here; what needs more than one
block (does the source that a join names exist?) is checked in `conf.references`, and SQL is analysed by `jobs.check`.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from conf.candidates import Candidate, Candidates, Search
from conf.errors import ConfigError
from conf.values import (
    Address,
    Duration,
    Expression,
    Folder,
    Mapping,
    MetricsTarget,
    Name,
    Names,
    Period,
    SparkSettings,
    Spec,
    Texts,
    as_tuple,
)

COLUMN_TYPES = ("string", "int", "long", "float", "double", "boolean", "date", "timestamp")
_DECIMAL = re.compile(r"decimal\((\d{1,2}),\s*(\d{1,2})\)")


class Column(Spec):
    """A column of a raw file: `int!` is short for `{type: int, required: true}`.

    `from` is the header in the file where it differs from the column's name; without it headers are compared
    exactly, then without regard to case. A required column that is null or unreadable quarantines its row.
    """

    type: str
    required: bool = False
    header: str | None = Field(default=None, alias="from")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"type": value}
        if isinstance(value, dict) and isinstance(value.get("type"), str) and value["type"].endswith("!"):
            value = {**value, "type": value["type"][:-1], "required": True}
        return value

    @model_validator(mode="after")
    def _known_type(self) -> Column:
        if self.type not in COLUMN_TYPES and not _DECIMAL.fullmatch(self.type):
            raise ValueError(
                f"{self.type!r} is not a column type: expected one of {', '.join(COLUMN_TYPES)}, decimal(precision,scale)"
            )
        return self


class Outcome(Spec):
    """Columns known only some time after the row's `at`; `known_at` says when."""

    columns: Annotated[Names, Field(min_length=1)]
    known_at: Expression


class Source(Spec):
    """One kind of raw file and the silver table it becomes."""

    files: Annotated[str, Field(min_length=1)]
    format: Literal["csv", "json", "parquet"] | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    nulls: Texts = ()
    columns: Annotated[dict[Name, Column], Field(min_length=1)]
    derive: dict[Name, Expression] = {}
    key: Names = ()
    latest: Expression | None = None
    at: Expression | None = None
    known_at: Expression | None = None
    static: bool = False
    outcomes: Annotated[tuple[Outcome, ...], BeforeValidator(as_tuple)] = ()
    rules: dict[Name, Expression] = {}
    expect: Annotated[tuple[dict[str, dict[str, Any]], ...], BeforeValidator(as_tuple)] = ()
    expect_table: Annotated[tuple[dict[str, dict[str, Any]], ...], BeforeValidator(as_tuple)] = ()
    partition_by: Literal["event_date"] | None = None

    @property
    def file_format(self) -> str:
        """The declared format, else the one that the file pattern's ending names."""
        if self.format:
            return self.format
        for ending, name in ((".csv", "csv"), (".json", "json"), (".jsonl", "json"), (".parquet", "parquet")):
            if self.files.removesuffix(".gz").endswith(ending):
                return name
        return "csv"

    @property
    def all_columns(self) -> list[str]:
        """Those of the file, then the derived ones: what expressions over the source may use."""
        return [*self.columns, *self.derive]

    @property
    def outcome_columns(self) -> dict[str, Outcome]:
        """Column name -> the outcome entry that gates it."""
        return {column: outcome for outcome in self.outcomes for column in outcome.columns}


class PeriodicSpine(Spec):
    """One row per entity and calendar step: `as_of` = `from`, `from` + `every`, ... up to the run date.

    A row exists from the entity's own `at` (or always, for a source without `at`).
    """

    entities: Name
    every: Period
    start: date = Field(alias="from")


class Label(Spec):
    """What is predicted: an expression over the spine's own columns, or an aggregate over another table's future.

    Future form: rows s of `of` with `as_of <= known_at(s) < as_of + within`; the label is known at `as_of + within`.
    """

    name: Name
    value: Expression
    of: Name | None = None
    by: Mapping = {}
    within: Duration | None = None

    @model_validator(mode="after")
    def _whole(self) -> Label:
        if (self.of is None) != (self.within is None) or (self.of is None) != (not self.by):
            raise ValueError(
                "a label from another table's future needs all of `of`, `by` and `within`; a label of the spine's own columns none of them"
            )
        return self


class Join(Spec):
    """The last row of `source` known before `as_of` (within a tolerance), or a static lookup. `by` maps the frame's column to the source's."""

    source: Name
    by: Annotated[Mapping, Field(min_length=1)]
    take: Annotated[Mapping, Field(min_length=1)]
    within: Duration | None = None


class Window(Spec):
    """Trailing aggregates of `of` by key: `take` maps a column name to an aggregate such as `avg(delay)`."""

    of: Name
    by: Annotated[Mapping, Field(min_length=1)]
    over: Annotated[tuple[Duration, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    take: Annotated[dict[Name, Expression], Field(min_length=1)]

    def column(self, name: str, width: Duration) -> str:
        """Column name of one aggregate over one width: the width is part of it only where there are several."""
        return f"{name}_{width.suffix}" if len(self.over) > 1 else name


class Children(Spec):
    """Aggregates over the rows of a detail table that belong to the spine row: `{of: items, by: {order_id: order}, take: {n: count(*)}}`."""

    of: Name
    by: Annotated[Mapping, Field(min_length=1)]
    take: Annotated[dict[Name, Expression], Field(min_length=1)]


class Features(Spec):
    """The feature table: its rows (`spine`), their moment of decision (`as_of`), columns and label."""

    spine: Name | PeriodicSpine
    as_of: Expression | None = None
    label: Label
    columns: dict[Name, Expression] = {}
    joins: Annotated[tuple[Join, ...], BeforeValidator(as_tuple)] = ()
    windows: Annotated[tuple[Window, ...], BeforeValidator(as_tuple)] = ()
    children: Annotated[tuple[Children, ...], BeforeValidator(as_tuple)] = ()
    function: str | None = None
    numeric: Names = ()
    categorical: Names = ()

    @property
    def spine_source(self) -> str:
        return self.spine if isinstance(self.spine, str) else self.spine.entities

    @property
    def has_time(self) -> bool:
        """Whether each row has a moment of decision."""
        return self.as_of is not None or isinstance(self.spine, PeriodicSpine)


class TestPart(Spec):
    """Rows kept out of training: `{from: 2013-11-01}`, `{last: 60 days}` or `{share: 0.2, by: [customer]}`."""

    __test__ = False  # pytest: not a test class

    start: date | None = Field(default=None, alias="from")
    last: Duration | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    by: Names = ()

    @model_validator(mode="after")
    def _one_form(self) -> TestPart:
        if sum(x is not None for x in (self.start, self.last, self.share)) != 1:
            raise ValueError("expected exactly one of `from`, `last`, `share`")
        if self.by and self.share is None:
            raise ValueError("`by` belongs to `share`: rows of one group go to the same part")
        return self

    @property
    def by_time(self) -> bool:
        return self.share is None


class Folds(Spec):
    """How the training part is cut for cross-validation."""

    kind: Literal["time", "random", "grouped", "stratified"] = "random"
    count: Annotated[int, Field(ge=2, le=50)] = 3
    gap: Duration | None = None
    by: Names = ()

    @model_validator(mode="after")
    def _fits(self) -> Folds:
        if self.gap and self.kind != "time":
            raise ValueError("`gap` belongs to folds of kind time")
        if bool(self.by) != (self.kind == "grouped"):
            raise ValueError("`by` names the grouping columns of folds of kind grouped, and only of those")
        return self


class Split(Spec):
    """Parts and folds. `salt` changes which rows hash together; time boundaries do not depend on it."""

    test: TestPart
    folds: Folds = Folds()
    salt: str = ""


BINARY_METRICS = ("area_under_roc", "area_under_pr", "log_loss", "accuracy", "f1")
MULTICLASS_METRICS = ("accuracy", "f1", "weighted_precision", "weighted_recall", "log_loss")
REGRESSION_METRICS = ("rmse", "mae", "mse", "r2")
METRICS = {"binary": BINARY_METRICS, "multiclass": MULTICLASS_METRICS, "regression": REGRESSION_METRICS}
SMALLER_IS_BETTER = frozenset({"rmse", "mae", "mse", "log_loss", "brier"})


class Train(Spec):
    """The search: points of every candidate, judged by the mean of `metric` over the folds. `auto` chooses candidates by the data.

    `stack` has a linear model learn from what the best points of all candidates say: one candidate more. `every` is the least time between run
    dates that `millrace run` trains on; None: it trains whenever there is new input.
    """

    metric: str
    candidates: Candidates
    search: Search = Search()
    stack: bool = False
    every: Duration | None = None
    impute: Literal["mean", "median"] = "mean"
    seed: int = 0

    @property
    def named(self) -> dict[str, Candidate]:
        """Candidates by name; none where the data choose them."""
        return {} if self.candidates == "auto" else self.candidates

    @property
    def draws(self) -> bool:
        """Whether points are drawn from a space."""
        return self.candidates == "auto" or any(each.space for each in self.named.values())

    @model_validator(mode="after")
    def _stacks_something(self) -> Train:
        if self.stack and self.candidates != "auto":
            if len(self.named) < 2:
                raise ValueError(
                    "`stack` learns from several candidates, and there is one: give it others, or remove it"
                )
            if "stack" in self.named:
                raise ValueError("with `stack` no candidate can be named so, for trials go by names: rename it")
        return self

    @model_validator(mode="after")
    def _searches_something(self) -> Train:
        if "search" in self.model_fields_set and not self.draws:
            raise ValueError(
                "`search` says how points are drawn from spaces, and no candidate has one: give one a `space`, or remove it"
            )
        return self


class Threshold(Spec):
    """Where a probability becomes a decision: the best on out-of-fold predictions by `maximise`, or a fixed `value`."""

    maximise: Literal["f1", "youden", "accuracy"] | None = None
    value: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Threshold:
        if (self.maximise is None) == (self.value is None):
            raise ValueError("expected exactly one of `maximise`, `value`")
        return self


class Evaluate(Spec):
    """What is measured on the test rows. `bootstrap` is the number of replicates, 0 for none."""

    slices: Names = ()
    bootstrap: Annotated[int, Field(ge=0, le=10_000)] = 200
    threshold: Threshold = Threshold(maximise="f1")
    floor: dict[Name, float] = {}


class Promote(Spec):
    """A challenger becomes champion when it beats the champion on the same test rows by more than this."""

    beat_champion_by: Annotated[float, Field(ge=0)] = 0.0


class Score(Spec):
    """Which rows are scored: those with `as_of` on or after `since`, those without a label, or `all`."""

    since: date | None = None
    rows: Literal["all", "unlabelled"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Score:
        if (self.since is None) == (self.rows is None):
            raise ValueError("expected exactly one of `since`, `rows`")
        return self


class Pipeline(Spec):
    """A whole pipeline file."""

    pipeline: Name
    question: str = ""
    task: Literal["binary", "multiclass", "regression"]
    classes: Texts = ()
    timezone: str = "UTC"
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    features: Features
    split: Split
    train: Train
    evaluate: Evaluate = Evaluate()
    promote: Promote = Promote()
    score: Score = Score(rows="unlabelled")


class Environment(Spec):
    """Where a pipeline runs and with what machines; nothing here changes what is computed.

    `raw` and `lake` are URIs or paths; a relative path starts at the working directory. `metrics` is where Prometheus finds what
    runs cost: a file that ends in `.prom`, or the address of a push gateway; empty for nowhere. `price_per_core_hour`, in any
    currency, gives each stage an estimate of its cost; see `jobs.usage.Usage`. `gpu` says whether training uses the GPUs of the
    workers: never, where it pays (auto), or not at all without them (require); it alone may change what is computed, by as much as
    boosted trees differ that a GPU made, and with NVIDIA's plugin sums of doubles.
    """

    name: Name = "local"
    raw: Folder = "data/raw"
    lake: Folder = "lake"
    mlflow: Address = ""
    master: Address = "local[*]"
    driver_memory: str = "4g"
    metrics: MetricsTarget = ""
    price_per_core_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    gpu: Literal["never", "auto", "require"] = "never"
    spark: SparkSettings = {}

    @property
    def tracking_uri(self) -> str:
        """MLflow's address; by default a sqlite file beside the lake's tables."""
        return self.mlflow or f"sqlite:///{self.lake}/ops/mlflow.db"

    def require_tracking(self) -> None:
        """Make sure that models can be kept.

        Raises:
            ConfigError: MLflow has no address, and the lake is no folder of this machine where its default, a sqlite file, could lie.
        """
        if not self.mlflow and not self.lake.startswith("/"):
            raise ConfigError(
                f"Environment {self.name}: mlflow: expected the address of a server or of a database for a lake at {self.lake}, found"
                " none. The default, a sqlite file in the lake, needs a folder of this machine."
            )
