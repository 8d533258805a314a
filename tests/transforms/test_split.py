"""Membership in parts and folds: by time against a loop in Python, by hash for what it promises."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from conf.schema import Split
from transforms import split
from transforms.errors import ContractError

BERLIN = "Europe/Berlin"
RUN_DATE = date(2024, 4, 10)
MARCH = datetime(2024, 3, 1, tzinfo=UTC)
SCHEMA = "key string, shop string, as_of timestamp, label double, label_known_at timestamp"

Row = tuple[str, str | None, datetime | None, float | None, datetime | None]


def split_of(**values: Any) -> Split:
    return Split.model_validate(values)


def rows_of(seed: int, count: int = 400) -> list[Row]:
    """Decisions every few hours of March, labels known up to three days later, some never."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for number in range(count):
        as_of = MARCH + timedelta(hours=rng.randrange(0, 31 * 24, 3))
        known = as_of + timedelta(hours=rng.randrange(0, 72))
        label = rng.choice([0.0, 1.0, 1.0, 1.0, None])
        rows.append((f"k{number}", rng.choice(["a", "b", "c", "d", "e", None]), as_of, label, known))
    return rows


def frame(spark: SparkSession, rows: Sequence[Row], partitions: int = 3) -> DataFrame:
    return spark.createDataFrame(spark.sparkContext.parallelize(list(rows), partitions), SCHEMA)


def members(
    labelled: DataFrame, spec: Split, run_date: date = RUN_DATE
) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]]:
    """Key -> (part, fold, train_from), and the summary."""
    cut = split.boundaries(labelled, spec, key=["key"], timezone=BERLIN, run_date=run_date)
    made = split.membership(labelled, spec, cut, key=["key"])
    return {row["key"]: (row["part"], row["fold"], row["train_from"]) for row in made.collect()}, split.summary(
        made, spec, cut
    )


@pytest.mark.parametrize("gap", [None, "30 hours"])
def test_time_folds_train_on_the_past_only_and_every_row_has_its_first_fold(
    spark: SparkSession, gap: str | None
) -> None:
    """Test part from a local midnight, purge at every start, blocks of equal span: each row as a loop over definitions says."""
    rows = rows_of(1)
    spec = split_of(test={"from": date(2024, 3, 25)}, folds={"kind": "time", "count": 3, "gap": gap})
    found, summary = members(frame(spark, rows), spec)

    start, length = datetime(2024, 3, 24, 23, tzinfo=UTC), timedelta(hours=30 if gap else 0)
    labelled = [row for row in rows if row[3] is not None]
    train = [row for row in labelled if row[4] < start - length and row[2] < start]
    first, span = min(row[2] for row in train), max(row[2] for row in train) - min(row[2] for row in train)
    edges = [first + span * i / 4 for i in range(5)]
    expected: dict[str, tuple[Any, ...]] = {}
    for key, _, as_of, _, known in labelled:
        if as_of >= start:
            expected[key] = ("test", -1, None)
        elif known >= start - length:
            expected[key] = ("purged", -1, None)
        else:
            block = max(i for i in range(4) if as_of >= edges[i])
            later = [k for k in range(3) if edges[k + 1] - length > known]
            expected[key] = ("train", block - 1, later[0] if later else None)
    assert found == expected
    assert {part for part, _, _ in expected.values()} == {"train", "test", "purged"}
    assert summary["parts"] == dict(Counter(part for part, _, _ in expected.values()))
    assert summary["test_start"] == "2024-03-24T23:00:00+00:00"
    assert summary["folds"] == [
        {
            "fold": k,
            "train": sum(part == "train" and since is not None and since <= k for part, _, since in expected.values()),
            "validation": sum(fold == k for _, fold, _ in expected.values()),
            "start": edges[k + 1].isoformat(),
            "end": edges[k + 2].isoformat(),
        }
        for k in range(3)
    ]


