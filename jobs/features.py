"""The job `features`: silver tables to features, labels, and the membership of each labelled row in parts and folds."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.schema import Pipeline
from jobs.runs import Attempt, Outcome, Run, Stage, stage
from transforms import contracts, features, labels, spine, split
from transforms.errors import ContractError
from transforms.expressions import derived_types
from transforms.features import Tables

JOB = "features"


def run(run: Run) -> Outcome:
    """Build the three tables from the silver versions that ingest recorded, once per identity."""
    pipeline = run.pipeline
    tables = features.tables(run.spark, pipeline)
    inputs = {}
    for name in sources_used(pipeline):
        table = silver(run, name).table
        inputs[table] = ingested(run, name).outputs[table]
    # Table names carry the versions of the specs: equal names and equal inputs mean equal tables.
    specs = [tables.features.table, tables.labels.table, tables.membership.table]
    return stage(run, JOB, specs=specs, inputs=inputs, body=lambda attempt: _build(run, tables, inputs, attempt))


def sources_used(pipeline: Pipeline) -> list[str]:
    """The sources that features and label are made of, in the order of the pipeline file."""
    spec = pipeline.features
    used = {
        spec.spine_source,
        *(j.source for j in spec.joins),
        *(w.of for w in spec.windows),
        *(c.of for c in spec.children),
    }
    return [name for name in pipeline.sources if name in used | {spec.label.of}]


def silver(run: Run, name: str) -> contracts.Contract:
    """The contract of a source's silver table."""
    source = run.pipeline.sources[name]
    return contracts.silver(run.pipeline.pipeline, name, source, derived_types(run.spark, source))


def ingested(run: Run, name: str) -> Stage:
    """The newest ingest of a source that belongs to this run date: recorded for it, or for none in particular.

    Raises:
        ContractError: the source was not ingested.
    """
    job = f"ingest.{name}"
    found = [done for done in run.ledger.stages() if done.job == job and done.run_date in (None, run.run_date)]
    return found[-1] if found else run.ledger.require(job)


def _build(run: Run, tables: Tables, inputs: dict[str, int], attempt: Attempt) -> Outcome:
    pipeline, lake = run.pipeline, run.lake
    sources = {}
    for name in sources_used(pipeline):
        table = silver(run, name)
        sources[name] = lake.read(table, inputs[table.table])

    rows = spine.rows(sources, pipeline, run_date=run.run_date)
    count = spine.check(rows, pipeline)
    label_values = labels.values(rows, sources, pipeline, run_date=run.run_date).persist()
    try:
        labels.check(label_values, pipeline)
        made = features.frame(sources, pipeline, run_date=run.run_date)
        of_features = lake.replace(made, tables.features, attempt.transaction(tables.features))
        of_labels = lake.replace(
            labels.encoded(label_values, pipeline), tables.labels, attempt.transaction(tables.labels)
        )
    finally:
        label_values.unpersist()
    if of_features.rows != count:
        raise ContractError(
            f"{tables.features.table}: expected one row for each of {count} rows of the spine, found {of_features.rows}."
            " This is a defect of millrace; the table's version is not used."
        )

    made = lake.read(tables.features, of_features.version)
    labelled = lake.read(tables.labels, of_labels.version)
    members = _with_groups(labelled, made, rows, pipeline).persist()
    try:
        key = spine.row_key(pipeline)
        cut = split.boundaries(members, pipeline.split, key=key, timezone=pipeline.timezone, run_date=run.run_date)
        membership = split.membership(members, pipeline.split, cut, key=key)
        details = split.summary(membership, pipeline.split, cut)
        of_members = lake.replace(membership, tables.membership, attempt.transaction(tables.membership), details)
    finally:
        members.unpersist()

    return Outcome(
        JOB,
        rows_in=count,
        rows_out=of_features.rows,
        inputs=inputs,
        outputs={commit.table: commit.version for commit in (of_features, of_labels, of_members)},
        details={
            "rows": count,
            "columns": [*pipeline.features.numeric, *pipeline.features.categorical],
            "label": _label_figures(labelled, pipeline),
            "static_lookups": [join.source for join in pipeline.features.joins if pipeline.sources[join.source].static],
            **details,
        },
    )


def _with_groups(labelled: DataFrame, made: DataFrame, rows: DataFrame, pipeline: Pipeline) -> DataFrame:
    """The labels with the columns that parts or folds group by: those of the feature table, else those of the spine source."""
    key = tuple(dict.fromkeys([*spine.row_key(pipeline), spine.AS_OF]))
    wanted = [name for name in dict.fromkeys([*pipeline.split.test.by, *pipeline.split.folds.by]) if name not in key]
    for table in (made, rows):
        found = [name for name in wanted if name in table.columns]
        if found:
            labelled = contracts.join_rows(labelled, table.select(*key, *found), key)
        wanted = [name for name in wanted if name not in found]
    return labelled


def _label_figures(labelled: DataFrame, pipeline: Pipeline) -> dict[str, Any]:
    """Rows with a label, and how often each class (binary: the rate), or the mean and range of a number."""
    figures: dict[str, Any] = {"name": pipeline.features.label.name}
    if pipeline.task == "regression":
        found = labelled.agg(
            F.count("label").alias("labelled"),
            F.avg("label").alias("mean"),
            F.min("label").alias("min"),
            F.max("label").alias("max"),
        ).head()
        assert found is not None
        return figures | found.asDict()
    counts = {
        row["label"]: row["count"] for row in labelled.where("label IS NOT NULL").groupBy("label").count().collect()
    }
    figures["labelled"] = sum(counts.values())
    if pipeline.task == "binary":
        figures["rate"] = counts.get(1.0, 0) / figures["labelled"] if counts else None
    else:
        figures["classes"] = {name: counts.get(float(index), 0) for index, name in enumerate(pipeline.classes)}
    return figures
