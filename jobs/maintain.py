"""The job `maintain`: compact the pipeline's tables and remove old files, never those of a version that something rests on.

On an object store it also aborts uploads that nobody finished.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from jobs import uploads, vacuum
from jobs.runs import Ledger, Outcome, Run
from jobs.vacuum import Cleaned
from transforms import contracts
from transforms.errors import RefusedError

JOB = "maintain"


@dataclass(frozen=True)
class Pin:
    """An exact version of a table that must stay readable, and who needs it. Retired models are let go when the log is too old."""

    table: str
    version: int
    holder: str
    retired: bool = False


def run(run: Run) -> Outcome:
    """OPTIMIZE tables of many small files; VACUUM all tables without the pinned versions.

    Raises:
        RefusedError: a pinned version cannot be read, or its log is about to go; nothing was changed then.
    """
    tables = pipeline_tables(run)
    kept = _kept_versions(run, tables)
    details: dict[str, dict[str, int | bool]] = {}
    for number, table in enumerate(tables, 1):
        run.lake.may_commit()
        compacted = vacuum.compact(run.lake, table)
        cleaned = vacuum.vacuum(run.lake, table, kept[table])
        details[table] = {"compacted": compacted, **asdict(cleaned)}
        run.progress.advance(number, len(tables))
    aborted = uploads.abort_stale(run.spark, run.lake.root)
    changed = aborted > 0 or any(found["compacted"] or found["removed"] for found in details.values())
    return Outcome(JOB, details={"tables": details, "uploads_aborted": aborted}, unchanged=not changed)


def preview(run: Run) -> dict[str, Cleaned]:
    """Table -> what would be removed at most, for `--dry-run`.

    Raises:
        RefusedError: as `run`.
    """
    tables = pipeline_tables(run)
    kept = _kept_versions(run, tables)
    return {table: vacuum.removable(run.lake, table, kept[table]) for table in tables}


def pipeline_tables(run: Run) -> list[str]:
    """The pipeline's tables that exist: all that its ledger names, and the ledgers themselves.

    Not by folder name: the tables of a pipeline `shop_eu` would look like those of `shop`, and their pins are not ours to know.
    """
    name = run.pipeline.pipeline
    fixed = [contracts.files(name), contracts.stages(name), contracts.releases(name)]
    fixed += [contracts.quarantine(name, source) for source in run.pipeline.sources]
    found = {contract.table for contract in fixed if run.lake.version(contract) is not None}
    for stage in run.ledger.stages():
        found |= {*stage.inputs, *stage.outputs}
    return sorted(found)


def pins(run: Run) -> list[Pin]:
    """The versions behind every model that was ever champion, and those that the last run of each job read and wrote."""
    return [*_of_releases(run), *_of_last_runs(run.ledger)]


def _of_releases(run: Run) -> list[Pin]:
    releases = contracts.releases(run.pipeline.pipeline)
    if run.lake.version(releases) is None:
        return []
    rows = run.lake.read(releases).where("promoted").orderBy("recorded_at").collect()
    champion = rows[-1]["challenger"] if rows else None
    return [
        Pin(table, version, f"model version {row['challenger']}", retired=row["challenger"] != champion)
        for row in rows
        for table, version in row["tables"].items()
    ]


def _of_last_runs(ledger: Ledger) -> list[Pin]:
    last = {stage.job: stage for stage in ledger.stages()}
    return [
        Pin(table, version, f"the last run of {job}")
        for job, stage in last.items()
        for versions in (stage.inputs, stage.outputs)
        for table, version in versions.items()
    ]


def _kept_versions(run: Run, tables: list[str]) -> dict[str, set[int]]:
    """Table -> versions whose files stay.

    Raises:
        RefusedError: the champion or the last run of a job rests on a version that nobody may count on; all are listed.
    """
    kept: dict[str, set[int]] = {}
    problems = []
    pinned = pins(run)
    for table in tables:
        of_table = [pin for pin in pinned if pin.table == table]
        unreliable = vacuum.unreliable(run.lake, table, {pin.version for pin in of_table})
        for version, why in unreliable.items():
            holders = sorted({pin.holder for pin in of_table if pin.version == version and not pin.retired})
            if holders:
                problems.append(
                    f"{table}: {', '.join(holders)} needs version {version}, and {why}. Nothing was removed. Run that job again, or train and"
                    " promote a new model; to keep the log for longer, set the table's delta.logRetentionDuration."
                )
            else:
                run.progress.message(f"maintain: {table} version {version} of a former champion is let go: {why}")
        kept[table] = {pin.version for pin in of_table} - set(unreliable)
    if problems:
        raise RefusedError(problems)
    return kept
