"""Which part and which folds a labelled row belongs to: by time, or by a hash of its key.

A hash depends on the values of the key and on the salt alone, so membership is the same however the rows are partitioned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from itertools import accumulate
from operator import add
from typing import Any
from zoneinfo import ZoneInfo

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import TimestampType

from conf.schema import Split, TestPart
from transforms.errors import ContractError
from transforms.instants import from_micros, micros, start_of_day

PART, FOLD, TRAIN_FROM = "part", "fold", "train_from"
TRAIN, TEST, PURGED = "train", "test", "purged"

_BUCKETS = 4096
_MOST_CLASSES = 200
_NEVER = (1 << 63) - 1


@dataclass(frozen=True)
class Boundaries:
    """Where parts and folds are cut, computed once from the labelled rows. Moments are microseconds since 1970.

    `test_start` is None for a test part by share; `edges` are the `count` + 2 edges of the blocks of time folds; `cuts` are, for
    each label of stratified folds, the hash buckets at which fold 1, 2, ... begin.
    """

    test_start: int | None = None
    edges: tuple[int, ...] = ()
    cuts: Mapping[float, tuple[int, ...]] | None = None

    def starts(self) -> tuple[int, ...]:
        """Start of each time fold: the block before fold 0 is never validated on."""
        return self.edges[1:-1]


def test_start(test: TestPart, *, timezone: str, run_date: date) -> datetime | None:
    """First moment of a test part by time: the start of `from`, or `last` before the start of the run date; None for a share.

    Whole days are counted on the calendar of `timezone`, anything shorter as elapsed time.
    """
    if test.start is not None:
        return start_of_day(test.start, timezone)
    if test.last is None:
        return None
    if test.last.length % timedelta(days=1):
        return start_of_day(run_date, timezone) - test.last.length
    midnight = datetime(run_date.year, run_date.month, run_date.day, tzinfo=ZoneInfo(timezone))
    return (midnight - test.last.length).astimezone(UTC)


def boundaries(labelled: DataFrame, split: Split, *, key: Sequence[str], timezone: str, run_date: date) -> Boundaries:
    """Compute the cuts of parts and folds.

    Args:
        labelled: key, `as_of`, `label`, `label_known_at` and the columns of every `by`; rows without a label do not count.
        key: columns that a row is hashed by where `by` names none.

    Raises:
        ContractError: stratified folds over labels that are no classes.
    """
    start = test_start(split.test, timezone=timezone, run_date=run_date)
    cut = Boundaries(None if start is None else micros(start))
    if split.folds.kind not in ("time", "stratified"):
        return cut
    train = _with_part(_labelled(labelled), split, cut, key).where(F.col(PART) == TRAIN)
    if split.folds.kind == "stratified":
        return Boundaries(cut.test_start, cuts=_cuts(train, split, key))
    span = train.agg(F.min(F.unix_micros("as_of")).alias("first"), F.max(F.unix_micros("as_of")).alias("last")).head()
    assert span is not None
    if span["first"] is None:
        return cut  # `summary` says why there is nothing to train on
    blocks = split.folds.count + 1
    return Boundaries(
        cut.test_start, tuple(span["first"] + (span["last"] - span["first"]) * i // blocks for i in range(blocks + 1))
    )


def membership(labelled: DataFrame, split: Split, cut: Boundaries, *, key: Sequence[str]) -> DataFrame:
    """One row per labelled row: all columns of `labelled`, and `part`, `fold`, `train_from`.

    By time, a row is a test row from the first moment of the test part on; a row before it is purged unless its label was
    known before that moment minus the gap. Time folds: the training rows' span of `as_of` is cut in `count` + 1 blocks of equal
    length; fold k validates on block k + 1 and trains on the rows whose decision and label lie before the start of that
    block minus the gap, which holds for every fold from `train_from` on. Other folds: `train_from` is null, all others train.
    """
    rows = _with_part(_labelled(labelled), split, cut, key)
    train_from = F.lit(None).cast("int")
    if split.folds.kind == "time":
        starts = [start - _gap(split) for start in cut.starts()]
        # The first fold that starts (minus the gap) later than the row is settled is as many folds on as start before or at that.
        first = _reached(_settled(), starts)
        train_from = F.when(first < len(starts), first)
    is_train = F.col(PART) == TRAIN
    return rows.withColumns(
        {
            FOLD: F.when(is_train, _fold(rows, split, cut, key)).otherwise(-1).cast("int"),
            TRAIN_FROM: F.when(is_train, train_from).cast("int"),
        }
    )


def summary(members: DataFrame, split: Split, cut: Boundaries) -> dict[str, Any]:
    """Rows of each part and fold, the boundaries as text, and for stratified folds the worst deviation. JSON-able.

    `worst_deviation` is the largest distance, over classes and folds, of a fold's share of the class from 1 / count.

    Raises:
        ContractError: a part or a fold has no rows to train or to validate on; all are listed.
    """
    by_label = [members["label"]] if split.folds.kind == "stratified" else []
    counted = members.groupBy(PART, FOLD, TRAIN_FROM, *by_label).count().collect()
    parts = {part: sum(row["count"] for row in counted if row[PART] == part) for part in (TRAIN, TEST, PURGED)}
    train = [row for row in counted if row[PART] == TRAIN]
    folds: list[dict[str, Any]] = []
    for fold in range(split.folds.count):
        validation = sum(row["count"] for row in train if row[FOLD] == fold)
        if split.folds.kind == "time":
            fitted = sum(row["count"] for row in train if row[TRAIN_FROM] is not None and row[TRAIN_FROM] <= fold)
        else:
            fitted = parts[TRAIN] - validation
        folds.append({"fold": fold, "train": fitted, "validation": validation})
    _require_rows(parts, folds, split, cut)
    for entry, start, end in zip(folds, cut.starts(), cut.edges[2:], strict=False):
        entry.update(start=_text(start), end=_text(end))
    found: dict[str, Any] = {"parts": parts, "folds": folds}
    if cut.test_start is not None:
        found["test_start"] = _text(cut.test_start)
    if split.folds.kind == "stratified":
        found["worst_deviation"] = _worst_deviation(
            {(row["label"], row[FOLD]): row["count"] for row in train}, split.folds.count
        )
    return found


def _labelled(rows: DataFrame) -> DataFrame:
    return rows.where(F.col("label").isNotNull())


def _with_part(rows: DataFrame, split: Split, cut: Boundaries, key: Sequence[str]) -> DataFrame:
    if cut.test_start is None:
        is_test = _uniform(rows, split.test.by or key, split.salt, "test") < F.lit(split.test.share)
        return rows.withColumn(PART, F.when(is_test, TEST).otherwise(TRAIN))
    before = _settled() < cut.test_start - _gap(split)
    is_test = F.unix_micros("as_of") >= cut.test_start
    return rows.withColumn(PART, F.when(is_test, TEST).when(before, TRAIN).otherwise(PURGED))


def _settled() -> Column:
    """The moment from which a row may be learnt from: decided, and its label known; never where that is not known."""
    known = F.coalesce(F.unix_micros("label_known_at"), F.lit(_NEVER))
    return F.greatest(known, F.coalesce(F.unix_micros("as_of"), F.lit(_NEVER)))


def _fold(rows: DataFrame, split: Split, cut: Boundaries, key: Sequence[str]) -> Column:
    if split.folds.kind == "time":
        return _reached(F.unix_micros("as_of"), cut.starts()) - 1
    uniform = _uniform(rows, split.folds.by or key, split.salt, "fold")
    if cut.cuts is None:
        return F.floor(uniform * split.folds.count)
    fold = F.lit(None).cast("int")
    for label, starts in cut.cuts.items():
        fold = F.when(F.col("label") == label, _reached(F.floor(uniform * _BUCKETS), starts)).otherwise(fold)
    return fold


def _reached(value: Column, thresholds: Iterable[int]) -> Column:
    """How many of the thresholds are not above the value."""
    return reduce(add, ((value >= threshold).cast("int") for threshold in thresholds), F.lit(0))


def _cuts(train: DataFrame, split: Split, key: Sequence[str]) -> dict[float, tuple[int, ...]]:
    """Hash buckets at which folds begin, so that each fold gets an equal share of each label.

    A total order of a class would need one task for it; counts per hash bucket are small, and cutting between buckets misses
    equal shares by half a bucket at most.
    """
    bucket = F.floor(_uniform(train, key, split.salt, "fold") * _BUCKETS).alias("bucket")
    labels = train.select("label").distinct().limit(_MOST_CLASSES + 1).count()
    if labels > _MOST_CLASSES:
        raise ContractError(
            f"split.folds.kind: stratified folds need classes, found more than {_MOST_CLASSES} different labels. Use kind: random."
        )
    counts: dict[float, list[tuple[int, int]]] = {}
    for row in train.groupBy("label", bucket).count().orderBy("label", "bucket").collect():
        counts.setdefault(row["label"], []).append((row["bucket"], row["count"]))
    return {label: _equal_shares(buckets, split.folds.count) for label, buckets in counts.items()}


def _equal_shares(buckets: Sequence[tuple[int, int]], folds: int) -> tuple[int, ...]:
    """From (bucket, rows) in order: the bucket at which each fold but the first begins, nearest to equal shares."""
    before = list(accumulate((rows for _, rows in buckets), initial=0))
    edges = [*(bucket for bucket, _ in buckets), _BUCKETS]
    starts = []
    for fold in range(1, folds):
        target = before[-1] * fold / folds
        starts.append(edges[min(range(len(edges)), key=lambda edge: abs(before[edge] - target))])
    return tuple(starts)


def _uniform(rows: DataFrame, columns: Sequence[str], salt: str, purpose: str) -> Column:
    """A number in [0, 1) that depends on the values of `columns`, the salt and what it is for.

    Values are hashed as text, so that an int and a long of equal value agree; a null is a value of its own.
    """
    texts = []
    for name in columns:
        timestamp = isinstance(rows.schema[name].dataType, TimestampType)
        # A timestamp's own text would depend on the session's time zone.
        value = F.unix_micros(name) if timestamp else F.col(name)
        texts.append(F.coalesce(value.cast("string"), F.lit("\0")))
    hashed = F.xxhash64(F.lit(salt), F.lit(purpose), *texts)
    return F.shiftrightunsigned(hashed, 11) * F.lit(2.0**-53)


def _gap(split: Split) -> int:
    return split.folds.gap.seconds * 1_000_000 if split.folds.gap else 0


def _text(moment: int) -> str:
    return from_micros(moment).isoformat()


def _worst_deviation(counts: Mapping[tuple[float, int], int], folds: int) -> float:
    totals: dict[float, int] = {}
    for (label, _), rows in counts.items():
        totals[label] = totals.get(label, 0) + rows
    return max(
        abs(counts.get((label, fold), 0) / total - 1 / folds)
        for label, total in totals.items()
        for fold in range(folds)
    )


def _require_rows(parts: Mapping[str, int], folds: Sequence[Mapping[str, int]], split: Split, cut: Boundaries) -> None:
    problems = []
    by_time = cut.test_start is not None
    where = (
        f"the test part starts at {_text(cut.test_start)}"
        if cut.test_start is not None
        else f"share is {split.test.share}"
    )
    found = f"found {parts[TRAIN]} to train on, {parts[TEST]} to test on and {parts[PURGED]} purged; {where}"
    if not parts[TRAIN]:
        cure = (
            "Start the test part later, or shorten split.folds.gap."
            if by_time
            else "Lower the share, or hash by a column with more values."
        )
        problems.append(f"split.test: expected labelled rows to train on, {found}. {cure}")
    if not parts[TEST]:
        cure = (
            "Start it earlier, or use a later --run-date."
            if by_time
            else "Raise the share, or hash by a column with more values."
        )
        problems.append(f"split.test: expected labelled rows to test on, {found}. {cure}")
    if parts[TRAIN]:
        shorter = " or a shorter split.folds.gap" if split.folds.gap else ""
        for fold in folds:
            missing = [role for role, name in (("train", "train"), ("validate", "validation")) if not fold[name]]
            if missing:
                problems.append(
                    f"split.folds: fold {fold['fold']} of {split.folds.count} has no labelled row to {' or to '.join(missing)} on."
                    f" Choose a smaller split.folds.count{shorter}."
                )
    if problems:
        raise ContractError(problems)
