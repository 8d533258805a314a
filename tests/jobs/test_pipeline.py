"""All jobs in order: which of them a run needs."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from pyspark.sql import SparkSession

from conf.schema import Environment
from jobs import pipeline
from jobs.lake import Lake
from jobs.runs import Ledger, Run, Stage
from tests.jobs import shop
from tests.jobs.told import Told


def run_on(spark: SparkSession, root: str, day: date, every: str | None, *, force: bool = False) -> Run:
    train = {"metric": "area_under_roc", "candidates": {"l": {"estimator": "logistic_regression"}}, "every": every}
    lake = Lake(spark, root)
    ledger = Ledger(lake, "shop")
    return Run(spark, shop.pipeline("shop", train=train), Environment(lake=root), lake, ledger, day, force, Told())


@pytest.fixture(scope="module")
def trained(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake whose ledger says that training ran on the first of March and, later, on the fifteenth of April."""
    root = str(tmp_path_factory.mktemp("trained"))
    ledger = run_on(spark, root, date(2024, 3, 1), None).ledger
    for day in (date(2024, 3, 1), date(2024, 4, 15)):
        ledger.record(
            Stage("train", day, "f", 1, {}, {}, 1, 1, 1.0, {}, "c", datetime(2024, 5, 1, day.month, tzinfo=UTC))
        )
    return root


@pytest.mark.parametrize(
    ("day", "every", "force", "due", "said"),
    [
        ("2024-03-08", None, False, True, []),
        (
            "2024-03-07",
            "7 days",
            False,
            False,
            ["train: trained on 2024-03-01, due again on 2024-03-08; the champion scores"],
        ),
        ("2024-03-07", "7 days", True, True, []),
        ("2024-03-08", "7 days", False, True, []),
        ("2024-03-01", "7 days", False, True, []),  # the same day again: what was done is found
        ("2024-04-15", "7 days", False, True, []),
        ("2024-02-01", "7 days", False, True, []),  # a backfill: no model was there yet
        ("2024-04-01", "30 days", False, True, []),
    ],
)
def test_a_run_trains_when_it_is_due(
    spark: SparkSession, trained: str, day: str, every: str | None, force: bool, due: bool, said: list[str]
) -> None:
    """Counted in run dates from the last training before this one, whatever was trained later."""
    run = run_on(spark, trained, date.fromisoformat(day), every, force=force)

    assert pipeline._is_due(run) is due
    assert isinstance(run.progress, Told)
    assert run.progress.messages == said
