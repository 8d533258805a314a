"""All jobs of one pipeline in order, in one session: `millrace run`."""

from __future__ import annotations

from dataclasses import replace

from jobs import evaluate, features, ingest, promote, report, score, train
from jobs.runs import Outcome, Run


def run(run: Run) -> list[Outcome]:
    """Ingest, features, train, evaluate, promote, score, then the report; features and score alone while no training is due.

    No job calls another: each finds its input in the ledger, so any can be run again alone. The run date is settled once the
    files are in, and stays the same for the jobs after.
    """
    outcomes = list(ingest.run(run))
    dated = replace(run, asked_run_date=run.run_date)
    outcomes.append(features.run(dated))
    if _is_due(dated):
        decided = {job.JOB: job.run(dated) for job in (train, evaluate, promote)}
        outcomes += decided.values()
        outcomes.append(score.run(dated))
        unchanged = all(outcome.unchanged for outcome in outcomes)
        page = report.write(dated)
        outcomes.append(Outcome("report", details={"page": page}, unchanged=unchanged))
        _close(dated, decided, unchanged)
        dated.progress.message(f"report: {page}")
    else:
        outcomes.append(score.run(dated))
    return outcomes


def _is_due(run: Run) -> bool:
    """Whether this run trains: when it is asked to, or the last training before it is as long ago as `train.every` says."""
    every = run.pipeline.train.every
    trained = [
        stage.run_date
        for stage in run.ledger.stages()
        if stage.job == train.JOB and stage.run_date is not None and stage.run_date <= run.run_date
    ]
    if every is None or run.force or not trained or max(trained) == run.run_date:
        return True
    due = max(trained) + every.length
    if run.run_date < due:
        run.progress.message(f"train: trained on {max(trained)}, due again on {due}; the champion scores")
    return run.run_date >= due


def _close(run: Run, by_job: dict[str, Outcome], unchanged: bool) -> None:
    """The last lines that a person reads: what is champion now, how good it is, and whether anything changed."""
    promote, evaluate = by_job["promote"].details, by_job["evaluate"].details
    champion = promote["champion"]
    measured = evaluate["metrics"] if champion == evaluate["model_version"] else evaluate["champion_metrics"] or {}
    figures = ", ".join(f"{name} {value:.4f}" for name, value in measured.items() if isinstance(value, float))
    if unchanged:
        run.progress.message("nothing to do: this run was done before with the same inputs, and no table was written")
    run.progress.message(f"champion: {run.pipeline.pipeline} version {champion}; on the test rows {figures}")
    run.progress.message(f"promotion: {promote['reason']}")
