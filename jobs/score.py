"""The job `score`: the champion predicts the rows that the pipeline asks for and that it has not predicted yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.ml import PipelineModel
from pyspark.ml.feature import StringIndexerModel
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.schema import Pipeline
from jobs.promote import training
from jobs.runs import Attempt, Outcome, Run, Stage, stage
from models.preprocessing import fitted_stages
from transforms import contracts, features, instants
from transforms.contracts import Contract
from transforms.errors import ContractError, RefusedError
from transforms.features import Tables

JOB = "score"


@dataclass(frozen=True)
class Champion:
    """The model that scores. `threshold` is where a binary probability becomes the event; None for other tasks."""

    version: int
    threshold: float | None


def run(run: Run) -> Outcome:
    """Append one row of predictions for each row asked; a row that cannot be scored is there with its reason.

    Which version is champion is read from the ledger's last promotion: MLflow is opened only when there is something to score.

    Raises:
        ContractError: no champion, or one that was trained on another feature table; rows that do not add up.
        RefusedError: MLflow names another champion than the ledger.
    """
    pipeline = run.pipeline
    built = run.ledger.require("features", run.run_date)
    version = int(run.ledger.require("promote").details["champion"])
    trained = training(run.ledger, version)
    tables = features.tables(run.spark, pipeline)
    _check_same_features(tables.features, trained, version)
    inputs = {table.table: built.outputs[table.table] for table in (tables.features, tables.labels)}
    champion = Champion(version, trained.details.get("threshold"))
    return stage(
        run,
        JOB,
        specs=[pipeline.score, {"model_version": version}],
        inputs=inputs,
        body=lambda attempt: _score(run, tables, inputs, champion, attempt),
    )


def asked(run: Run, tables: Tables, inputs: dict[str, int], version: int) -> DataFrame:
    """The rows to score, as in the feature table, and their `revision`.

    Rows that this model version has predicted before are left out; with --force they are asked again, as the next revision.
    """
    spec, key = run.pipeline.score, tables.features.key
    rows = run.lake.read(tables.features, inputs[tables.features.table])
    if spec.since is not None:
        rows = rows.where(F.col("as_of") >= instants.literal(instants.start_of_day(spec.since, run.pipeline.timezone)))
    elif spec.rows == "unlabelled":
        labels = run.lake.read(tables.labels, inputs[tables.labels.table])
        unlabelled = labels.where(F.col("label").isNull()).select(*key)
        rows = contracts.join_rows(rows, unlabelled, key)
    predictions = contracts.predictions(run.pipeline.pipeline, tables.key)
    if run.lake.version(predictions) is None:
        return rows.withColumn("revision", F.lit(1))
    before = run.lake.read(predictions).where(F.col("model_version") == version)
    before = before.groupBy(*key).agg(F.max("revision").alias("last_revision"))
    condition = contracts.key_condition(key, "asked", "before")
    joined = (
        rows.alias("asked").join(before.alias("before"), condition, "left").select("asked.*", "before.last_revision")
    )
    if not run.force:
        joined = joined.where(F.col("last_revision").isNull())
    revision = (F.coalesce("last_revision", F.lit(0)) + 1).cast("int")
    return joined.withColumn("revision", revision).drop("last_revision")


def predicted(
    rows: DataFrame, model: PipelineModel, pipeline: Pipeline, table: Contract, champion: Champion
) -> DataFrame:
    """Predictions of `rows` (feature columns, key, `as_of`, `revision`) in the columns of the predictions table but `_run_date`.

    `prediction`: binary 1 or 0 by the champion's threshold, multiclass the class, regression the value as text. `score`: the
    probability of the event, that of the predicted class, or the value. All three are null in a refused row.
    """
    scored = model.transform(rows)
    number = F.col("prediction")
    if pipeline.task == "regression":
        text, score, probability = number.cast("string"), number, F.lit(None).cast("array<double>")
    else:
        probability = vector_to_array(F.col("probability"))
        if pipeline.task == "binary":
            score = F.get(probability, F.lit(1))
            threshold = 0.5 if champion.threshold is None else champion.threshold
            text = F.when(score >= threshold, F.lit("1")).otherwise(F.lit("0"))
        else:
            score = F.get(probability, number.cast("int"))
            text = F.get(F.array(*(F.lit(name) for name in pipeline.classes)), number.cast("int"))
    reason = _refusal(pipeline, number, score)
    kept = reason.isNull()
    return scored.select(
        *table.key[: table.key.index("model_version")],
        F.lit(champion.version).alias("model_version"),
        "revision",
        F.when(kept, text).alias("prediction"),
        F.when(kept, score).alias("score"),
        F.when(kept, probability).alias("probability"),
        reason.alias("refused"),
    )


def _refusal(pipeline: Pipeline, number: Column, score: Column) -> Column:
    """Why a row cannot be scored, null when it can."""
    given = [F.col(name).cast("string") for name in (*pipeline.features.numeric, *pipeline.features.categorical)]
    finite = F.coalesce((F.abs(number) < float("inf")) & (F.abs(score) < float("inf")), F.lit(False))
    return F.when(F.coalesce(*given).isNull(), F.lit("every feature is null")).when(
        ~finite, F.lit("the model gave no finite number")
    )


def unseen(rows: DataFrame, model: PipelineModel, categorical: tuple[str, ...]) -> dict[str, int]:
    """Categorical feature -> rows whose category the model's training rows did not have; only features that have such rows."""
    counts = {}
    for indexer in (fitted for fitted in fitted_stages(model) if isinstance(fitted, StringIndexerModel)):
        inputs = indexer.getInputCols() if indexer.isSet("inputCols") else [indexer.getInputCol()]
        for column, labels in zip(inputs, indexer.labelsArray, strict=True):
            name = column.partition("=")[0]  # `carrier=level` is made of the raw column `carrier`: models.preprocessing
            if name in categorical:
                # Members of a stack have learnt of the same rows.
                counts[name] = F.count_if(~F.col(name).isin(list(labels))).alias(name)
    found = rows.agg(*counts.values()).head() if counts else None
    return {name: count for name, count in found.asDict().items() if count} if found else {}


