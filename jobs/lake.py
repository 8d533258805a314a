"""The only Delta reader and writer: tables by contract, exact versions, one transaction id per write.

A write that was already committed under its transaction id is not repeated: `Commit.skipped` says so, and its version and
metadata are those of the first time. That is what makes a killed job safe to start again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from jobs.storage import is_missing_file
from transforms.contracts import Contract, key_condition
from transforms.errors import ContractError

# 400 days of log, or the versions behind an old model could no longer be read whatever VACUUM keeps (Delta's default is 30).
PROPERTIES = {
    "delta.logRetentionDuration": "interval 400 days",
    "delta.deletedFileRetentionDuration": "interval 7 days",
}


@dataclass(frozen=True)
class Transaction:
    """Identity of one write: `app_id` names job, table and inputs; `version` is the attempt, since RESTORE does not undo an id."""

    app_id: str
    version: int


@dataclass(frozen=True)
class Commit:
    """What a write left behind. `rows` is Delta's own count of rows written (inserted + updated for a merge)."""

    table: str
    version: int
    rows: int | None
    skipped: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, int] = field(default_factory=dict)


class Lake:
    """Tables under one root folder, by contract."""

    def __init__(self, spark: SparkSession, root: str, may_commit: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            may_commit: called before each write; it raises when this run must not write any more.
        """
        self.spark = spark
        self.root = root.rstrip("/")
        self.may_commit = may_commit

    def path(self, contract: Contract) -> str:
        return f"{self.root}/{contract.table}"

    def version(self, contract: Contract) -> int | None:
        """Latest version of the table, None when there is no table."""
        version = int(self._snapshot(contract.table).version())
        return None if version < 0 else version

    def size(self, table: str) -> int:
        """Bytes of the files of a table's latest version, 0 when there is no table."""
        return int(self._snapshot(table).sizeInBytes())

    def create(self, contract: Contract) -> int:
        """Create the table with its contract, or check that the one there has it; returns the latest version.

        Raises:
            ContractError: a table lies there with other columns.
        """
        snapshot = self._snapshot(contract.table)
        if snapshot.version() >= 0:
            contract.check(StructType.fromJson(json.loads(snapshot.schema().json())))
            return int(snapshot.version())
        self.may_commit()
        builder = DeltaTable.createIfNotExists(self.spark).location(self.path(contract)).addColumns(contract.schema)
        for name, value in PROPERTIES.items():
            builder = builder.property(name, value)
        if contract.statistics:
            builder = builder.property("delta.dataSkippingStatsColumns", ",".join(contract.statistics))
        if contract.partition_by:
            builder = builder.partitionedBy(*contract.partition_by)
        if contract.cluster_by:
            builder = builder.clusterBy(*contract.cluster_by)
        builder.execute()
        return 0

    def read(self, contract: Contract, version: int | None = None) -> DataFrame:
        """The table at exactly `version` (None: the latest), in contract order.

        Raises:
            ContractError: there is no such table or version, or it has other columns.
        """
        latest = self.version(contract)
        if latest is None:
            raise ContractError(
                f"{self.path(contract)}: expected a Delta table, found none. Run the job that writes it first."
            )
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        try:
            frame = reader.load(self.path(contract))
        except PySparkException as error:
            raise ContractError(
                f"{self.path(contract)}: version {version} cannot be read (the latest is {latest}): {error.getCondition()}."
                " Its log or files are gone; run the job that wrote it with --force."
            ) from error
        return contract.conform(frame)

    def changed(self, contract: Contract, before: int, after: int) -> DataFrame:
        """Rows that one of two versions has and the other has not, as often as they are more; columns that begin with `_` left out.

        Only files that one version alone consists of are read: an append makes new ones, a merge writes some anew.
        """
        versions = [self.read(contract, version) for version in (before, after)]
        files = [set(frame.inputFiles()) for frame in versions]
        columns = [name for name in contract.columns if not name.startswith("_")]
        left, right = (self._rows_of(contract, own - other).select(*columns) for own, other in (files, reversed(files)))
        return right if files[0] <= files[1] else left.exceptAll(right).unionAll(right.exceptAll(left))

    def _rows_of(self, contract: Contract, files: Iterable[str]) -> DataFrame:
        """The rows of some files of a table."""
        paths = sorted(unquote(file) for file in files)
        if not paths:
            return self.spark.createDataFrame([], contract.schema)
        # Tables have neither deletion vectors nor renamed columns: a file holds the rows as they are, but for partition columns.
        return self.spark.read.schema(contract.schema).option("basePath", self.path(contract)).parquet(*paths)

    def committed(self, contract: Contract, transaction: Transaction) -> Commit | None:
        """The commit that this transaction left, None when it was never committed.

        Asked of the table's stored transactions, not of the last history row: later commits may follow ours.
        """
        return self._committed(contract, transaction, self._snapshot(contract.table))

    def _committed(self, contract: Contract, transaction: Transaction, snapshot: Any) -> Commit | None:
        stored = self._stored(contract, transaction.app_id, snapshot)
        if stored is None or stored < transaction.version:
            return None
        commit = self._commit_of(contract, transaction)
        if commit is not None:
            return replace(commit, skipped=True)
        raise ContractError(
            f"{self.path(contract)}: transaction {transaction.app_id} stands at attempt {stored}, expected attempt"
            f" {transaction.version} in the table's history and found none. Use --force to start a new attempt."
        )

    def append(
        self, frame: DataFrame, contract: Contract, transaction: Transaction, metadata: Mapping[str, Any] | None = None
    ) -> Commit:
        """Add rows, once per transaction."""
        return self._write(frame, contract, transaction, metadata, "Append")

    def replace(
        self,
        frame: DataFrame,
        contract: Contract,
        transaction: Transaction,
        metadata: Mapping[str, Any] | None = None,
        *,
        new_columns: bool = False,
        where: str | None = None,
    ) -> Commit:
        """Make the table hold exactly these rows, once per transaction; older versions stay readable.

        Args:
            new_columns: the table may have other columns before; afterwards it has the contract's.
            where: SQL that is true of all these rows; only rows that meet it are replaced, others stay. None: all.
        """
        return self._write(frame, contract, transaction, metadata, "Overwrite", new_columns=new_columns, where=where)

    def merge(
        self,
        frame: DataFrame,
        contract: Contract,
        transaction: Transaction,
        metadata: Mapping[str, Any] | None = None,
        *,
        update: str | None = None,
        on: str | None = None,
    ) -> Commit:
        """Insert rows with new keys; rows with known keys replace the stored ones.

        Args:
            frame: at most one row per key.
            update: SQL over `target` and `source` that a stored row must meet to be replaced (None: always).
            on: further SQL for the match, say literal dates that let Delta skip files.
        """
        self.create(contract)
        earlier = self.committed(contract, transaction)
        if earlier:
            return earlier
        condition = key_condition(contract.key, "target", "source")
        if on:
            condition = condition & F.expr(on)
        self.may_commit()
        session = self._transactional_session(transaction, metadata)
        builder = DeltaTable.forPath(session, self.path(contract)).alias("target")
        (
            builder.merge(contract.conform(frame).alias("source"), condition)
            .whenMatchedUpdateAll(update)
            .whenNotMatchedInsertAll()
            .execute()
        )
        return self._latest(contract, transaction)

    def delete(
        self, contract: Contract, condition: str, transaction: Transaction, metadata: Mapping[str, Any] | None = None
    ) -> Commit:
        """Remove the rows that meet a SQL condition, once per transaction."""
        earlier = self.committed(contract, transaction)
        if earlier:
            return earlier
        self.may_commit()
        session = self._transactional_session(transaction, metadata)
        DeltaTable.forPath(session, self.path(contract)).delete(condition)
        return self._latest(contract, transaction)

    def restore(self, contract: Contract, version: int) -> int:
        """Bring back the content of an older version as a new one; returns the new version."""
        self.may_commit()
        DeltaTable.forPath(self.spark, self.path(contract)).restoreToVersion(version)
        return int(self._snapshot(contract.table).version())

    def _write(
        self,
        frame: DataFrame,
        contract: Contract,
        transaction: Transaction,
        metadata: Mapping[str, Any] | None,
        mode: str,
        *,
        new_columns: bool = False,
        where: str | None = None,
    ) -> Commit:
        if not new_columns or self.version(contract) is None:
            self.create(contract)
        snapshot = self._snapshot(contract.table)
        earlier = self._committed(contract, transaction, snapshot)
        if earlier:
            return earlier
        self.may_commit()
        options = {
            "txnAppId": transaction.app_id,
            "txnVersion": str(transaction.version),
            "userMetadata": _metadata(transaction, metadata),
            **({"overwriteSchema": "true"} if new_columns else {}),
            **({"replaceWhere": where} if where is not None else {}),
        }
        self._commit(contract.conform(frame), contract, mode, options, snapshot)
        return self._latest(contract, transaction)

    def _commit(
        self, frame: DataFrame, contract: Contract, mode: str, options: Mapping[str, str], snapshot: Any
    ) -> None:
        """What `frame.write.format("delta").options(...).save(...)` does, but for its look whether the transaction was committed.

        Delta rebuilds the table's state for it, two thirds of the time of a small commit; `_stored` has looked into this snapshot.
        The id counts as read, so that Delta refuses the commit when somebody has committed the same id since.
        """
        jvm, session, none = self._jvm, self.spark._jsparkSession, self._jvm.scala.Option.empty()
        delta, scala = jvm.org.apache.spark.sql.delta, jvm.org.apache.spark.api.python.PythonUtils
        log, save_mode = self._log(contract.table), getattr(jvm.org.apache.spark.sql.SaveMode, mode)
        given = delta.DeltaOptions(scala.toScalaMap(dict(options)), session.sessionState().conf())
        # Under an overwritten schema Delta takes the writer's partition columns, none meaning none.
        partitions = scala.toSeq(list(contract.partition_by) if "overwriteSchema" in options else [])
        command = delta.commands.WriteIntoDelta(
            log, save_mode, given, partitions, scala.toScalaMap({}), frame._jdf, none, none, False
        )
        transaction = log.startTransaction(none, jvm.scala.Some(snapshot))
        transaction.readTxn().append(options["txnAppId"])
        written = command.writeAndReturnCommitData(transaction, session, none, False)
        operation = getattr(delta, "DeltaOperations$Write")(
            save_mode, none, given.replaceWhere(), given.userMetadata(), none, none, none, none, none
        )
        transaction.commitIfNeeded(written.actions(), operation, written.stringTags())

    def _transactional_session(self, transaction: Transaction, metadata: Mapping[str, Any] | None) -> SparkSession:
        """MERGE and DELETE take their transaction from session settings; a session of their own keeps those from leaking."""
        session = self.spark.newSession()
        session.conf.set("spark.databricks.delta.write.txnAppId", transaction.app_id)
        session.conf.set("spark.databricks.delta.write.txnVersion", str(transaction.version))
        session.conf.set("spark.databricks.delta.commitInfo.userMetadata", _metadata(transaction, metadata))
        return session

    def _latest(self, contract: Contract, transaction: Transaction) -> Commit:
        """The commit just made: the last one, unless another writer's followed at once."""
        commit = self._commit_of(contract, transaction)
        if commit is None:
            raise ContractError(
                f"{self.path(contract)}: transaction {transaction.app_id} was written but is not in the log."
            )
        return commit

    def _commit_of(self, contract: Contract, transaction: Transaction) -> Commit | None:
        wanted = (transaction.app_id, transaction.version)
        for commit in self._commits(contract):
            if (commit.metadata.get("app_id"), commit.metadata.get("attempt")) == wanted:
                return commit
        return None

    def _commits(self, contract: Contract) -> Iterator[Commit]:
        """What the log says of each version, the newest first. `DeltaTable.history` would start a Spark job for it."""
        log, jvm = self._log(contract.table), self._jvm
        conf, newest = log.newDeltaHadoopConf(), int(self._snapshot(contract.table).version())
        for version in range(newest, -1, -1):
            file = jvm.org.apache.spark.sql.delta.util.FileNames.unsafeDeltaFile(log.logPath(), version)
            try:
                found = jvm.org.apache.spark.sql.delta.DeltaHistoryManager.getCommitInfoOpt(log.store(), file, conf)
            except Py4JJavaError as error:
                if is_missing_file(self.spark, error):
                    return  # older versions have left the log
                raise
            if found.isDefined():
                yield _as_commit(contract, version, found.get(), jvm)

    def _stored(self, contract: Contract, app_id: str, snapshot: Any) -> int | None:
        """Version of the last transaction with this id up to a snapshot.

        From the checksum file beside the log (PROTOCOL.md, "Version Checksum File"): the snapshot would read and sort the whole
        log for it. Of a table with more than `setTransactionsInCrc.maxAllowed` ids the checksum does not say.
        """
        log = self._log(contract.table)
        file = self._jvm.org.apache.spark.sql.delta.util.FileNames.checksumFile(log.logPath(), snapshot.version())
        try:
            checksum = json.loads(log.store().read(file, log.newDeltaHadoopConf()).mkString())
        except Py4JJavaError as error:
            if not is_missing_file(self.spark, error):
                raise
            checksum = {}
        if "setTransactions" in checksum:
            return next((known["version"] for known in checksum["setTransactions"] if known["appId"] == app_id), None)
        stored = snapshot.transactions().get(app_id)
        return None if stored.isEmpty() else int(stored.get())

    def _snapshot(self, table: str) -> Any:
        """Delta's own snapshot object, brought up to date. Python's DeltaTable shows no stored transactions, hence the JVM."""
        none = self._jvm.scala.Option.empty()
        return self._log(table).update(False, none, none)

    def _log(self, table: str) -> Any:
        return self._jvm.org.apache.spark.sql.delta.DeltaLog.forTable(self.spark._jsparkSession, f"{self.root}/{table}")

    @property
    def _jvm(self) -> Any:
        return self.spark._jvm


def _metadata(transaction: Transaction, metadata: Mapping[str, Any] | None) -> str:
    return json.dumps(
        {**(metadata or {}), "app_id": transaction.app_id, "attempt": transaction.version}, sort_keys=True
    )


def _as_commit(contract: Contract, version: int, info: Any, jvm: Any) -> Commit:
    """From Delta's CommitInfo."""
    text, measured = info.userMetadata(), info.operationMetrics()
    metadata = json.loads(text.get()) if text.isDefined() else {}
    pairs = jvm.scala.jdk.javaapi.CollectionConverters.asJava(measured.get()) if measured.isDefined() else {}
    metrics = {str(name): int(value) for name, value in pairs.items() if value.lstrip("-").isdigit()}
    if "numTargetRowsInserted" in metrics:
        rows: int | None = metrics["numTargetRowsInserted"] + metrics.get("numTargetRowsUpdated", 0)
    else:
        rows = metrics.get("numOutputRows")
    return Commit(contract.table, version, rows, metadata=metadata, metrics=metrics)
