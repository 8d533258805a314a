"""The ledger of raw files: which content was taken, which delivery is under way, and where to start again.

A manifest is a list of files with their content. It is recorded as `planned` before any of them is read, together with the
table versions it starts from, and closed as `taken` or `refused`. A killed run leaves it open; the next run finishes it first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
from pyspark.sql import Row
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from jobs.lake import Lake, Transaction
from jobs.landing import RawFile
from jobs.runs import fingerprint
from transforms import contracts
from transforms.contracts import Contract

PLANNED, TAKEN, REFUSED, REPLACED = "planned", "taken", "refused", "replaced"


@dataclass(frozen=True)
class Manifest:
    """A delivery. `base` are the table versions before it; `rebuilds`: the source's silver table is made of these files alone."""

    source: str
    id: str
    attempt: int
    files: tuple[RawFile, ...]
    base: Mapping[str, int]
    rebuilds: bool = False

    def transaction(self, contract: Contract, part: str) -> Transaction:
        """Identity of one write of this attempt."""
        return Transaction(f"ingest.{self.source}:{contract.table}:{self.id}:{part}", self.attempt)


@dataclass(frozen=True)
class Counts:
    """Rows of one file; `read` is counted apart from the others."""

    read: int = 0
    good: int = 0
    quarantined: int = 0
    duplicate: int = 0


class FileLedger:
    """The files of one source, read once and kept up to date."""

    def __init__(self, lake: Lake, pipeline: str, source: str) -> None:
        self._lake, self._source = lake, source
        self.contract = contracts.files(pipeline)
        self._rows: list[Row] | None = None

    def open(self) -> Manifest | None:
        """The manifest that was planned and not closed."""
        closed = {(r["manifest"], r["attempt"]) for r in self._all() if r["status"] != PLANNED}
        rows = [r for r in self._all() if r["status"] == PLANNED and (r["manifest"], r["attempt"]) not in closed]
        if not rows:
            return None
        manifest = self._manifest(rows)
        commit = self._lake.committed(self.contract, manifest.transaction(self.contract, PLANNED))
        assert commit is not None
        return replace(manifest, base=commit.metadata["base"], rebuilds=commit.metadata["rebuilds"])

    def last_taken(self) -> Manifest | None:
        """The manifest that was closed as taken last; without its base, which costs a look into the table's history."""
        rows = [r for r in self._all() if r["status"] == TAKEN]
        if not rows:
            return None
        newest = max(rows, key=lambda r: r["recorded_at"])
        return self._manifest(
            [r for r in rows if (r["manifest"], r["attempt"]) == (newest["manifest"], newest["attempt"])]
        )

    def taken(self) -> dict[str, str]:
        """Path -> etag of the content taken last from it."""
        rows = sorted((r for r in self._in_force()), key=lambda r: r["recorded_at"])
        return {r["path"]: r["etag"] for r in rows}

    def attempts(self) -> dict[str, int]:
        """Manifest -> attempt at which it was taken, of those whose rows are in silver or quarantine."""
        return {r["manifest"]: r["attempt"] for r in self._in_force()}

    def plan(
        self, files: Sequence[RawFile], base: Mapping[str, int], run_date: date | None, *, rebuilds: bool
    ) -> Manifest:
        """Record a manifest before its files are read: the same files again are a new one, unless they were refused."""
        taken = {r["manifest"] for r in self._all() if r["status"] == TAKEN}
        generation = 0
        while (identity := fingerprint(self._source, generation, [[f.path, f.etag] for f in files])) in taken:
            generation += 1
        attempts = [r["attempt"] for r in self._all() if r["manifest"] == identity]
        manifest = Manifest(self._source, identity, max(attempts, default=0) + 1, tuple(files), dict(base), rebuilds)
        about = {"base": dict(base), "rebuilds": rebuilds}
        self._append(manifest, PLANNED, [self._row(manifest, f, PLANNED, run_date) for f in files], about)
        return manifest

    def close_taken(
        self,
        manifest: Manifest,
        counts: Mapping[str, Counts],
        silver_version: int,
        run_date: date | None,
        details: Mapping[str, Any],
    ) -> None:
        """Record that every row of every file is accounted for. `details` stand with the commit."""
        rows = [self._row(manifest, f, TAKEN, run_date, counts[f.path], silver_version) for f in manifest.files]
        if manifest.rebuilds:
            before = [r for r in self._in_force() if r["manifest"] != manifest.id]
            rows += [{**r.asDict(), "status": REPLACED, "recorded_at": rows[0]["recorded_at"]} for r in before]
        self._append(manifest, TAKEN, rows, {"details": dict(details)})

    def close_refused(self, manifest: Manifest, run_date: date | None) -> None:
        """Record that the files were read and nothing of them was kept."""
        self._append(manifest, REFUSED, [self._row(manifest, f, REFUSED, run_date) for f in manifest.files], {})

    def details(self, manifest: Manifest) -> dict[str, Any]:
        """What `close_taken` was told."""
        commit = self._lake.committed(self.contract, manifest.transaction(self.contract, TAKEN))
        assert commit is not None
        return dict(commit.metadata["details"])

    def _in_force(self) -> list[Row]:
        replaced = {(r["manifest"], r["attempt"]) for r in self._all() if r["status"] == REPLACED}
        return [r for r in self._all() if r["status"] == TAKEN and (r["manifest"], r["attempt"]) not in replaced]

    def _all(self) -> list[Row]:
        if self._rows is None:
            found = self._lake.version(self.contract) is not None
            of_source = F.col("source") == self._source
            self._rows = self._lake.read(self.contract).filter(of_source).collect() if found else []
        return self._rows

    def _manifest(self, rows: Sequence[Row]) -> Manifest:
        files = tuple(sorted((RawFile(r["path"], r["etag"], r["size_bytes"]) for r in rows), key=lambda f: f.path))
        return Manifest(self._source, rows[0]["manifest"], rows[0]["attempt"], files, {})

    def _row(
        self,
        manifest: Manifest,
        file: RawFile,
        status: str,
        run_date: date | None,
        counts: Counts | None = None,
        silver_version: int | None = None,
    ) -> dict[str, Any]:
        return {
            "source": self._source,
            "manifest": manifest.id,
            "attempt": manifest.attempt,
            "path": file.path,
            "etag": file.etag,
            "size_bytes": file.size_bytes,
            "status": status,
            "rows_read": counts.read if counts else None,
            "rows_good": counts.good if counts else None,
            "rows_quarantined": counts.quarantined if counts else None,
            "rows_duplicate": counts.duplicate if counts else None,
            "silver_version": silver_version,
            "run_date": run_date,
            "recorded_at": datetime.now(UTC),
        }

    def _append(
        self, manifest: Manifest, part: str, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
    ) -> None:
        schema = self.contract.schema
        # By Arrow, since there may be many thousand files.
        table = pa.Table.from_pylist([dict(row) for row in rows], to_arrow_schema(schema, timezone="UTC"))
        frame = self._lake.spark.createDataFrame(table, schema).coalesce(1)
        known = self._all()
        commit = self._lake.append(frame, self.contract, manifest.transaction(self.contract, part), about)
        if commit.skipped:
            self._rows = None  # written before, with another `recorded_at`
        else:
            known += [_as_collected(row) for row in rows]


def _as_collected(row: Mapping[str, Any]) -> Row:
    """A row as Spark would give it back: times in the local zone, without one."""
    return Row(**{**row, "recorded_at": row["recorded_at"].astimezone().replace(tzinfo=None)})
