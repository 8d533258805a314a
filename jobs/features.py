"""The job `features`: silver tables to features, labels, and the membership of each labelled row in parts and folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.schema import Pipeline
from jobs.kept_rows import kept
from jobs.lake import Commit
from jobs.runs import Attempt, Outcome, Run, Stage, stage
from transforms import affected, contracts, features, labels, spine, split
from transforms.days import Days
from transforms.errors import ContractError
from transforms.expressions import derived_types
from transforms.features import Tables

JOB = "features"


def run(run: Run) -> Outcome:
    """Build the three tables from the silver versions that ingest recorded, once per identity."""
    pipeline = run.pipeline
    tables = features.tables(run.spark, pipeline)
    inputs = _inputs(run)
    # Table names carry the versions of the specs: equal names and equal inputs mean equal tables.
    specs = [tables.features.table, tables.labels.table, tables.membership.table]
    return stage(run, JOB, specs=specs, inputs=inputs, body=lambda attempt: _build(run, tables, inputs, attempt))


def _inputs(run: Run) -> dict[str, int]:
    """The version of each silver table that ingest recorded."""
    found = {}
    for name in sources_used(run.pipeline):
        table = silver(run, name).table
        found[table] = ingested(run, name).outputs[table]
    return found


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


def preview(run: Run) -> str:
    """What a run would compute of the feature table, in words, from the silver tables as they are now."""
    tables = features.tables(run.spark, run.pipeline)
    try:
        only = to_compute(run, tables, _inputs(run))
    except ContractError:
        only = None  # sources are still to be ingested
    days = "all days" if only is None else f"{only.count} day(s)"
    return f"{days} of {tables.features.table}{f': {only}' if only is not None and only.count else ''}"


def to_compute(run: Run, tables: Tables, inputs: Mapping[str, int]) -> Days | None:
    """Days of the feature table that differ from what the last run left; None for all, as in the first run and after `--force`."""
    earlier = [done for done in run.ledger.stages() if done.job == JOB and tables.features.table in done.outputs]
    if run.force or not earlier:
        return None
    last = earlier[-1]
    if run.lake.version(tables.features) != last.outputs[tables.features.table] or last.inputs.keys() != inputs.keys():
        return None
    changed = {}
    for name in sources_used(run.pipeline):
        contract = silver(run, name)
        before, after = last.inputs[contract.table], inputs[contract.table]
        if before != after:
            changed[name] = run.lake.changed(contract, before, after)
    return affected.days(changed, run.pipeline)


def _build(run: Run, tables: Tables, inputs: dict[str, int], attempt: Attempt) -> Outcome:
    pipeline = run.pipeline
    silvers = {name: silver(run, name) for name in sources_used(pipeline)}
    sources = {name: run.lake.read(table, inputs[table.table]) for name, table in silvers.items()}
    rows = spine.rows(sources, pipeline, run_date=run.run_date)
    count = spine.check(rows, pipeline)
    only = to_compute(run, tables, inputs)
    run.progress.message(f"features: computing {'all days' if only is None else f'{only.count} day(s): {only}'}")
    of_features, of_labels = _write_rows(run, tables, attempt, rows, sources, only)
    made = run.lake.read(tables.features, of_features.version)
    found = made.count()
    if found != count:
        raise ContractError(
            f"{tables.features.table}: expected one row for each of {count} rows of the spine, found {found}."
            " This is a defect of millrace; the table's version is not used."
        )
    labelled = run.lake.read(tables.labels, of_labels.version)
    of_members, parts = _write_membership(run, tables, attempt, _with_groups(labelled, made, rows, pipeline))
    lookups = [join.source for join in pipeline.features.joins if pipeline.sources[join.source].static]
    return Outcome(
        JOB,
        rows_in=count,
        rows_out=found,
        inputs=inputs,
        outputs={commit.table: commit.version for commit in (of_features, of_labels, of_members)},
        details={
            "rows": count,
            "columns": [*pipeline.features.numeric, *pipeline.features.categorical],
            "label": _label_figures(labelled, pipeline),
            "static_lookups": lookups,
            "days_computed": of_features.metadata["days"],
            **parts,
        },
    )


def _write_rows(
    run: Run,
    tables: Tables,
    attempt: Attempt,
    rows: DataFrame,
    sources: Mapping[str, DataFrame],
    only: Days | None,
) -> tuple[Commit, Commit]:
    """Features and labels; labels are judged before either is written."""
    with kept(labels.values(rows, sources, run.pipeline, run_date=run.run_date)) as values:
        labels.check(values, run.pipeline)
        made = features.frame(sources, run.pipeline, run_date=run.run_date, only=only)
        found = labels.encoded(values, run.pipeline)
        where = None if only is None else only.condition(spine.AS_OF)
        said = {"days": "all" if only is None else str(only)}
        return (
            run.lake.replace(made, tables.features, attempt.transaction(tables.features), said, where=where),
            run.lake.replace(found, tables.labels, attempt.transaction(tables.labels)),
        )


def _write_membership(run: Run, tables: Tables, attempt: Attempt, labelled: DataFrame) -> tuple[Commit, dict[str, Any]]:
    """Parts and folds, and what is told of them; both are judged before they are written."""
    spec, key = run.pipeline.split, spine.row_key(run.pipeline)
    with kept(labelled) as labelled:
        cut = split.boundaries(labelled, spec, key=key, timezone=run.pipeline.timezone, run_date=run.run_date)
        members = split.membership(labelled, spec, cut, key=key)
        parts = split.summary(members, spec, cut)
        return run.lake.replace(members, tables.membership, attempt.transaction(tables.membership), parts), parts


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
