"""Promotion: the decision by itself, then on a real lake and MLflow, killed between its two writes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from pyspark.ml import PipelineModel
from pyspark.ml.feature import SQLTransformer
from pyspark.sql import SparkSession

from jobs import promote
from jobs.promote import Decision
from jobs.runs import Ledger
from models.registry import Registry
from tests.jobs import shop
from tests.jobs.shop import Shop
from transforms import contracts
from transforms.errors import ContractError, ModelError, RefusedError


def evaluation(value: float | None, standing: float | None = None, **more: Any) -> dict[str, Any]:
    metrics = {"area_under_roc": value, "log_loss": 0.5}
    of_champion = None if standing is None else {"area_under_roc": standing, "log_loss": 0.6}
    return {"model_version": 7, "metrics": metrics, "champion_metrics": of_champion, **more}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("changes", "details", "champion", "expected"),
    [
        (
            {},
            evaluation(0.71),
            None,
            Decision(
                7,
                None,
                7,
                True,
                "Version 7 is promoted: area_under_roc 0.71 on the test rows, and there was no champion.",
            ),
        ),
        (
            {},
            evaluation(0.59),
            None,
            Decision(
                7,
                None,
                None,
                False,
                "Version 7 is not promoted: it misses the floor (area_under_roc 0.59, expected at least 0.6).",
            ),
        ),
        (
            {"evaluate": {"floor": {"area_under_roc": 0.8, "log_loss": 0.4}}},
            evaluation(0.71, 0.5),
            3,
            Decision(
                7,
                3,
                3,
                False,
                "Version 7 is not promoted: it misses the floor (area_under_roc 0.71, expected at least 0.8; log_loss 0.5, expected at"
                " most 0.4).",
            ),
        ),
        (
            {},
            evaluation(0.71, 0.7),
            3,
            Decision(
                7,
                3,
                7,
                True,
                "Version 7 is promoted: area_under_roc 0.71 on the test rows is better than 0.7 of the champion, version 3.",
            ),
        ),
        (
            {},
            evaluation(0.7, 0.7, champion_trained_on_test_rows=True),
            3,
            Decision(
                7,
                3,
                3,
                False,
                "Version 7 is not promoted: area_under_roc 0.7 on the test rows is not better than 0.7 of the champion, version 3, which was trained on some of them.",
            ),
        ),
        (
            {"promote": {"beat_champion_by": 0.25}, "evaluate": {}},
            evaluation(0.75, 0.5),
            3,
            Decision(
                7,
                3,
                3,
                False,
                "Version 7 is not promoted: area_under_roc 0.75 on the test rows is not better by more than 0.25 than 0.5 of the champion,"
                " version 3.",
            ),
        ),
        (
            {"train": {"metric": "log_loss", "candidates": {"l": {"estimator": "logistic_regression"}}}},
            evaluation(0.71, 0.9),
            3,
            Decision(
                7,
                3,
                7,
                True,
                "Version 7 is promoted: log_loss 0.5 on the test rows is better than 0.6 of the champion, version 3.",
            ),
        ),
        ({}, evaluation(0.5, 0.7), 7, Decision(7, 7, 7, False, "Version 7 is champion already.")),
        (
            {},
            evaluation(0.71),
            3,
            Decision(
                7,
                3,
                7,
                True,
                "Version 7 is promoted: area_under_roc 0.71 on the test rows; the champion, version 3, was made for another feature table"
                " and cannot predict these rows.",
            ),
        ),
    ],
    ids=[
        "first",
        "floor",
        "floor_of_two",
        "better",
        "equal",
        "margin",
        "smaller_is_better",
        "itself",
        "other_features",
    ],
)
def test_the_decision(
    changes: dict[str, Any], details: dict[str, Any], champion: int | None, expected: Decision
) -> None:
    """Floor, champion, margin and the metric's direction, each with its sentence."""
    assert promote.decide(shop.pipeline("decide", **changes), details, champion) == expected


@pytest.mark.quick
@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_metric_that_was_not_measured_decides_nothing(value: float | None) -> None:
    """Neither a missing number nor NaN passes a floor."""
    with pytest.raises(ModelError) as error:
        promote.decide(shop.pipeline("decide"), evaluation(value), None)
    assert str(error.value) == (
        "promote: expected area_under_roc of version 7 on the test rows, found no such number. Measured were area_under_roc, log_loss;"
        " correct evaluate.floor or train.metric, then run evaluate again."
    )


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def kiosk(spark: SparkSession, lake_root: str, tracking_uri: str) -> Shop:
    """One trained model, its evaluation still to be recorded."""
    opened = shop.open_shop(spark, lake_root, tracking_uri, shop.pipeline(f"kiosk_{uuid4().hex}"))
    inputs = opened.build([(1, None, 1.0, "a", 1.0)])
    assert opened.trained(model(), inputs) == 1
    return opened


def model() -> PipelineModel:
    return PipelineModel([SQLTransformer(statement="SELECT *, size AS prediction FROM __THIS__")])


