"""The job `train`: search all candidates by cross-validation, refit the winner on the whole training part, log it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from importlib.metadata import version

from pyspark.ml import Model, PipelineModel
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import candidates, device_times
from jobs.candidates import Winner
from jobs.device_times import Models
from jobs.kept_rows import kept
from jobs.runs import Attempt, Outcome, Run, code_fingerprint, fingerprint, stage
from jobs.trial_log import TrialLog
from models import automatic, gpus, grid_search, metrics, preprocessing, search, trainable
from models.folds import canonical
from models.preprocessing import Design
from models.registry import ModelVersion, Registry
from models.search import Plan
from transforms import contracts, features
from transforms.contracts import Contract
from transforms.errors import ContractError
from transforms.features import Tables

JOB = "train"
# One training row in so many tells boosted trees when to stop, where they have `early_stopping_rounds`.
ONE_IN = 10


def run(run: Run) -> Outcome:
    """Train on the exact versions that the features stage recorded, once per identity."""
    pipeline = run.pipeline
    tables = features.tables(run.spark, pipeline)
    inputs = _inputs(run, tables)
    # With more trials or minutes a search goes on where it ended.
    extent = pipeline.train.search.trials, pipeline.train.search.minutes
    specs = [
        *_search_specs(run),
        extent,
        pipeline.train.stack,
        pipeline.evaluate.threshold if pipeline.task == "binary" else None,
    ]
    return stage(
        run,
        JOB,
        specs=specs,
        inputs=inputs,
        body=lambda attempt: _train(run, tables, inputs, attempt),
        holds_rows=True,
    )


def _search_specs(run: Run) -> list[object]:
    """What decides the trials. A stack and the threshold come after them: with others the same trials stand."""
    spec = run.pipeline
    decisive = spec.train.model_dump(mode="json", exclude={"every", "search", "stack"})
    if spec.train.draws:
        # Another version may draw other points.
        how = spec.train.search.model_dump(mode="json", include={"method", "at_once"})
        decisive |= {"search": how, "sampler": f"optuna {version('optuna')}"}
    if run.environment.gpu != "never":
        # Boosted trees that a GPU makes are others.
        decisive |= {"gpu": run.environment.gpu}
    return [decisive, spec.task, spec.classes, spec.features.numeric, spec.features.categorical, spec.split.folds]


def _devices(run: Run, plans: list[Plan]) -> list[str]:
    """Where boosted trees are grown, if it may be a GPU: theirs are others, and a search that goes on elsewhere begins anew."""
    if run.environment.gpu == "never" or not any(plan.design is Design.BOOSTED for plan in plans):
        return []
    return ["trees on GPUs" if gpus.choose(run.spark, "trees").gpu else "trees on processors"]


def _inputs(run: Run, tables: Tables) -> dict[str, int]:
    """Exact version of each table, as the last run of features for this date wrote it."""
    written = run.ledger.require("features", run.run_date).outputs
    names = [table.table for table in (tables.features, tables.labels, tables.membership)]
    missing = [name for name in names if name not in written]
    if missing:
        raise ContractError(
            f"train: expected {', '.join(missing)}, which the last `features` for run date {run.run_date} did not write:"
            " the pipeline file has changed since. Run `millrace features` first."
        )
    return {name: written[name] for name in names}


def _train(run: Run, tables: Tables, inputs: dict[str, int], attempt: Attempt) -> Outcome:
    name = run.pipeline.pipeline
    held_out = contracts.out_of_fold(name, features.membership_version(run.pipeline), tables.key)
    with ExitStack() as held:
        rows = held.enter_context(kept(_training_rows(run, tables, inputs)))
        plans, profile = _plans(run, rows)
        models = Models(run.spark, _work(run, plans))
        held.enter_context(gpus.measured(run.spark, device_times.of_models(run.ledger.stages(), JOB, models.work)))
        specs = [*_search_specs(run), *_devices(run, plans), [plan.spec for plan in plans]]
        identity = fingerprint("search", specs, inputs, attempt.number)
        log = TrialLog(run.lake, contracts.trials(name), attempt, identity)
        pipelines = {plan.candidate: plan.pipeline(profile, run.pipeline.train.impute) for plan in plans}
        for plan in plans:
            grid_search.require_gpus(run.spark, pipelines[plan.candidate], plan.grid or ({},))
        winner, results = candidates.try_all(run, rows, plans, pipelines, log, models, held)
        predictions = _out_of_fold(run, rows, winner)
        # The same search may have another winner, once it is stacked or goes on.
        write = run.lake.merge if _is_written(run, held_out, identity) else run.lake.append
        commit = write(
            held_out.conform(predictions.withColumn("search", F.lit(identity))),
            held_out,
            # With further trials an attempt that was interrupted here may have another winner.
            attempt.transaction(held_out, f"{identity}:{log.version()}"),
        )
        threshold = _threshold(run, held_out, commit.version, identity)
        chosen = fingerprint(winner.point.candidate, winner.point.parameters)
        run.progress.message(f"train: refitting {candidates.described(winner.point)} on the whole training part")
        logged = _logged(
            run, winner.fit(rows), winner, rows, inputs, identity, f"{attempt.fingerprint}-{attempt.number}-{chosen}"
        )
        count = rows.count()
    return Outcome(
        JOB,
        rows_in=count,
        rows_out=commit.rows,
        inputs=inputs,
        outputs={contracts.trials(name).table: log.version(), held_out.table: commit.version},
        details={
            "model_version": logged.version,
            "mlflow_run_id": logged.run_id,
            "candidate": winner.point.candidate,
            "parameters": winner.point.parameters,
            "metric": run.pipeline.train.metric,
            "cross_validated": winner.mean,
            "cross_validated_std": winner.std,
            "threshold": threshold,
            "search": identity,
            "trials": sum(len(result.trials) for result in results),
            "failed": sum(trial.error is not None for result in results for trial in result.trials),
            **models.details(),
        },
    )


def _work(run: Run, plans: list[Plan]) -> str:
    """The same for searches that do the same to rows."""
    spec = run.pipeline
    return fingerprint(
        spec.features.numeric,
        spec.features.categorical,
        spec.split.folds,
        [plan.spec for plan in plans],
        spec.train.search.at_once,
    )


def _training_rows(run: Run, tables: Tables, inputs: Mapping[str, int]) -> DataFrame:
    """Features, label, fold and train_from of the rows of part train, in canonical order; and whether a row is set aside."""
    membership = (
        run.lake.read(tables.membership, inputs[tables.membership.table]).where(F.col("part") == "train").drop("part")
    )
    key = tables.membership.key
    labels = run.lake.read(tables.labels, inputs[tables.labels.table]).select(*key, preprocessing.LABEL)
    rows = contracts.join_rows(run.lake.read(tables.features, inputs[tables.features.table]), labels, key)
    # By the key: a row is never aside in one run and trained on in the next.
    place = F.pmod(F.xxhash64(F.lit(run.pipeline.train.seed), *key), F.lit(ONE_IN))
    rows = contracts.join_rows(rows, membership, key).withColumn(preprocessing.ASIDE, place == 0)
    return canonical(rows, key, membership.count())


def _plans(run: Run, rows: DataFrame) -> tuple[list[Plan], preprocessing.Profile]:
    """The candidates, and what their feature stages need to know of rows that something can be learnt from."""
    spec, task = run.pipeline.train, run.pipeline.task
    plans = search.plans(spec, task)
    if plans:
        return plans, _profile(run, rows, plans)
    profile = _profile(run, rows, plans)
    count, deviation = rows.agg(F.count(F.lit(1)), F.stddev(preprocessing.LABEL)).collect()[0]
    chosen = automatic.candidates(task, profile, count, deviation if task == "regression" else 1.0)
    run.progress.message(f"train: the data's size chose {' and '.join(chosen)}")
    return search.plans(spec.model_copy(update={"candidates": chosen}), task), profile


def _profile(run: Run, rows: DataFrame, plans: list[Plan]) -> preprocessing.Profile:
    """Refuse rows that nothing can be learnt from, then describe them; without plans, which the data are to choose, as for a linear one."""
    spec = run.pipeline
    numeric, categorical = spec.features.numeric, spec.features.categorical
    event = spec.features.label.name
    classes = {"binary": (f"{event} = 0", f"{event} = 1"), "multiclass": spec.classes, "regression": ()}[spec.task]
    trainable.check(
        rows,
        candidates.folds_of(run),
        classes=classes,
        numeric=numeric,
        categorical=categorical,
        imputes=not plans or any(plan.design.imputes for plan in plans),
        stops_early=any(plan.stops_early for plan in plans),
    )
    return preprocessing.profile(rows, numeric, categorical)


def _out_of_fold(run: Run, rows: DataFrame, winner: Winner) -> DataFrame:
    """The winner's predictions for the rows that each fold held out."""
    folds = candidates.folds_of(run)
    frames = [winner.of_fold(fold).transform(rows.where(folds.validates(fold))) for fold in range(folds.count)]
    # Each partition becomes a file of the table: as many as the rows have, not as many for each fold.
    return reduce(DataFrame.unionByName, [_predicted(run, frame, rows.columns) for frame in frames]).coalesce(
        rows.rdd.getNumPartitions()
    )


