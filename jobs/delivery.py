"""One manifest, from raw files to committed rows: every row ends in exactly one of silver, quarantine as bad, quarantine as duplicate.

Each write has a transaction of the manifest's attempt, and reads only what the manifest pins: file contents and the table
versions before it. So a delivery that was killed anywhere is done again from the start, and finds what it had committed.

Rows that the plain reader keeps are written at once. Only files where that leaves fewer rows than lines are read again with
reasons. A table that was empty takes the rows as they come and is then put right where keys are repeated; a table with rows
takes them in one append or MERGE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, reduce

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructField, StructType

from conf.schema import Source
from conf.sql_text import mentioned
from jobs import layouts
from jobs.kept_rows import kept
from jobs.lake import Transaction
from jobs.landing import Landing
from jobs.layouts import Group, Lines
from jobs.manifests import FileLedger, Manifest
from jobs.runs import Run, fingerprint
from transforms import contracts, dedupe, explained, parse, rules
from transforms.contracts import EVENT_DATE, ROW_ID, Contract
from transforms.dedupe import HASH, KIND, STORED
from transforms.errors import ContractError
from transforms.explained import RAW
from transforms.expressions import derived_types, with_derived
from transforms.instants import instant
from transforms.parse import FILE
from transforms.rules import REASONS

_PAST = "_past"  # a row of an earlier delivery that takes part in the order and is in quarantine already
_JSON = {"ignoreNullFields": "false", "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"}
_FILE, _DELIVERY = "_file", "_delivery"
_READ_FAILURE = re.compile(r"\[(?:FAILED_READ_FILE|CANNOT_READ_FILE)[^\]]*\] (.*?)\.? (?:SQLSTATE|$)", re.MULTILINE)
_WHY = {
    "duplicate": "duplicate: another row of this delivery with the same key ranks before it",
    "unchanged": "unchanged: equal to the row that is stored under its key",
    "superseded": "superseded: another delivery's row with the same key ranks before it",
}


@dataclass(frozen=True)
class Taken:
    """What a delivery left: versions of silver and quarantine, lines by file, and names in the files that no column takes."""

    silver: int
    quarantine: int
    lines: Mapping[str, Lines]
    undeclared: Sequence[str]


def tables(run: Run, name: str) -> tuple[Contract, Contract]:
    """Silver and quarantine of a source."""
    source, pipeline = run.pipeline.sources[name], run.pipeline.pipeline
    return contracts.silver(pipeline, name, source, derived_types(run.spark, source)), contracts.quarantine(
        pipeline, name
    )


def rules_fingerprint(source: Source) -> str:
    """What judges a row of this source."""
    judged_by = ("nulls", "encoding", "columns", "derive", "key", "latest", "at", "rules")
    return fingerprint({name: value for name, value in source.model_dump(mode="json").items() if name in judged_by})


class Delivery:
    """The work on one manifest."""

    def __init__(self, run: Run, manifest: Manifest, landing: Landing, ledger: FileLedger) -> None:
        self.run, self.manifest, self.landing = run, manifest, landing
        self.source: Source = run.pipeline.sources[manifest.source]
        self.silver, self.quarantine = tables(run, manifest.source)
        self._taken = ledger.taken()
        self._attempts = {**ledger.attempts(), manifest.id: manifest.attempt}
        self._versions = dict(manifest.base)
        self._until_taken = ExitStack()
        self._is_written = False

    def take(self) -> Taken:
        """Read, judge, write.

        Raises:
            ContractError: a file cannot be read, or lacks a declared column.
        """
        try:
            with self._until_taken:
                return self._take()
        except (PySparkException, Py4JJavaError) as error:
            unread = _READ_FAILURE.search(str(error))
            if unread is None:
                raise
            raise ContractError(f"sources.{self.manifest.source}: {unread[1]}. Deliver the file again.") from error

    def refuse(self) -> None:
        """Undo what this attempt wrote; its bad rows stay in quarantine for people to read, and count no more."""
        lake, base = self.run.lake, self.manifest.base
        bad = lake.committed(self.quarantine, self._transaction(self.quarantine, "bad"))
        silver, quarantine = base[self.silver.table], bad.version if bad else base[self.quarantine.table]
        for table, version in ((self.silver, silver), (self.quarantine, quarantine)):
            if lake.version(table) != version:
                lake.restore(table, version)

    def _take(self) -> Taken:
        run, files = self.run, self.manifest.files
        simple = self.landing.simple_texts(files, self.source)
        groups = layouts.groups(run.spark, self.landing, self.source, run.pipeline.timezone, files, simple)
        lines = layouts.lines(run.spark, self.landing, self.source, files, simple)
        plain, counts = self._plain(groups, lines)
        rest = self._explained(groups, lines, counts)
        if self._fills_empty_table:
            self._make_distinct()
        else:
            self._merge([frame for frame in (plain, rest) if frame is not None])
        undeclared = sorted({name for group in groups for name in group.batch.undeclared})
        return Taken(self._versions[self.silver.table], self._versions[self.quarantine.table], lines, undeclared)

    @cached_property
    def _fills_empty_table(self) -> bool:
        base = self.manifest.base[self.silver.table]
        # Version 0 is the creation of the table.
        return self.manifest.rebuilds or base == 0 or self.run.lake.read(self.silver, base).isEmpty()

    # reading

    def _plain(self, groups: Sequence[Group], lines: Mapping[str, Lines]) -> tuple[DataFrame | None, dict[str, int]]:
        """Rows of the plain reader, and how many it kept of each file that it read; none where a derived column fails on a row."""
        frames, read = [], []
        split_size = layouts.split_size(self.run.spark, self.manifest.files)
        for group in groups:
            if not group.batch.has_plain_reader:
                continue
            paths_of: dict[bool, list[str]] = {True: [], False: []}
            for file in group.files:
                if not lines[file.path].odd:
                    # A large file is left to several tasks.
                    paths_of[lines[file.path].is_simple and file.size_bytes <= split_size].append(file.path)
            for as_streams, paths in paths_of.items():
                if paths:
                    urls = self.landing.urls(paths)
                    frame = parse.plain(self.run.spark, group.batch, urls, as_streams=as_streams)
                    frame = rules.clean(frame, self.source, self.run.pipeline.timezone)
                    frames.append(self._finished(frame, F.expr(self.source.at) if self.source.at else None))
                    read += paths
        if not frames:
            return None, {}
        try:
            rows, written = self._landed(self._gathered(frames), "plain")
            if written == sum(lines[path].rows for path in read):  # no file has fewer good rows than lines
                return rows, {path: lines[path].rows for path in read}
            counts = {row[_FILE]: row["count"] for row in rows.groupBy(_FILE).count().collect()}
        except (PySparkException, Py4JJavaError) as error:
            if "SQLSTATE: 22" not in str(error):  # data exceptions: overflow, division by zero, invalid text
                raise
            return None, {}
        return rows, {path: counts.get(path, 0) for path in read}

    def _explained(
        self, groups: Sequence[Group], lines: Mapping[str, Lines], counts: Mapping[str, int]
    ) -> DataFrame | None:
        """Good rows among those that the plain reader left out, or could not read; the bad ones are quarantined."""
        timezone = self.run.pipeline.timezone
        frames = []
        for group in groups:
            partly = [f.path for f in group.files if counts.get(f.path, lines[f.path].rows) != lines[f.path].rows]
            wholly = [f.path for f in group.files if f.path not in counts and lines[f.path].rows]
            for paths, is_partly in ((partly, True), (wholly, False)):
                if paths:
                    read = explained.rows(self.run.spark, group.batch, self.landing.urls(paths))
                    frame = rules.explain(read, self.source, timezone)
                    frame = rules.left_out(frame) if is_partly else frame
                    at = rules.guarded(self.run.spark, self.source.at) if self.source.at else None
                    frames.append(self._finished(frame, at, RAW, REASONS))
        if not frames:
            return None
        frame = self._kept(self._gathered(frames))
        is_bad = F.size(REASONS) > 0
        numbers = {row["bad"]: row["count"] for row in frame.groupBy(is_bad.alias("bad")).count().collect()}
        if numbers.get(True):
            bad = frame.filter(is_bad).select(
                F.lit("bad").alias("kind"), F.col(REASONS).alias("reasons"), F.col(RAW).alias("raw"), _FILE, _DELIVERY
            )
            self._quarantine(bad, "bad")
        return self._landed(frame.filter(~is_bad), "explained")[0] if numbers.get(False) else None

    def _gathered(self, frames: Sequence[DataFrame]) -> DataFrame:
        return layouts.gathered(self.run.spark, reduce(DataFrame.unionByName, frames), self.manifest.files)

    def _finished(self, frame: DataFrame, at: Column | None, *more: str) -> DataFrame:
        """Silver's columns in order, and `more`."""
        if ROW_ID in self.silver.columns:
            frame = frame.withColumn(ROW_ID, dedupe.row_id(self.source.columns))
        file = self.landing.relative(F.col(FILE), self.manifest.files)
        frame = frame.withColumns({_FILE: file, _DELIVERY: F.lit(self.manifest.id)})
        return self._dated(frame, at).select(*self.silver.columns, *more)

    def _dated(self, frame: DataFrame, at: Column | None) -> DataFrame:
        if at is None:
            return frame
        timezone, frame = self.run.pipeline.timezone, frame.withColumn("_at", at)
        moment = instant(frame, "_at", timezone)
        local = moment if timezone == "UTC" else F.from_utc_timestamp(moment, timezone)
        return frame.withColumn(EVENT_DATE, F.to_date(local))

    # writing

    def _landed(self, frame: DataFrame, part: str) -> tuple[DataFrame, int | None]:
        """Good rows where they can be read again: in the table when it was empty, else on the workers' disks; their number if known."""
        if not self._fills_empty_table:
            return self._kept(frame), None
        written = self._write(frame.select(*self.silver.columns), part)
        rows = self.run.lake.read(self.silver, self._versions[self.silver.table])
        return rows.filter(F.col(_DELIVERY) == self.manifest.id), written

    def _write(self, frame: DataFrame, part: str) -> int | None:
        """Add rows to silver; the first write of a rebuild replaces what was there."""
        replaces = self.manifest.rebuilds and not self._is_written
        transaction = self._transaction(self.silver, part)
        if replaces:
            commit = self.run.lake.replace(frame, self.silver, transaction, new_columns=True)
        else:
            commit = self.run.lake.append(frame, self.silver, transaction)
        self._is_written = True
        self._versions[self.silver.table] = commit.version
        return commit.rows

    def _make_distinct(self) -> None:
        """One row per key in a table that held nothing but this delivery."""
        lake = self.run.lake
        if self.manifest.rebuilds and not self._is_written:
            self._write(self.run.spark.createDataFrame([], self.silver.schema), "nothing")
        rows = lake.read(self.silver, self._versions[self.silver.table])
        contested = self._kept(dedupe.repeated(rows, self.silver))
        if contested.count() == 0:
            return
        candidates = self._of(rows, contested, "left_semi").withColumns({STORED: F.lit(False), _PAST: F.lit(False)})
        resolved = self._resolve(candidates)
        chosen = resolved.filter(F.col(KIND).isNull()).select(*self.silver.columns)
        distinct = self._of(rows, contested, "left_anti").unionByName(chosen)
        commit = lake.replace(distinct, self.silver, self._transaction(self.silver, "distinct"))
        self._versions[self.silver.table] = commit.version

    def _merge(self, incoming: Sequence[DataFrame]) -> None:
        """Add rows to a table that has some: new keys and rows that rank before the stored ones; nothing where nothing changes."""
        if not incoming:
            return
        lake = self.run.lake
        rows = reduce(DataFrame.unionByName, [frame.select(*self.silver.columns) for frame in incoming])
        stored = lake.read(self.silver, self.manifest.base[self.silver.table])
        contested = self._kept(dedupe.repeated(rows, self.silver, self._neighbours(stored, rows)))
        if contested.count() == 0:
            self._write(rows, "rows")
            return
        candidates = [
            self._of(frame, contested, "left_semi").withColumns({STORED: F.lit(is_stored), _PAST: F.lit(is_past)})
            for frame, is_stored, is_past in (
                (rows, False, False),
                (stored, True, False),
                (self._equal_before(), True, True),
            )
            if frame is not None
        ]
        resolved = self._resolve(reduce(DataFrame.unionByName, candidates))
        chosen = resolved.filter(F.col(KIND).isNull() & ~F.col(STORED)).select(*self.silver.columns)
        rows = self._of(rows, contested, "left_anti").unionByName(chosen)
        replaced = resolved.filter(STORED).filter(F.col(KIND).isNotNull())
        dates = self._dates(replaced)
        if replaced.isEmpty():
            if not rows.isEmpty():
                self._write(rows, "rows")
            return
        commit = lake.merge(rows, self.silver, self._transaction(self.silver, "rows"), on=dates)
        self._versions[self.silver.table] = commit.version

    def _resolve(self, candidates: DataFrame) -> DataFrame:
        """Name the row of each contested key; those that leave go to quarantine."""
        resolved = dedupe.resolve(candidates, self.silver, latest=self.source.latest)
        resolved = self._kept(resolved.filter(~F.col(_PAST)))
        leaving = resolved.filter(F.col(KIND).isNotNull())
        names = [F.col(column).alias(spec.header or column) for column, spec in self.source.columns.items()]
        why = F.create_map(*(F.lit(text) for pair in _WHY.items() for text in pair))
        rows = leaving.select(
            F.col(KIND).alias("kind"),
            F.array(why[F.col(KIND)]).alias("reasons"),
            F.to_json(F.struct(*names), _JSON).alias("raw"),
            _FILE,
            _DELIVERY,
        )
        if not leaving.isEmpty():
            self._quarantine(rows, "duplicates")
        return resolved

    def _equal_before(self) -> DataFrame | None:
        """Rows delivered earlier that were equal to the stored one, by files that rank above one of this delivery.

        They are in quarantine as `unchanged`. The stored row stands for them with a rank that may be lower than theirs; without
        them a row that comes late, of a rank in between, would win where it should lose.
        """
        lowest = min(dedupe.rank_of(file.path) for file in self.manifest.files)
        later = [path for path in self._taken if dedupe.rank_of(path) > lowest]
        if not later or not self.source.key:
            return None
        schema = StructType(
            [
                StructField(spec.header or name, DataType.fromDDL(spec.type))
                for name, spec in self.source.columns.items()
            ]
        )
        base = self.run.lake.read(self.quarantine, self.manifest.base[self.quarantine.table])
        equal = base.filter((F.col("kind") == "unchanged") & F.col(_FILE).isin(later))
        in_force = F.try_element_at(self._attempt_of_delivery(), F.col(_DELIVERY)) == F.col("_attempt")
        rows = equal.filter(in_force).select(F.from_json("raw", schema, _JSON).alias("row"), _FILE, _DELIVERY)
        names = [F.col("row")[spec.header or name].alias(name) for name, spec in self.source.columns.items()]
        frame = with_derived(rows.select(*names, _FILE, _DELIVERY), self.source)
        return self._dated(frame, F.expr(self.source.at) if self.source.at else None).select(*self.silver.columns)

    def _attempt_of_delivery(self) -> Column:
        return F.create_map(*(F.lit(value) for pair in self._attempts.items() for value in pair))

    def _quarantine(self, rows: DataFrame, part: str) -> None:
        attempt = self._attempt_of_delivery()[F.col(_DELIVERY)]
        rows = rows.withColumns({"rules": F.lit(rules_fingerprint(self.source)), "_attempt": attempt})
        commit = self.run.lake.append(rows, self.quarantine, self._transaction(self.quarantine, part))
        self._versions[self.quarantine.table] = commit.version

    def _neighbours(self, stored: DataFrame, rows: DataFrame) -> DataFrame:
        """The stored rows that may share a key with `rows`: where the key determines the date, those of the same dates."""
        if not self.source.at or not _determines_date(self.source):
            return stored
        dates = self._dates(rows)
        return stored.filter(dates.replace("target.", "")) if dates else stored

    def _dates(self, rows: DataFrame) -> str | None:
        """SQL for the literal range of dates of rows, that lets Delta skip files; None without dates."""
        if EVENT_DATE not in self.silver.columns:
            return None
        span = rows.agg(F.min(EVENT_DATE).alias("first"), F.max(EVENT_DATE).alias("last")).first()
        if span is None or span["first"] is None:
            return None
        column = f"target.{EVENT_DATE}"
        return f"({column} IS NULL OR {column} BETWEEN DATE'{span['first']}' AND DATE'{span['last']}')"

    def _of(self, rows: DataFrame, contested: DataFrame, how: str) -> DataFrame:
        """The rows whose key is among the contested (`left_semi`) or is not (`left_anti`)."""
        return rows.withColumn(HASH, dedupe.key_hash(self.silver)).join(contested, HASH, how).drop(HASH)

    def _kept(self, frame: DataFrame) -> DataFrame:
        return self._until_taken.enter_context(kept(frame))

    def _transaction(self, contract: Contract, part: str) -> Transaction:
        return self.manifest.transaction(contract, part)


def _determines_date(source: Source) -> bool:
    """Whether `at` is computed from key columns alone, so that equal keys have equal dates."""
    known = {name.lower() for name in source.key}
    for name, expression in source.derive.items():
        if mentioned(expression) <= known:
            known.add(name.lower())
    return bool(source.at) and mentioned(source.at or "") <= known
