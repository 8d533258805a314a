"""The job `ingest`: raw files to silver tables; what does not fit to quarantine; every row counted.

A run finishes the delivery that an earlier one left open, then takes the files that are new or have new content. `--force` reads
all files again into an emptied table. One stage of the ledger per delivery, named `ingest.<source>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pyspark.sql import functions as F

from jobs import runtime
from jobs.delivery import Delivery, Taken, rules_fingerprint, tables
from jobs.landing import Landing, RawFile
from jobs.manifests import Counts, FileLedger, Manifest
from jobs.runs import Attempt, Outcome, Run, stage
from transforms.errors import ContractError, QualityError, RefusedError
from transforms.instants import instant
from transforms.rules import kind_of

TOP_REASONS = 10


def run(run: Run) -> list[Outcome]:
    """Bring every source up to date, in the order of the pipeline file; the last outcome of each.

    Raises:
        ContractError: files are missing, cannot be read, lack a declared column, were replaced while they were read, or rows are
            unaccounted for. Nothing of the delivery is kept.
        QualityError: an expectation failed. Nothing of the delivery is kept.
        RefusedError: `--force` would lose rows of files that are gone.
    """
    landing = Landing(run.spark, run.environment.raw)
    return [_bring_up_to_date(run, name, landing) for name in run.pipeline.sources]


def new_files(run: Run) -> Mapping[str, list[str]]:
    """Source -> paths that a run would take now: new ones, and those with new content."""
    landing = Landing(run.spark, run.environment.raw)
    found = {}
    for name, source in run.pipeline.sources.items():
        taken = FileLedger(run.lake, run.pipeline.pipeline, name).taken()
        found[name] = [file.path for file in landing.files(source.files) if taken.get(file.path) != file.etag]
    return found


def _bring_up_to_date(run: Run, name: str, landing: Landing) -> Outcome:
    source, ledger = run.pipeline.sources[name], FileLedger(run.lake, run.pipeline.pipeline, name)
    outcome = None
    unfinished = ledger.open()
    if unfinished:
        run.progress.message(f"ingest.{name}: finishing the delivery {unfinished.id} that an earlier run left open")
        outcome = _deliver(run, ledger, unfinished, landing, is_resumed=True)
    listed, taken = landing.files(source.files), ledger.taken()
    if not listed and not taken:
        raise ContractError(f"sources.{name}.files: expected files that match {landing.url(source.files)}, found none.")
    pending = [file for file in listed if taken.get(file.path) != file.etag]
    if run.force:
        _refuse_loss(name, listed, taken)
        pending = listed
    if pending:
        base = _versions(run, name, rebuilds=run.force)
        manifest = ledger.plan(pending, base, run.asked_run_date, rebuilds=run.force)
        return _deliver(run, ledger, manifest, landing)
    return outcome or _unchanged(run, ledger, landing)


def _unchanged(run: Run, ledger: FileLedger, landing: Landing) -> Outcome:
    """The recorded outcome of the last delivery; recorded now, if a run was killed between the delivery and its record."""
    manifest = ledger.last_taken()
    assert manifest is not None
    job, source = f"ingest.{manifest.source}", run.pipeline.sources[manifest.source]
    last = run.ledger.last(job)
    if last is None or last.details["manifest"] != manifest.id:
        return _deliver(run, ledger, manifest, landing, is_taken=True)
    if last.details["rules"] != rules_fingerprint(source):
        run.progress.message(
            f"{job}: columns, derivations or rules have changed since its rows were judged; --force judges all files again"
        )
    run.progress.message(f"{job}: nothing to do, no new files")
    return last.outcome()


def _refuse_loss(name: str, listed: Sequence[RawFile], taken: Mapping[str, str]) -> None:
    gone = sorted(set(taken) - {file.path for file in listed})
    if gone:
        raise RefusedError(
            f"sources.{name}: --force reads all files again into an emptied table, and {len(gone)} file(s) whose rows it holds are gone:"
            f" {', '.join(gone[:5])}{', ...' if len(gone) > 5 else ''}. Put them back, or run without --force."
        )


def _versions(run: Run, name: str, *, rebuilds: bool) -> dict[str, int]:
    """Table versions that a delivery starts from; the tables are created where they are missing."""
    silver, quarantine = tables(run, name)
    versions = {}
    for table in (silver, quarantine):
        found = run.lake.version(table) if rebuilds else None
        try:
            versions[table.table] = run.lake.create(table) if found is None else found
        except ContractError as error:
            raise ContractError(
                f"{error} The source's columns have changed; `--force` reads all files again."
            ) from error
    return versions


def _deliver(
    run: Run,
    ledger: FileLedger,
    manifest: Manifest,
    landing: Landing,
    *,
    is_resumed: bool = False,
    is_taken: bool = False,
) -> Outcome:
    """One stage: do what is left of a delivery, and record it."""

    def body(attempt: Attempt) -> Outcome:
        if is_taken:
            details = ledger.details(manifest)
        else:
            details = _take(run, ledger, manifest, landing, is_resumed=is_resumed)
        outputs = details.pop("outputs")
        return Outcome(attempt.job, details["rows_read"], details["rows_good"], {}, outputs, details)

    source = run.pipeline.sources[manifest.source]
    specs = [source, run.pipeline.timezone, manifest.id, manifest.attempt]
    read = sum(file.size_bytes for file in manifest.files)
    return stage(
        run,
        f"ingest.{manifest.source}",
        specs=specs,
        inputs={},
        body=body,
        run_date=run.asked_run_date,
        read=read,
    )


def _take(run: Run, ledger: FileLedger, manifest: Manifest, landing: Landing, *, is_resumed: bool) -> dict[str, Any]:
    """Take the files of a manifest and close it; returns the stage's details, with the table versions under `outputs`."""
    delivery = Delivery(run, manifest, landing, ledger)
    try:
        if is_resumed:
            _same_files(landing, manifest)
        taken = delivery.take()
        _same_files(landing, manifest)
        verdicts = _judge(run, delivery, taken)
        counts, latest = _account(run, delivery, taken)
    except ContractError:
        delivery.refuse()
        ledger.close_refused(manifest, run.asked_run_date)
        raise
    details = {
        "manifest": manifest.id,
        "attempt": manifest.attempt,
        "rules": rules_fingerprint(delivery.source),
        "files": len(manifest.files),
        "empty": [path for path, count in counts.items() if count.read == 0],
        "rows_read": sum(count.read for count in counts.values()),
        "rows_good": sum(count.good for count in counts.values()),
        "rows_quarantined": sum(count.quarantined for count in counts.values()),
        "rows_duplicate": sum(count.duplicate for count in counts.values()),
        "reasons": _reasons(run, delivery, taken),
        "undeclared": list(taken.undeclared),
        "expectations": verdicts,
        "latest_at": _latest(run, manifest, latest),
        "outputs": {delivery.silver.table: taken.silver, delivery.quarantine.table: taken.quarantine},
    }
    ledger.close_taken(manifest, counts, taken.silver, run.asked_run_date, details)
    return details