def _score(run: Run, tables: Tables, inputs: dict[str, int], champion: Champion, attempt: Attempt) -> Outcome:
    table = contracts.predictions(run.pipeline.pipeline, tables.key)
    transaction = attempt.transaction(table)
    run.lake.create(table)
    commit = run.lake.committed(table, transaction)
    if commit is None:
        rows = asked(run, tables, inputs, champion.version)
        count = rows.count()
        if count == 0:
            return _outcome(inputs, {}, champion, {"asked": 0, "unseen": {}}, {})
        model = _load(run, champion.version)
        metadata = {"asked": count, "unseen": unseen(rows, model, run.pipeline.features.categorical)}
        frame = predicted(rows, model, run.pipeline, table, champion).withColumn("_run_date", F.lit(run.run_date))
        commit = run.lake.append(frame, table, transaction, metadata)
    written = _written(run, table, commit.version)
    if sum(written.values()) != commit.metadata["asked"]:
        if run.lake.version(table) == commit.version:
            run.lake.restore(table, commit.version - 1)
        raise ContractError(
            f"{table.table}: expected one row for each of {commit.metadata['asked']} rows asked, found {sum(written.values())}; they were"
            f" taken back. A stage of model version {champion.version} drops or adds rows: set its handleInvalid to keep, train"
            " again, and score with --force."
        )
    return _outcome(inputs, {table.table: commit.version}, champion, commit.metadata, written)


def _outcome(
    inputs: dict[str, int],
    outputs: dict[str, int],
    champion: Champion,
    metadata: dict[str, Any],
    written: dict[str | None, int],
) -> Outcome:
    refused = {reason: count for reason, count in written.items() if reason is not None}
    details = {
        "model_version": champion.version,
        "asked": metadata["asked"],
        "scored": written.get(None, 0),
        "refused": sum(refused.values()),
        "reasons": refused,
        "unseen_categories": metadata["unseen"],
    }
    return Outcome(JOB, metadata["asked"], sum(written.values()), dict(inputs), outputs, details)


def _written(run: Run, table: Contract, version: int) -> dict[str | None, int]:
    """Reason (None: scored) -> rows that one commit added. The table is insert-only: the difference of two versions is the commit."""
    counts = []
    for at in (version, version - 1):
        groups = run.lake.read(table, at).groupBy("refused").count().collect()
        counts.append({row["refused"]: int(row["count"]) for row in groups})
    after, before = counts
    return {reason: after[reason] - before.get(reason, 0) for reason in after if after[reason] != before.get(reason, 0)}


def _load(run: Run, version: int) -> PipelineModel:
    # Imported here: MLflow takes seconds that a run with nothing to score need not wait.
    from models.registry import Registry

    name = run.pipeline.pipeline
    registry = Registry(run.environment.tracking_uri, f"{run.environment.lake}/models")
    standing = registry.champion(name)
    if standing is None or standing.version != version:
        raise RefusedError(
            f"score: the last promotion made version {version} champion, and the alias in MLflow names"
            f" {standing.version if standing else 'none'}: it was moved by hand. Set it back to version {version}, or run"
            " `millrace evaluate --force` and `millrace promote` to decide again."
        )
    return registry.load(name, version)


def _check_same_features(table: Contract, trained: Stage, version: int) -> None:
    if table.table in trained.inputs:
        return
    prefix = table.table.rpartition("_")[0] + "_"
    known = ", ".join(name for name in trained.inputs if name.startswith(prefix))
    raise ContractError(
        f"score: model version {version}, the champion, was trained on {known}; the features of the pipeline file are {table.table}"
        " now. A model cannot score features that were defined otherwise. Train, evaluate and promote a model of the new features, or"
        " restore the old definition."
    )