def test_last_counts_days_back_on_the_calendar_and_hours_as_they_pass(spark: SparkSession) -> None:
    """The clocks of Berlin went forward on 31 March 2024: 10 days before 10 April begin at another hour of UTC than 240 hours."""
    run_date = date(2024, 4, 5)
    for last, expected in (
        ("10 days", datetime(2024, 3, 25, 23, tzinfo=UTC)),
        ("250 hours", datetime(2024, 3, 25, 12, tzinfo=UTC)),
    ):
        spec = split_of(test={"last": last})
        assert split.test_start(spec.test, timezone=BERLIN, run_date=run_date) == expected


def test_a_row_on_the_very_start_is_a_test_row_and_a_label_known_on_it_is_purged(spark: SparkSession) -> None:
    """Both sides of the boundary, to the microsecond."""
    start, tick, day = datetime(2024, 3, 24, 23, tzinfo=UTC), timedelta(microseconds=1), timedelta(days=1)
    rows: list[Row] = [
        ("on", None, start, 1.0, start + day),
        ("before", None, start - tick, 1.0, start + day),
        ("known_on", None, start - day, 1.0, start),
        ("known_before", None, start - day, 0.0, start - tick),
        ("never_known", None, start - day, 0.0, None),
        ("unlabelled", None, start - day, None, None),
        ("early", None, start - 9 * day, 0.0, start - 8 * day),
    ]
    spec, labelled = split_of(test={"from": date(2024, 3, 25)}), frame(spark, rows)
    cut = split.boundaries(labelled, spec, key=["key"], timezone=BERLIN, run_date=RUN_DATE)
    made = split.membership(labelled, spec, cut, key=["key"])
    assert {row["key"]: row["part"] for row in made.collect()} == {
        "on": "test",
        "before": "purged",
        "known_on": "purged",
        "known_before": "train",
        "never_known": "purged",
        "early": "train",
    }


def test_random_membership_depends_on_key_and_salt_alone(spark: SparkSession) -> None:
    """Fewer rows, other partitions, another order: the same row keeps its place; another salt moves it."""
    rows = rows_of(2, 1500)
    spec = split_of(test={"share": 0.3}, folds={"kind": "random", "count": 4})
    found, summary = members(frame(spark, rows), spec)
    some = rows[::-2]
    again, _ = members(frame(spark, some, partitions=7), spec)
    assert again == {row[0]: found[row[0]] for row in some if row[3] is not None}
    salted, _ = members(
        frame(spark, rows), split_of(test={"share": 0.3}, folds={"kind": "random", "count": 4}, salt="other")
    )
    assert salted != found

    labelled = sum(row[3] is not None for row in rows)
    assert sum(summary["parts"].values()) == len(found) == labelled
    assert abs(summary["parts"]["test"] / labelled - 0.3) < 0.04
    train = [value for value in found.values() if value[0] == "train"]
    assert all(fold in range(4) and since is None for _, fold, since in train)
    assert all(abs(fold["validation"] / len(train) - 0.25) < 0.05 for fold in summary["folds"])
    assert all(fold["train"] + fold["validation"] == len(train) for fold in summary["folds"])


def test_membership_reads_an_int_and_a_long_key_alike(spark: SparkSession) -> None:
    """A key column that a later delivery widens keeps its rows where they were."""
    spec = split_of(test={"share": 0.5})
    parts = []
    for kind in ("int", "long"):
        schema = SCHEMA.replace("key string", f"key {kind}")
        rows = spark.createDataFrame([(n, None, MARCH, 1.0, MARCH) for n in range(40)], schema).repartition(2)
        cut = split.boundaries(rows, spec, key=["key"], timezone=BERLIN, run_date=RUN_DATE)
        parts.append(
            {row["key"]: (row["part"], row["fold"]) for row in split.membership(rows, spec, cut, key=["key"]).collect()}
        )
    assert parts[0] == parts[1]


def test_rows_of_one_group_stay_together(spark: SparkSession) -> None:
    """Grouped folds and a grouped share: all rows of a shop in one part and one fold, a null shop too; the two hashes differ."""
    rng = random.Random(3)
    shops: list[str | None] = [f"s{n}" for n in range(60)] + [None]
    rows: list[Row] = [(f"k{n}", rng.choice(shops), MARCH, 1.0, MARCH) for n in range(900)]
    spec = split_of(test={"share": 0.3, "by": ["shop"]}, folds={"kind": "grouped", "by": ["shop"], "count": 3})
    found, summary = members(frame(spark, rows), spec)
    places = {shop: {found[row[0]] for row in rows if row[1] == shop} for shop in shops}
    assert all(len(place) == 1 for place in places.values())
    assert 5 < sum(next(iter(place))[0] == "test" for place in places.values()) < 30
    assert all(fold["validation"] for fold in summary["folds"])