def _same_files(landing: Landing, manifest: Manifest) -> None:
    problems = landing.differences(manifest.files)
    if problems:
        raise ContractError(
            [
                f"{problem}. Nothing of its delivery is kept; run ingest again to take what is there."
                for problem in problems
            ]
        )


def _judge(run: Run, delivery: Delivery, taken: Taken) -> list[dict[str, Any]]:
    """Verdicts on this delivery's rows and on the whole table.

    Raises:
        QualityError: one sentence for each expectation that failed.
    """
    source, name = delivery.source, f"sources.{delivery.manifest.source}"
    if not source.expect and not source.expect_table:
        return []
    from transforms import expectations  # Great Expectations takes seconds to import

    table = run.lake.read(delivery.silver, taken.silver)
    delivered = table.filter(F.col("_delivery") == delivery.manifest.id)
    verdicts = [
        *expectations.judge(delivered, source.expect, name=f"{name}.expect"),
        *expectations.judge(table, source.expect_table, name=f"{name}.expect_table"),
    ]
    failed = [verdict for verdict in verdicts if verdict.success is False]
    if failed:
        raise QualityError(
            [
                f"{verdict.id}: expected {verdict.sentence()}. The table is as it was before; correct the files or the expectation."
                for verdict in failed
            ]
        )
    return [verdict.__dict__ for verdict in verdicts]


