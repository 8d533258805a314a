"""All jobs of one pipeline in order, in one session: `millrace run`."""

from __future__ import annotations

from dataclasses import replace

from jobs import evaluate, features, ingest, promote, report, score, train
from jobs.runs import Outcome, Run


def run(run: Run) -> list[Outcome]:
    """Ingest, features, train, evaluate, promote, score, then the report.

    No job calls another: each finds its input in the ledger, so any can be run again alone. The run date is settled once the
    files are in, and stays the same for the jobs after.
    """
    outcomes = list(ingest.run(run))
    dated = replace(run, asked_run_date=run.run_date)
    by_job = {}
    for job in (features, train, evaluate, promote, score):
        outcome = job.run(dated)
        by_job[outcome.job] = outcome
        outcomes.append(outcome)
    unchanged = all(outcome.unchanged for outcome in outcomes)
    page = report.write(dated)
    outcomes.append(Outcome("report", details={"page": str(page)}, unchanged=unchanged))
    _close(dated, by_job, unchanged)
    dated.progress.message(f"report: {page}")
    return outcomes


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
