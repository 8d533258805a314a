"""The job `train`: search all candidates by cross-validation, refit the winner on the whole training part, log it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import version

from pyspark.ml import Model, Pipeline, PipelineModel
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.kept_rows import kept
from jobs.runs import Attempt, Outcome, Run, code_fingerprint, fingerprint, stage
from jobs.trial_log import TrialLog
from models import automatic, gpus, grid_search, metrics, preprocessing, rounds, search, trainable
from models.folds import Folds, canonical
from models.registry import ModelVersion, Registry
from models.search import Plan, Point
from models.trials import Trial, TuningResult, failed, failures
from transforms import contracts, features
from transforms.contracts import Contract
from transforms.errors import ContractError, ModelError
from transforms.features import Tables

JOB = "train"
# Threads that fit grid points of one fold side by side; beyond the cores they only wait.
MOST_PARALLEL = 8
# One training row in so many tells boosted trees when to stop, where they have `early_stopping_rounds`.
ONE_IN = 10


@dataclass(frozen=True)
class Winner:
    """The best grid point of all candidates so far, and what makes the models of its folds that this run fitted."""

    plan: Plan
    point: Point
    mean: float
    std: float
    models: Mapping[int, Callable[[], Model]]


def run(run: Run) -> Outcome:
    """Train on the exact versions that the features stage recorded, once per identity."""
    pipeline = run.pipeline
    tables = features.tables(run.spark, pipeline)
    inputs = _inputs(run, tables)
    # With more trials or minutes a search goes on where it ended.
    extent = pipeline.train.search.trials, pipeline.train.search.minutes
    specs = [*_search_specs(run), extent, pipeline.evaluate.threshold if pipeline.task == "binary" else None]
    return stage(
        run,
        JOB,
        specs=specs,
        inputs=inputs,
        body=lambda attempt: _train(run, tables, inputs, attempt),
        holds_rows=True,
    )


def _search_specs(run: Run) -> list[object]:
    """What decides the trials. The threshold is chosen after them: with another one the same trials stand."""
    spec = run.pipeline
    decisive = spec.train.model_dump(mode="json", exclude={"every", "search"})
    if spec.train.draws:
        # Another version may draw other points.
        how = spec.train.search.model_dump(mode="json", include={"method", "at_once"})
        decisive |= {"search": how, "sampler": f"optuna {version('optuna')}"}
    if run.environment.gpu != "never":
        # Boosted trees that a GPU makes are others.
        decisive |= {"gpu": run.environment.gpu}
    return [decisive, spec.task, spec.classes, spec.features.numeric, spec.features.categorical, spec.split.folds]


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
    with kept(_training_rows(run, tables, inputs)) as rows:
        plans, profile = _plans(run, rows)
        identity = fingerprint("search", _search_specs(run), [plan.spec for plan in plans], inputs, attempt.number)
        log = TrialLog(run.lake, contracts.trials(name), attempt, identity)
        pipelines = {plan.candidate: plan.pipeline(profile, run.pipeline.train.impute) for plan in plans}
        winner, results = _search(run, rows, plans, pipelines, log)
        predictions = _out_of_fold(run, rows, winner, pipelines[winner.plan.candidate])
        commit = run.lake.append(
            held_out.conform(predictions.withColumn("search", F.lit(identity))),
            held_out,
            attempt.transaction(held_out, identity),
        )
        threshold = _threshold(run, held_out, commit.version, identity)
        run.progress.message(f"train: refitting {_described(winner.point)} on the whole training part")
        grid_point = winner.plan.grid[winner.point.index]
        model = grid_search.fit(pipelines[winner.plan.candidate], grid_point, rows)
        logged = _logged(run, model, winner, rows, inputs, identity, f"{attempt.fingerprint}-{attempt.number}")
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
            **({"devices": devices} if (devices := gpus.taken(run.spark)) else {}),
        },
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


def _folds(run: Run) -> Folds:
    folds = run.pipeline.split.folds
    if folds.kind == "time":
        return Folds(folds.count, "fold", "earlier", "train_from")
    return Folds(folds.count, "fold")


def _plans(run: Run, rows: DataFrame) -> tuple[list[Plan], preprocessing.Profile]:
    """The candidates, and what their feature stages need to know of rows that something can be learnt from."""
    spec, task = run.pipeline.train, run.pipeline.task
    plans = search.plans(spec, task)
    if plans:
        return plans, _profile(run, rows, imputes=any(plan.design.imputes for plan in plans))
    profile = _profile(run, rows, imputes=True)
    count, deviation = rows.agg(F.count(F.lit(1)), F.stddev(preprocessing.LABEL)).collect()[0]
    chosen = automatic.candidates(task, profile, count, deviation if task == "regression" else 1.0)
    run.progress.message(f"train: the data's size chose {' and '.join(chosen)}")
    return search.plans(spec.model_copy(update={"candidates": chosen}), task), profile


def _profile(run: Run, rows: DataFrame, *, imputes: bool) -> preprocessing.Profile:
    """Refuse rows that nothing can be learnt from, then describe them."""
    spec = run.pipeline
    numeric, categorical = spec.features.numeric, spec.features.categorical
    event = spec.features.label.name
    classes = {"binary": (f"{event} = 0", f"{event} = 1"), "multiclass": spec.classes, "regression": ()}[spec.task]
    trainable.check(rows, _folds(run), classes=classes, numeric=numeric, categorical=categorical, imputes=imputes)
    return preprocessing.profile(rows, numeric, categorical)


def _search(
    run: Run, rows: DataFrame, plans: list[Plan], pipelines: Mapping[str, Pipeline], log: TrialLog
) -> tuple[Winner, list[TuningResult]]:
    """Try all candidates in file order; of equally good points the first one in the file wins.

    Raises:
        ModelError: no point of any candidate could be fitted in every fold.
    """
    spec, results = run.pipeline.train, {}
    winner: Winner | None = None
    evaluator = search.evaluator(spec.metric, run.pipeline.task)
    counts = [rounds.points_of(spec, plan) for plan in plans]
    steps = _Steps(run, sum(counts) * run.pipeline.split.folds.count)

    def on_trial(trial: Trial) -> None:
        log.add(trial)
        steps.done += 1
        steps.show()

    def tried(plan: Plan, known: list[Trial]) -> TuningResult:
        steps.done = steps.before + sum(trial.error is None for trial in known)
        wanted = grid_search.Search(
            estimator=pipelines[plan.candidate],
            grid=plan.grid,
            evaluator=evaluator,
            folds=_folds(run),
            candidate=plan.candidate,
            metric=spec.metric,
            parameters=[point.parameters for point in plan.points],
            parallelism=min(MOST_PARALLEL, run.spark.sparkContext.defaultParallelism),
            halving=plan.spec.halving,
            since=plan.since,
        )
        result = grid_search.tune(wanted, rows, known=known, on_trial=on_trial, on_pass=steps.passed, keep_models=True)
        log.flush()
        return result

    budget = rounds.Budget(spec.search.minutes)
    for plan in plans:
        steps.before = steps.done
        for grown, result in rounds.of(spec, plan, log.known(plan.candidate), tried, budget):
            # Models are kept of the winner alone.
            results[plan.candidate] = TuningResult(result.trials, result.scores, result.larger_is_better)
            winner = _better(winner, grown, result)
            steps.best = f"{winner.mean:.5f} {_described(winner.point)}" if winner else ""
        for sentence in failed(results[plan.candidate].trials):
            run.progress.message(f"train: {sentence}")
    if winner is None:
        raise ModelError(failures(tuple(trial for result in results.values() for trial in result.trials)))
    return winner, list(results.values())


@dataclass
class _Steps:
    """How far a search is, for those who watch."""

    run: Run
    total: int
    done: int = 0
    best: str = ""
    before: int = 0  # of `done`, those of the candidates before

    def show(self, doing: str = "") -> None:
        self.run.progress.advance(self.done, self.total, self.best, doing)

    def passed(self, number: int, moving: int) -> None:
        """After a pass over the rows that several fits share."""
        self.show(f"pass {number}, {moving} models still move")


def _better(winner: Winner | None, plan: Plan, result: TuningResult) -> Winner | None:
    best = result.best
    if best is None:
        return winner
    mean = float(result.mean[best])
    if winner is not None and not (mean > winner.mean if result.larger_is_better else mean < winner.mean):
        return winner
    models = {fold: model for (point, fold), model in result.models.items() if point == best}
    return Winner(plan, plan.points[best], mean, float(result.std[best]), models)


def _out_of_fold(run: Run, rows: DataFrame, winner: Winner, pipeline: Pipeline) -> DataFrame:
    """The winner's predictions for the rows that each fold held out; models of an interrupted run are fitted again."""
    folds, frames = _folds(run), []
    for fold in range(folds.count):
        if fold in winner.models:
            model = winner.models[fold]()
        else:
            model = grid_search.fit(pipeline, winner.plan.grid[winner.point.index], rows.where(folds.trains(fold)))
        frames.append(model.transform(rows.where(folds.validates(fold))))
    # Each partition becomes a file of the table: as many as the rows have, not as many for each fold.
    return reduce(DataFrame.unionByName, [_predicted(run, frame) for frame in frames]).coalesce(
        rows.rdd.getNumPartitions()
    )


def _predicted(run: Run, frame: DataFrame) -> DataFrame:
    classes = run.pipeline.task != "regression"
    probability = vector_to_array(F.col("probability")) if classes else F.lit(None).cast("array<double>")
    raw = [name for name in frame.columns if "=" not in name and name not in ("probability", "prediction")]
    return frame.select(*raw, F.col("prediction").cast("double"), probability.alias("probability"))


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
            "estimator": winner.plan.spec.estimator,
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


def _described(point: Point) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in point.parameters.items())
    return f"{point.candidate}({settings})"
