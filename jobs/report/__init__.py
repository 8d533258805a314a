"""The report of a run: one self-contained HTML page in the lake."""

from __future__ import annotations

from jobs.gpu_plan import stored
from jobs.report import gather, page
from jobs.runs import Run, code_fingerprint, fingerprint
from jobs.storage import Storage


def refresh(run: Run) -> str | None:
    """Write the page after a job that was started alone; None on a run date without an evaluation, such as a day that only scores."""
    jobs = {stage.job for stage in gather.stages(run)}
    return write(run) if {"features", "train", "evaluate"} <= jobs else None


def write(run: Run) -> str:
    """Write the page of the run's date and return its path.

    It lies under `<lake>/reports/<pipeline>/` as `<run date>-<identity>.html`; `latest.html` is a copy. The identity covers the
    stages shown, what `gpu-plan` found, and millrace's own code: a page that is there already is not made again.

    Raises:
        ContractError: features, train or evaluate have not run for this run date.
    """
    shown = [[stage.job, stage.fingerprint, stage.attempt] for stage in gather.stages(run)]
    identity = fingerprint("report", run.pipeline, shown, stored.find(run), code_fingerprint())[:8]
    folder = f"{run.lake.root}/reports/{run.pipeline.pipeline}"
    path = f"{folder}/{run.run_date}-{identity}.html"
    storage = Storage(run.spark)
    if storage.read(path) is None:
        html = page.render(gather.gather(run))
        storage.write(path, html)
        storage.write(f"{folder}/latest.html", html)
    return path
