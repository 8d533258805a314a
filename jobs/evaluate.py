"""The job `evaluate`: the model that `train` made, and the champion beside it, measured on the same test rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from pyspark.ml import PipelineModel
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.schema import Pipeline
from jobs.kept_rows import kept
from jobs.lake import Commit
from jobs.promote import training
from jobs.runs import Attempt, Outcome, Run, Stage, stage
from models import curves, explain, metrics
from models.curves import Point
from models.metrics import Metric
from transforms import contracts, features
from transforms.errors import ConfigError, ContractError, ModelError
from transforms.features import Tables

if TYPE_CHECKING:
    from models.registry import Registry

JOB = "evaluate"
_TAKEN = ("label", "prediction", "probability", "score")


def run(run: Run) -> Outcome:
    """Write the metrics and curves of the model that the last `train` of this run date made, once per identity.

    Raises:
        ContractError: the pipeline file has changed since `train`.
        ModelError: the test part cannot be measured on, or the model gives no finite predictions.
    """
    pipeline = run.pipeline
    trained = run.ledger.require("train", run.run_date)
    tables = features.tables(run.spark, pipeline)
    names = [table.table for table in (tables.features, tables.labels, tables.membership)]
    missing = [name for name in names if name not in trained.inputs]
    if missing:
        raise ContractError(
            f"evaluate: expected a model of {', '.join(missing)}, found one of {', '.join(sorted(trained.inputs))}:"
            " the pipeline file has changed since. Run `millrace train` first."
        )
    taken = [name for name in pipeline.evaluate.slices if name in _TAKEN]
    if taken:
        raise ConfigError(
            f"evaluate.slices: {', '.join(taken)} is a name of the predictions. Give the feature another name."
        )
    inputs = {name: trained.inputs[name] for name in names}
    judged = {name: trained.details[name] for name in ("model_version", "threshold")}
    specs = [pipeline.evaluate, pipeline.task, pipeline.classes, judged]
    return stage(
        run,
        JOB,
        specs=specs,
        inputs=inputs,
        body=lambda attempt: _evaluate(run, tables, inputs, trained, attempt),
    )


@dataclass(frozen=True)
class Standing:
    """The champion that the challenger has to beat. `metrics` are None where it cannot predict these rows, for a `reason`.

    `saw_test_rows`: whether it was trained on some of them; None where that cannot be told any more.
    """

    version: int
    metrics: list[Metric] | None
    saw_test_rows: bool | None
    reason: str


def _evaluate(run: Run, tables: Tables, inputs: dict[str, int], trained: Stage, attempt: Attempt) -> Outcome:
    # Imported here: MLflow takes seconds that a run with nothing to do need not wait.
    from models.registry import Registry

    registry = Registry(run.environment.tracking_uri, f"{run.environment.lake}/models")
    version, threshold = int(trained.details["model_version"]), trained.details["threshold"]
    with kept(_test_rows(run, tables, inputs)) as rows:
        _refuse_one_class(run.pipeline, rows)
        model = registry.load(run.pipeline.pipeline, version)
        run.progress.message(f"evaluate: measuring version {version} on the test rows")
        with _predicted(run.pipeline, model, rows, tables.features.key) as predictions:
            found = _metrics(run.pipeline, predictions, threshold, tables.features.key)
            points = _curves(run.pipeline, predictions, threshold, tables.features.key)
        weights = explain.importances(model, rows)
        points += curves.importance(weights.shares)
        standing = _standing(run, tables, inputs, registry, version, rows)
    measured = {version: found} | ({standing.version: standing.metrics} if standing and standing.metrics else {})
    commits = _write(run, attempt, version, measured, points)
    return Outcome(
        JOB,
        rows_in=found[0].rows,
        rows_out=sum(commit.rows or 0 for commit in commits),
        inputs=inputs,
        outputs={commit.table: commit.version for commit in commits},
        details={
            "model_version": version,
            "evaluation": evaluation(attempt),
            "threshold": threshold,
            "test_rows": found[0].rows,
            "metrics": _whole(found),
            "importances_missing": weights.reason,
            "champion_version": standing.version if standing else None,
            "champion_metrics": _whole(standing.metrics) if standing and standing.metrics else None,
            "champion_trained_on_test_rows": standing.saw_test_rows if standing else None,
            "champion_not_measured": standing.reason if standing else "",
        },
    )


def _test_rows(run: Run, tables: Tables, inputs: Mapping[str, int]) -> DataFrame:
    """Features and label of the rows of part test."""
    key = tables.features.key
    members = run.lake.read(tables.membership, inputs[tables.membership.table]).where(F.col("part") == "test")
    labels = run.lake.read(tables.labels, inputs[tables.labels.table]).select(*key, "label")
    rows = contracts.join_rows(run.lake.read(tables.features, inputs[tables.features.table]), labels, key)
    return contracts.join_rows(rows, members.select(*key), key)


def _refuse_one_class(pipeline: Pipeline, rows: DataFrame) -> None:
    """Before a model is loaded: metrics of rows that are all alike say nothing of it.

    Raises:
        ModelError: there is no test row, or all have the same class.
    """
    found = rows.agg(
        F.count("*").alias("rows"), F.count_distinct("label").alias("labels"), F.min("label").alias("one")
    ).first()
    assert found is not None
    if not found["rows"]:
        raise ModelError(
            "evaluate: expected labelled rows in the test part, found none. Move its start back or make its share larger (`split.test`)."
        )
    if found["labels"] == 1 and pipeline.task != "regression":
        one = pipeline.classes[int(found["one"])] if pipeline.task == "multiclass" else f"{found['one']:g}"
        raise ModelError(
            f"evaluate: expected more than one class in the test part, found {found['rows']} rows that are all of class {one}."
            " Move its start back or make its share larger (`split.test`)."
        )


@contextmanager
def _predicted(pipeline: Pipeline, model: PipelineModel, rows: DataFrame, key: Sequence[str]) -> Iterator[DataFrame]:
    """Predictions in the form of `models.metrics`, computed once; released when the block ends.

    Raises:
        ModelError: the model gives no probabilities.
    """
    scored = model.transform(rows)
    columns = [F.col("label"), F.col("prediction").cast("double").alias("prediction")]
    if pipeline.task != "regression":
        if "probability" not in scored.columns:
            raise ModelError(
                f"evaluate: expected probabilities of a {pipeline.task} model, and {type(model.stages[-1]).__name__} gives none."
                " Train a candidate that does, such as logistic_regression."
            )
        probability = vector_to_array(F.col("probability"))
        columns += [probability.alias("probability"), F.get(probability, F.lit(1)).alias("score")]
    names = dict.fromkeys([*key, *pipeline.evaluate.slices])
    with kept(scored.select(*names, *columns)) as predictions:
        yield predictions


def _metrics(pipeline: Pipeline, predictions: DataFrame, threshold: float | None, key: Sequence[str]) -> list[Metric]:
    slices, bootstrap = pipeline.evaluate.slices, pipeline.evaluate.bootstrap
    if pipeline.task == "binary":
        assert threshold is not None
        return metrics.binary(predictions, threshold=threshold, key=key, slices=slices, bootstrap=bootstrap)
    if pipeline.task == "multiclass":
        return metrics.multiclass(predictions, classes=pipeline.classes, key=key, slices=slices, bootstrap=bootstrap)
    return metrics.regression(predictions, key=key, slices=slices, bootstrap=bootstrap)


def _curves(pipeline: Pipeline, predictions: DataFrame, threshold: float | None, key: Sequence[str]) -> list[Point]:
    if pipeline.task == "binary":
        assert threshold is not None
        return curves.binary(predictions, threshold=threshold, key=key)
    if pipeline.task == "multiclass":
        return curves.multiclass(predictions, classes=pipeline.classes, key=key)
    return curves.regression(predictions, key=key)


def _standing(
    run: Run, tables: Tables, inputs: Mapping[str, int], registry: Registry, challenger: int, rows: DataFrame
) -> Standing | None:
    """The champion, measured on the same rows; None when there is none or the challenger itself holds the alias."""
    champion = registry.champion(run.pipeline.pipeline)
    if champion is None or champion.version == challenger:
        return None
    trained = training(run.ledger, champion.version)
    if not {tables.features.table, tables.labels.table} <= trained.inputs.keys():
        reason = f"Version {champion.version} was made for other features or another label and cannot be measured on these rows."
        return Standing(champion.version, None, None, reason)
    run.progress.message(f"evaluate: measuring the champion, version {champion.version}, on the same rows")
    model = registry.load(run.pipeline.pipeline, champion.version)
    with _predicted(run.pipeline, model, rows, tables.features.key) as predictions:
        found = _metrics(run.pipeline, predictions, trained.details["threshold"], tables.features.key)
    return Standing(champion.version, found, _saw(run, tables, inputs, trained), "")


def _saw(run: Run, tables: Tables, inputs: Mapping[str, int], trained: Stage) -> bool | None:
    """Whether a model was trained on rows that are test rows now; None where its membership table cannot be read any more."""
    name = next(table for table in trained.inputs if table.startswith(f"ops/{run.pipeline.pipeline}_membership_"))
    try:
        before = run.lake.read(replace(tables.membership, table=name), trained.inputs[name])
    except ContractError:
        return None
    now = run.lake.read(tables.membership, inputs[tables.membership.table])
    key = tables.membership.key
    seen = before.where(F.col("part") == "train").select(*key)
    return not contracts.join_rows(now.where(F.col("part") == "test").select(*key), seen, key).isEmpty()


def _write(
    run: Run, attempt: Attempt, version: int, found: Mapping[int, list[Metric]], points: list[Point]
) -> list[Commit]:
    """Metrics by model version and the curves of `version`, each in one commit."""
    name = run.pipeline.pipeline
    rows = [(of, evaluation(attempt), *astuple(metric)) for of, of_model in found.items() for metric in of_model]
    drawn = [(version, evaluation(attempt), *astuple(point)) for point in points]
    commits = []
    for table, values in ((contracts.metrics(name), rows), (contracts.curves(name), drawn)):
        frame = run.spark.createDataFrame(values, table.schema).coalesce(1)
        commits.append(run.lake.append(frame, table, attempt.transaction(table)))
    return commits


def evaluation(attempt: Attempt) -> str:
    """What tells the rows of this attempt apart in both tables."""
    return f"{attempt.fingerprint}-{attempt.number}"


def _whole(found: list[Metric]) -> dict[str, float | None]:
    """Metrics on all rows by name, those of one class as `name of class`."""
    return {f"{m.metric} of {m.of_class}" if m.of_class else m.metric: m.value for m in found if not m.slice}
