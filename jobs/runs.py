"""Run identity and the ledger of stages.

A run is (pipeline, run date); a stage of it is done when its row stands in the ledger under the fingerprint of the specs that
it reads and of its input versions. Data tables commit before that row, each write under a transaction id made of the same
fingerprint, so a stage that was killed anywhere is started again and finds its own commits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from pyspark.sql import SparkSession

from conf.schema import Environment, Pipeline
from jobs import device_times, rapids, sizes
from jobs.lake import Lake, Transaction
from jobs.progress import Progress
from jobs.storage import Storage
from jobs.usage import Meter, Usage
from transforms import contracts
from transforms.contracts import Contract
from transforms.errors import ContractError

USAGE = "usage"  # key of `details` in the ledger's table, under which a stage's usage is kept

log = logging.getLogger(__name__)


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits that depend on the content of specs, mappings, sequences and plain values, and on nothing else."""
    return hashlib.sha256(json.dumps([_plain(p) for p in parts], sort_keys=True, default=str).encode()).hexdigest()[:16]


def _plain(part: Any) -> Any:
    if isinstance(part, BaseModel):
        return part.model_dump(mode="json")
    if isinstance(part, Mapping):
        return {str(key): _plain(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_plain(value) for value in part]
    if isinstance(part, (set, frozenset)):
        return sorted(_plain(value) for value in part)
    return part


@cache
def code_fingerprint() -> str:
    """Hash of millrace's own Python files, the same from a folder and from a zip: which code made a table or a model."""
    digest = hashlib.sha256()
    for package in ("conf", "transforms", "models", "jobs"):
        for name, content in sorted(_python_files(resources.files(package), package)):
            digest.update(name.encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def _python_files(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _python_files(entry, path)
        elif entry.name.endswith(".py"):
            yield path, entry.read_bytes()


@dataclass(frozen=True)
class Outcome:
    """What a job did. `inputs` and `outputs` map tables to versions; `details` (JSON) is for later jobs and the report."""

    job: str
    rows_in: int | None = None
    rows_out: int | None = None
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    unchanged: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One row of the ledger. `usage` is None where the stage was recorded before usage was measured."""

    job: str
    run_date: date | None
    fingerprint: str
    attempt: int
    inputs: dict[str, int]
    outputs: dict[str, int]
    rows_in: int | None
    rows_out: int | None
    seconds: float
    details: dict[str, Any]
    code: str
    recorded_at: datetime
    usage: Usage | None = None

    def outcome(self) -> Outcome:
        return Outcome(
            self.job, self.rows_in, self.rows_out, self.inputs, self.outputs, self.details, True, self.seconds
        )


@dataclass(frozen=True)
class Attempt:
    """One try at a stage: its number is part of every transaction id, so --force writes again and a re-run does not."""

    job: str
    fingerprint: str
    number: int

    def transaction(self, contract: Contract, part: str = "") -> Transaction:
        """Identity of this attempt's write to one table (`part` where a stage writes it more than once)."""
        name = ":".join(piece for piece in (self.job, contract.table, self.fingerprint, part) if piece)
        return Transaction(name, self.number)


class Ledger:
    """The stages done so far, read once per process and kept up to date by `record`; `recorded` are those of this process."""

    def __init__(self, lake: Lake, pipeline: str) -> None:
        self._lake = lake
        self._contract = contracts.stages(pipeline)
        self._stages: list[Stage] | None = None
        self.recorded: list[Stage] = []

    def stages(self) -> list[Stage]:
        """All stages in the order they were recorded."""
        if self._stages is None:
            found = self._lake.version(self._contract) is not None
            rows = self._lake.read(self._contract).collect() if found else []
            self._stages = sorted((_stage(row.asDict()) for row in rows), key=lambda stage: stage.recorded_at)
        return self._stages

    def done(self, job: str, run_date: date | None, identity: str) -> Stage | None:
        """The latest attempt of exactly this stage."""
        matching = [s for s in self.stages() if (s.job, s.run_date, s.fingerprint) == (job, run_date, identity)]
        return matching[-1] if matching else None

    def last(self, job: str, run_date: date | None = None) -> Stage | None:
        """The stage of a job recorded last, for one run date or for any."""
        matching = [s for s in self.stages() if s.job == job and run_date in (None, s.run_date)]
        return matching[-1] if matching else None

    def require(self, job: str, run_date: date | None = None) -> Stage:
        """As `last`.

        Raises:
            ContractError: the job has not run.
        """
        stage = self.last(job, run_date)
        if stage is None:
            on = f" for run date {run_date}" if run_date else ""
            raise ContractError(f"The ledger has no `{job}`{on}. Run `millrace {job.split('.')[0]}` first.")
        return stage

    def record(self, stage: Stage) -> None:
        """Append one row: from here on the stage is done."""
        # Within the details, since ledgers of earlier versions have no column for it and stay as they are.
        details = stage.details if stage.usage is None else {**stage.details, USAGE: asdict(stage.usage)}
        row = {**stage.__dict__, "details": json.dumps(details, default=str)}
        del row[USAGE]
        frame = self._lake.spark.createDataFrame([row], self._contract.schema).coalesce(1)
        name = f"ledger:{stage.job}:{stage.run_date}:{stage.fingerprint}"
        self._lake.append(frame, self._contract, Transaction(name, stage.attempt))
        self.stages().append(stage)
        self.recorded.append(stage)


def _stage(row: dict[str, Any]) -> Stage:
    details = json.loads(row["details"] or "{}")
    usage = details.pop(USAGE, None)
    return Stage(**{**row, "details": details, USAGE: usage and Usage(**usage)})


@dataclass(frozen=True)
class Run:
    """Everything a job needs. `run_date` is the only clock that touches data; `asked_run_date` is None where it was left to the data."""

    spark: SparkSession
    pipeline: Pipeline
    environment: Environment
    lake: Lake
    ledger: Ledger
    asked_run_date: date | None = None
    force: bool = False
    progress: Progress = field(default_factory=Progress)

    @property
    def run_date(self) -> date:
        """The date asked for, else the day after the latest `at` in all files taken so far."""
        return self.asked_run_date or default_run_date(self.ledger, self.pipeline)


def default_run_date(ledger: Ledger, pipeline: Pipeline) -> date:
    """The day after the latest `at` over all sources, in the pipeline's time zone.

    A pipeline without any event time has no such day: the first of January 1970 stands for it, the same in every run.
    """
    latest = []
    for source in pipeline.sources:
        stage = ledger.last(f"ingest.{source}")
        if stage and stage.details.get("latest_at"):
            latest.append(datetime.fromisoformat(stage.details["latest_at"]).replace(tzinfo=UTC))
    if not latest:
        return date(1970, 1, 1)
    return max(latest).astimezone(ZoneInfo(pipeline.timezone)).date() + timedelta(days=1)


def stage(
    run: Run,
    job: str,
    *,
    specs: Sequence[Any],
    inputs: Mapping[str, int],
    body: Callable[[Attempt], Outcome],
    run_date: date | None = None,
    read: int | None = None,
    holds_rows: bool = False,
) -> Outcome:
    """Do a stage once per identity.

    The identity is the job, the run date (`run_date`, else the run's; ingest passes the one asked for, which may be None), the
    specs and the input versions. When the ledger has it and no new attempt is forced, nothing is written and the recorded
    outcome comes back with `unchanged`.

    Args:
        read: bytes of rows that it reads; by default what the files of the input tables unpack to.
        holds_rows: its Python workers keep rows; see `sizes.python_memory`.
    """
    day = run_date if job.startswith("ingest") else (run_date or run.run_date)
    identity = fingerprint(job, str(day), list(specs), dict(inputs))
    earlier = run.ledger.done(job, day, identity)
    if earlier and not run.force:
        run.progress.message(f"{job}: nothing to do, done before with the same inputs")
        return earlier.outcome()
    attempt = Attempt(job, identity, earlier.attempt + 1 if earlier else 1)
    fitted = sizes.fit(run.spark, lambda: _bytes(run, inputs) if read is None else read, holds_rows=holds_rows)
    if fitted:
        run.progress.message(f"{job}: {fitted}")
    sql = rapids.choose(run.spark, run.environment.gpu, device_times.of_sql(run.ledger.stages(), job))
    meter, started = Meter(run.spark), time.monotonic()
    with run.progress.stage(job):
        outcome = body(attempt)
    seconds = time.monotonic() - started
    done = Stage(
        job=job,
        run_date=day,
        fingerprint=identity,
        attempt=attempt.number,
        inputs=dict(outcome.inputs or inputs),
        outputs=dict(outcome.outputs),
        rows_in=outcome.rows_in,
        rows_out=outcome.rows_out,
        seconds=seconds,
        details=outcome.details | ({} if sql is None else {device_times.SQL: asdict(sql)}),
        code=code_fingerprint(),
        recorded_at=datetime.now(UTC).replace(tzinfo=None),
        usage=meter.read(run.environment.price_per_core_hour),
    )
    run.ledger.record(done)
    _tell(run, done)
    return replace(outcome, seconds=seconds)


def _bytes(run: Run, tables: Iterable[str]) -> int:
    return sizes.PACKED * sum(run.lake.size(table) for table in tables)


def _tell(run: Run, done: Stage) -> None:
    """What a stage did and what it took: a line in the log, and one of JSON under `ops/usage/` for readers without Delta."""
    assert done.usage is not None
    name = f"{run.lake.root}/ops/usage/{run.pipeline.pipeline}/{done.run_date or 'none'}-{done.job}.jsonl"
    known = ("job", "run_date", "fingerprint", "attempt", "recorded_at", "rows_in", "rows_out", "seconds")
    line = {"pipeline": run.pipeline.pipeline, **{field: getattr(done, field) for field in known}, **asdict(done.usage)}
    storage = Storage(run.spark)
    storage.write(name, (storage.read(name) or "") + json.dumps(line, default=str) + "\n")
    if done.usage.dropped_tasks:
        log.warning(
            "%s: expected the figures of all its tasks, found those of %d; Spark had dropped the Spark stages of %d, and what is recorded"
            " of cpu and bytes is too low. Raise spark.ui.retainedStages under `spark` in the environment %s.",
            *(done.job, done.usage.tasks, done.usage.dropped_tasks, run.environment.name),
        )
    counts = ((done.rows_in, "rows in"), (done.rows_out, "rows out"))
    parts = [f"{count} {what}" for count, what in counts if count is not None]
    tables = " ".join(f"{table}@{version}" for table, version in sorted(done.outputs.items()))
    told = ", ".join([*parts, f"{done.seconds:.1f} s", done.usage.words()])
    run.progress.message(f"{done.job}: {told}" + (f"; {tables}" if tables else ""))
