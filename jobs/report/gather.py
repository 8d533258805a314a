"""What the report says, read from the ledger of stages and the ops tables; nothing is computed here that a job has not stored."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from pyspark.sql import functions as F

from conf.schema import SMALLER_IS_BETTER
from jobs.gpu_plan import stored
from jobs.report.configuration import as_yaml
from jobs.report.facts import Expectation, Facts, Measured, Point, SourceRows, TrialRow
from jobs.runs import Run, Stage, fingerprint
from transforms import contracts
from transforms.contracts import Contract
from transforms.rules import kind_of

PACKAGES = ("pyspark", "delta-spark", "mlflow", "great-expectations", "xgboost-cpu", "numpy", "pandas", "pyarrow")
MOST_REASONS = 12


def stages(run: Run) -> list[Stage]:
    """The newest stage of each job that belongs to this run date, in the order of the jobs."""
    jobs = [f"ingest.{name}" for name in run.pipeline.sources]
    jobs += ["features", "train", "evaluate", "promote", "score"]
    newest: dict[str, Stage] = {}
    for stage in run.ledger.stages():
        of_this_run = stage.run_date == run.run_date or (stage.job.startswith("ingest.") and stage.run_date is None)
        if stage.job in jobs and of_this_run:
            newest[stage.job] = stage
    return [newest[job] for job in jobs if job in newest]


def gather(run: Run) -> Facts:
    """Read everything that the page shows.

    Raises:
        ContractError: features, train or evaluate have not run for this run date.
    """
    features, train, evaluate = (run.ledger.require(job, run.run_date) for job in ("features", "train", "evaluate"))
    found = stages(run)
    later = {stage.job: stage for stage in found}
    promote = later.get("promote")
    if promote is not None and promote.inputs != evaluate.outputs:
        promote = None  # a decision about an earlier evaluation
    metrics = _metrics(run, evaluate)
    return Facts(
        pipeline=run.pipeline,
        environment=run.environment.name,
        run_date=run.run_date,
        stages=found,
        features=features,
        train=train,
        evaluate=evaluate,
        promote=promote,
        score=later.get("score"),
        sources=_sources(run, later),
        expectations=[verdict for name in run.pipeline.sources for verdict in _expectations(name, later)],
        trials=_trials(run, train),
        metrics=metrics.get(evaluate.details["model_version"], {}),
        champion_metrics=metrics.get(evaluate.details.get("champion_version") or 0, {}),
        curves=_curves(run, evaluate),
        packages=_packages(run),
        configuration=fingerprint(run.pipeline),
        configuration_text=as_yaml(run.pipeline),
        gpu_plan=stored.find(run),
    )


def _rows(run: Run, contract: Contract, condition: str) -> list[Any]:
    """The rows of an ops table that meet a condition; nothing where the table does not exist yet."""
    if run.lake.version(contract) is None:
        return []
    return run.lake.read(contract).where(condition).collect()


def _sources(run: Run, later: Mapping[str, Stage]) -> list[SourceRows]:
    name = run.pipeline.pipeline
    rows = _rows(run, contracts.files(name), "status IN ('taken', 'replaced')")
    replaced = {(row["source"], row["manifest"], row["attempt"]) for row in rows if row["status"] == "replaced"}
    taken = defaultdict(list)
    for row in rows:
        if (row["source"], row["manifest"], row["attempt"]) not in replaced:
            taken[row["source"]].append(row)
    found = []
    for source in run.pipeline.sources:
        files = taken[source]

        def total(column: str, files: list[Any] = files) -> int:
            return sum(row[column] or 0 for row in files)

        stage = later.get(f"ingest.{source}")
        found.append(
            SourceRows(
                name=source,
                files=len({row["path"] for row in files}),
                read=total("rows_read"),
                good=total("rows_good"),
                bad=total("rows_quarantined"),
                duplicates=total("rows_duplicate"),
                reasons=_reasons(run, source, {(row["manifest"], row["attempt"]) for row in files}),
                undeclared=_undeclared(stage),
            )
        )
    return found


def _reasons(run: Run, source: str, taken: set[tuple[str, int]]) -> list[tuple[str, int]]:
    """Why rows were quarantined, most frequent first; the values that reasons quote are left out, so that equal reasons are one."""
    contract = contracts.quarantine(run.pipeline.pipeline, source)
    if not taken or run.lake.version(contract) is None:
        return []
    bad = run.lake.read(contract).where("kind = 'bad'")
    reason = kind_of(F.col("reason")).alias("reason")
    counted = (
        bad.select("_delivery", "_attempt", F.explode("reasons").alias("reason"))
        .groupBy("_delivery", "_attempt", reason)
        .agg(F.count("*").alias("rows"))
    )
    sums: dict[str, int] = defaultdict(int)
    for row in counted.collect():
        if (row["_delivery"], row["_attempt"]) in taken:
            sums[row["reason"]] += row["rows"]
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:MOST_REASONS]


def _undeclared(stage: Stage | None) -> list[str]:
    """Columns that files have and the pipeline file does not name."""
    return sorted(stage.details.get("undeclared", [])) if stage else []


def _expectations(source: str, later: Mapping[str, Stage]) -> list[Expectation]:
    stage = later.get(f"ingest.{source}")
    return [
        Expectation(
            source=source,
            name=verdict["type"],
            arguments=_arguments(verdict["kwargs"]),
            passed=verdict["success"],
            observed=_observed(verdict.get("observed")),
        )
        for verdict in (stage.details.get("expectations", []) if stage else [])
    ]


def _arguments(kwargs: Mapping[str, Any]) -> str:
    """`column price, max_value 90`: in one order, whether the ledger was read from its table or filled by this process."""
    ordered = sorted(kwargs.items(), key=lambda item: (item[0] != "column", item[0]))
    return ", ".join(f"{name} {_text(value)}" for name, value in ordered)


def _observed(value: Any) -> str:
    """A figure, or for an expectation on each value how many did not meet it."""
    if isinstance(value, Mapping) and "unexpected_count" in value:
        return f"{value['unexpected_count']:,} of {value['element_count']:,} unexpected"
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _trials(run: Run, train: Stage) -> list[TrialRow]:
    """Grid points, best mean first, those that were stopped after them, failed ones last."""
    search = train.details["search"]
    points = defaultdict(list)
    for row in _rows(run, contracts.trials(run.pipeline.pipeline), f"search = '{search}'"):
        points[row["candidate"], row["point"]].append(row)
    found = []
    for (candidate, _), rows in points.items():
        rows.sort(key=lambda row: row["fold"])
        parameters = json.loads(rows[0]["parameters"])
        found.append(
            TrialRow(
                candidate=candidate,
                parameters=", ".join(f"{name} {_text(value)}" for name, value in parameters.items()) or "as given",
                folds=[row["value"] for row in rows],
                seconds=sum(row["seconds"] for row in rows),
                solver=rows[0]["solver"],
                error=next((row["error"] for row in rows if row["error"]), None),
                share=min(row["share"] for row in rows),
                chosen=candidate == train.details["candidate"] and parameters == train.details["parameters"],
            )
        )
    sign = 1 if run.pipeline.train.metric in SMALLER_IS_BETTER else -1

    def place(trial: TrialRow) -> tuple[Any, ...]:
        is_known, was_stopped = trial.mean is not None, trial.share < 1
        return not is_known, was_stopped, sign * (trial.mean or 0.0), trial.candidate, trial.parameters

    return sorted(found, key=place)


def _metrics(run: Run, evaluate: Stage) -> dict[int, dict[tuple[str, str, str, str], Measured]]:
    """Model version -> its metrics in this evaluation, the champion's on the same rows beside them."""
    found: dict[int, dict[tuple[str, str, str, str], Measured]] = defaultdict(dict)
    condition = f"evaluation = '{evaluate.details['evaluation']}'"
    for row in _rows(run, contracts.metrics(run.pipeline.pipeline), condition):
        key = (row["slice"], row["value_of_slice"], row["metric"], row["class"])
        found[row["model_version"]][key] = Measured(row["value"], row["low"], row["high"], row["rows"])
    return found


def _curves(run: Run, evaluate: Stage) -> dict[str, list[Point]]:
    found = defaultdict(list)
    condition = f"evaluation = '{evaluate.details['evaluation']}'"
    rows = _rows(run, contracts.curves(run.pipeline.pipeline), condition)
    for row in sorted(rows, key=lambda row: (row["curve"], row["ordinal"])):
        found[row["curve"]].append(Point(row["series"], row["x"], row["y"], row["rows"]))
    return found


def _packages(run: Run) -> dict[str, str]:
    found = {"python": platform.python_version(), "spark": run.spark.version}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # another build of the same library, such as xgboost for a GPU
            continue
    jvm = run.spark._jvm
    assert jvm is not None
    return found | {"java": str(jvm.System.getProperty("java.version"))}