def _predicted(run: Run, frame: DataFrame, raw: Sequence[str]) -> DataFrame:
    classes = run.pipeline.task != "regression"
    probability = vector_to_array(F.col("probability")) if classes else F.lit(None).cast("array<double>")
    return frame.select(*raw, F.col("prediction").cast("double"), probability.alias("probability"))


def _is_written(run: Run, held_out: Contract, identity: str) -> bool:
    """Whether out-of-fold predictions of a search are there."""
    if run.lake.version(held_out) is None:
        return False
    return not run.lake.read(held_out).where(F.col("search") == identity).isEmpty()


def _threshold(run: Run, held_out: Contract, version: int, identity: str) -> float | None:
    """Where a probability becomes a decision, chosen on out-of-fold predictions; None but for binary tasks."""
    if run.pipeline.task != "binary":
        return None
    predictions = run.lake.read(held_out, version).where(F.col("search") == identity)
    scores = predictions.select("label", F.col("probability")[1].alias("score"))
    return metrics.choose_threshold(scores, run.pipeline.evaluate.threshold)


def _logged(
    run: Run, model: Model, winner: Winner, rows: DataFrame, inputs: Mapping[str, int], searched: str, identity: str
) -> ModelVersion:
    pipeline = run.pipeline
    assert isinstance(model, PipelineModel)
    registry = Registry(run.environment.tracking_uri, f"{run.environment.lake}/models")
    return registry.log(
        model,
        name=pipeline.pipeline,
        identity=identity,
        parameters={
            "candidate": winner.point.candidate,
            "estimator": winner.estimator,
            **winner.point.parameters,
        },
        metrics={f"cross_validated_{pipeline.train.metric}": winner.mean},
        tables=inputs,
        tags={
            "search": searched,
            "run_date": str(run.run_date),
            "code": code_fingerprint(),
            "configuration": fingerprint(pipeline),
        },
        sample=rows.select(*pipeline.features.numeric, *pipeline.features.categorical),
    )