def _account(run: Run, delivery: Delivery, taken: Taken) -> tuple[dict[str, Counts], datetime | None]:
    """Rows by file from what was committed, and the latest `at` among them.

    Raises:
        ContractError: for a file, rows read are not good + quarantined + duplicate.
    """
    manifest, source = delivery.manifest, delivery.source
    good = run.lake.read(delivery.silver, taken.silver).filter(F.col("_delivery") == manifest.id)
    at = instant(good, source.at, run.pipeline.timezone) if source.at else F.lit(None).cast("timestamp")
    by_file = good.groupBy("_file").agg(F.count(F.lit(1)).alias("rows"), F.max(at).cast("string").alias("latest"))
    good_rows, latest = {}, []
    for row in by_file.collect():
        good_rows[row["_file"]] = row["rows"]
        latest += [datetime.fromisoformat(row["latest"])] if row["latest"] else []
    kinds: dict[tuple[str, bool], int] = {}
    if taken.quarantine != manifest.base[delivery.quarantine.table]:
        kept = run.lake.read(delivery.quarantine, taken.quarantine).filter(
            (F.col("_delivery") == manifest.id) & (F.col("_attempt") == manifest.attempt)
        )
        for row in kept.groupBy("_file", (F.col("kind") == "bad").alias("bad")).count().collect():
            kinds[row["_file"], row["bad"]] = row["count"]
    counts = {
        file.path: Counts(
            taken.lines[file.path].rows,
            good_rows.get(file.path, 0),
            kinds.get((file.path, True), 0),
            kinds.get((file.path, False), 0),
        )
        for file in manifest.files
    }
    problems = [
        f"{path}: {c.read} rows were read, and {c.good} good + {c.quarantined} quarantined + {c.duplicate} duplicate rows were"
        " written; expected the same number. Nothing of its delivery is kept; please report this file."
        for path, c in counts.items()
        if c.read != c.good + c.quarantined + c.duplicate
    ]
    if problems:
        raise ContractError(problems)
    return counts, max(latest, default=None)


def _reasons(run: Run, delivery: Delivery, taken: Taken) -> list[dict[str, Any]]:
    """The reasons that quarantined most rows of this delivery."""
    manifest = delivery.manifest
    if taken.quarantine == manifest.base[delivery.quarantine.table]:
        return []
    bad = run.lake.read(delivery.quarantine, taken.quarantine).filter(
        (F.col("_delivery") == manifest.id) & (F.col("_attempt") == manifest.attempt) & (F.col("kind") == "bad")
    )
    reasons = bad.select(F.explode("reasons").alias("reason")).select(kind_of(F.col("reason")).alias("reason"))
    top = reasons.groupBy("reason").count().orderBy(F.desc("count"), "reason").limit(TOP_REASONS).collect()
    return [{"reason": row["reason"], "rows": row["count"]} for row in top]


def _latest(run: Run, manifest: Manifest, latest: datetime | None) -> str | None:
    """The latest `at` in all files taken so far (UTC)."""
    earlier = None if manifest.rebuilds else run.ledger.last(f"ingest.{manifest.source}")
    known = [datetime.fromisoformat(earlier.details["latest_at"])] if earlier and earlier.details["latest_at"] else []
    return max([*known, *([latest] if latest else [])]).isoformat() if known or latest else None


if __name__ == "__main__":
    runtime.main("ingest")