def releases(opened: Shop) -> list[dict[str, Any]]:
    rows = (
        opened.run.lake.read(contracts.releases(opened.run.pipeline.pipeline))
        .drop("decision", "recorded_at")
        .orderBy("challenger")
    )
    return [row.asDict() for row in rows.collect()]


def test_the_first_model_is_released_with_the_exact_versions_behind_it(kiosk: Shop) -> None:
    """One row and the alias; a second call writes nothing and says so."""
    kiosk.evaluated(1, {"area_under_roc": 0.75})
    outcome = promote.run(kiosk.run)
    again = promote.run(kiosk.restarted())

    name = kiosk.run.pipeline.pipeline
    reason = "Version 1 is promoted: area_under_roc 0.75 on the test rows, and there was no champion."
    assert outcome.details == {"promoted": True, "champion": 1, "reason": reason}
    assert (again.unchanged, again.details) == (True, outcome.details)
    champion = kiosk.registry.champion(name)
    assert champion is not None
    assert champion.version == 1
    assert releases(kiosk) == [
        {
            "challenger": 1,
            "champion_before": None,
            "champion_after": 1,
            "promoted": True,
            "reason": reason,
            "tables": {
                f"silver/{name}_orders": 5,
                kiosk.tables.features.table: 1,
                kiosk.tables.labels.table: 1,
                contracts.trials(name).table: 1,
                contracts.metrics(name).table: 1,
            },
        }
    ]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize("owner", [Registry, Ledger], ids=["before_the_alias", "before_the_ledger"])
def test_a_killed_promotion_is_finished_by_the_next_run(
    kiosk: Shop, monkeypatch: pytest.MonkeyPatch, owner: type
) -> None:
    """Killed after the decision row, the next run moves the alias that the row names and adds no row.

    A method is replaced because a kill cannot be timed to this step from outside.
    """
    kiosk.evaluated(1, {"area_under_roc": 0.75})
    method = {Registry: "set_champion", Ledger: "record"}[owner]
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            promote.run(kiosk.run)
    assert len(releases(kiosk)) == 1

    outcome = promote.run(kiosk.restarted())

    champion = kiosk.registry.champion(kiosk.run.pipeline.pipeline)
    assert champion is not None
    assert champion.version == 1
    assert (outcome.details["promoted"], outcome.details["champion"]) == (True, 1)
    assert len(releases(kiosk)) == 1


def test_an_old_promotion_finished_late_does_not_take_the_alias_back(
    kiosk: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1's promotion was killed before the alias, version 2 became champion since: it stays."""
    kiosk.evaluated(1, {"area_under_roc": 0.75})
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "set_champion", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            promote.run(kiosk.run)
    first = kiosk.run.ledger.require("evaluate")
    kiosk.trained(model(), first.inputs)
    kiosk.registry.set_champion(kiosk.run.pipeline.pipeline, 2)
    kiosk.run.ledger.record(replace(first, fingerprint="again", details={**first.details, "champion_version": 2}))

    promote.run(kiosk.restarted())

    champion = kiosk.registry.champion(kiosk.run.pipeline.pipeline)
    assert champion is not None
    assert champion.version == 2


def test_no_champion_and_the_floor_missed_ends_with_exit_4(kiosk: Shop) -> None:
    """The decision stands in the releases, no alias is set, and each run ends the same way."""
    kiosk.evaluated(1, {"area_under_roc": 0.5})
    for run in (kiosk.run, kiosk.restarted()):
        with pytest.raises(ModelError) as error:
            promote.run(run)
        assert error.value.exit_code == 4
        assert str(error.value) == (
            "Version 1 is not promoted: it misses the floor (area_under_roc 0.5, expected at least 0.6). There is no champion either, so"
            " nothing can be scored. Improve the model or lower evaluate.floor."
        )
    assert [(row["promoted"], row["champion_after"]) for row in releases(kiosk)] == [(False, None)]
    assert kiosk.registry.champion(kiosk.run.pipeline.pipeline) is None


def test_what_cannot_be_judged_is_a_sentence(kiosk: Shop) -> None:
    """No evaluation yet; an alias that moved after it; a model of another lake."""
    with pytest.raises(
        ContractError, match=r"^The ledger has no `evaluate` for run date 2024-02-01\. Run `millrace evaluate` first\.$"
    ):
        promote.run(kiosk.run)

    kiosk.trained(model(), {})
    kiosk.evaluated(2, {"area_under_roc": 0.75})
    kiosk.registry.set_champion(kiosk.run.pipeline.pipeline, 1)
    with pytest.raises(RefusedError) as moved:
        promote.run(kiosk.run)
    assert str(moved.value) == (
        "promote: expected the champion that evaluate measured (version None), found version 1: the alias was moved since."
        " Run `millrace evaluate --force`, then promote again."
    )

    kiosk.evaluated(9, {"area_under_roc": 0.75}, champion=1, standing={"area_under_roc": 0.5})
    with pytest.raises(ContractError, match=r"^The ledger of this lake has no training of model version 9\."):
        promote.run(kiosk.run)