def test_stratified_folds_share_each_class_equally(spark: SparkSession) -> None:
    """A rare class as evenly as a common one; the summary names the worst deviation."""
    rng = random.Random(4)
    rows: list[Row] = [
        (f"k{n}", None, MARCH, rng.choices([0.0, 1.0, 2.0], [0.9, 0.09, 0.01])[0], MARCH) for n in range(4000)
    ]
    spec = split_of(test={"share": 0.2}, folds={"kind": "stratified", "count": 5})
    found, summary = members(frame(spark, rows), spec)
    labels = {row[0]: row[3] for row in rows}
    deviations = []
    for label in (0.0, 1.0, 2.0):
        folds = [fold for key, (part, fold, _) in found.items() if part == "train" and labels[key] == label]
        counts = [folds.count(fold) for fold in range(5)]
        assert max(counts) - min(counts) <= 2
        deviations += [abs(count / len(folds) - 0.2) for count in counts]
    assert summary["worst_deviation"] == pytest.approx(max(deviations))
    shuffled, _ = members(frame(spark, rows[::-1], partitions=7), spec)
    assert shuffled == found


def test_stratified_folds_of_a_number_are_refused(spark: SparkSession) -> None:
    """Labels that are all different are no classes."""
    rows: list[Row] = [(f"k{n}", None, MARCH, n / 7, MARCH) for n in range(300)]
    with pytest.raises(ContractError) as error:
        members(frame(spark, rows), split_of(test={"share": 0.2}, folds={"kind": "stratified"}))
    assert str(error.value) == (
        "split.folds.kind: stratified folds need classes, found more than 200 different labels. Use kind: random."
    )


def test_empty_parts_and_folds_are_refused_with_the_cure(spark: SparkSession) -> None:
    """No training row, no test row, a stretch of time without rows: one sentence each."""
    day = timedelta(days=1)
    rows: list[Row] = [(f"k{n}", None, MARCH + n * day, 1.0, MARCH + (n + 2) * day) for n in range(10)]
    labelled = frame(spark, rows).cache()

    def refusal(run_date: date = RUN_DATE, **spec: Any) -> list[str]:
        with pytest.raises(ContractError) as error:
            members(labelled, split_of(**spec), run_date)
        return list(error.value.problems)

    assert refusal(test={"from": date(2024, 1, 1)}, folds={"kind": "time"}) == [
        "split.test: expected labelled rows to train on, found 0 to train on, 10 to test on and 0 purged; the test part starts at"
        " 2023-12-31T23:00:00+00:00. Start the test part later, or shorten split.folds.gap."
    ]
    assert refusal(test={"from": date(2025, 1, 1)}) == [
        "split.test: expected labelled rows to test on, found 10 to train on, 0 to test on and 0 purged; the test part starts at"
        " 2024-12-31T23:00:00+00:00. Start it earlier, or use a later --run-date."
    ]
    assert refusal(test={"share": 1e-9}) == [
        "split.test: expected labelled rows to test on, found 10 to train on, 0 to test on and 0 purged; share is 1e-09."
        " Raise the share, or hash by a column with more values."
    ]
    assert refusal(test={"from": date(2024, 3, 10)}, folds={"kind": "time", "count": 3, "gap": "1 day"}) == [
        f"split.folds: fold {fold} of 3 has no labelled row to train on. Choose a smaller split.folds.count or a shorter split.folds.gap."
        for fold in (0, 1)
    ]
    assert refusal(test={"from": date(2024, 3, 6)}, folds={"kind": "time", "count": 3}) == [
        f"split.folds: fold {fold} of 3 has no labelled row to {missing} on. Choose a smaller split.folds.count."
        for fold, missing in [(0, "train or to validate"), (1, "train"), (2, "train")]
    ]
