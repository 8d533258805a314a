"""The job `evaluate` on a real lake and MLflow: same rows for challenger and champion, one commit a table, refusals in sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LinearSVC, LogisticRegression
from pyspark.ml.feature import SQLTransformer
from pyspark.ml.functions import vector_to_array
from pyspark.ml.regression import LinearRegression
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn import metrics as sklearn_metrics

from jobs import evaluate
from jobs.lake import Transaction
from models import preprocessing
from models.preprocessing import Design
from tests.jobs import shop
from tests.jobs.shop import Row, Shop
from transforms import contracts
from transforms.errors import ConfigError, ContractError, ModelError

MEASURED = {"bootstrap": 20, "slices": ["kind"], "floor": {"area_under_roc": 0.6}}
OpenShop = Callable[..., Shop]


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def new_shop(spark: SparkSession, lake_root: str, tracking_uri: str) -> OpenShop:
    def open_shop(**changes: Any) -> Shop:
        spec = shop.pipeline(f"shop{uuid4().hex[:8]}", **{"evaluate": {"bootstrap": 0}, **changes})
        return shop.open_shop(spark, lake_root, tracking_uri, spec)

    return open_shop


def orders(count: int = 240, *, label: Callable[[float, float], float] | None = None) -> list[Row]:
    """Larger orders are late more often, those of kind b as well; one size is null."""
    generator = np.random.default_rng(4)
    rows: list[Row] = []
    for order in range(count):
        size, noise, kind = float(generator.normal()), float(generator.normal()), "abc"[order % 3]
        value = label(size, noise) if label else float(size + (kind == "b") + noise > 0)
        moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=order)
        rows.append((order, moment, None if order == 5 else size, kind, value))
    return rows


def built(here: Shop, rows: list[Row], *, test: Callable[[int], bool] = lambda order: order % 2 == 0) -> dict[str, int]:
    """Features, labels and membership as the job `features` writes them; orders for which `test` holds are the test part."""
    inputs = here.build(rows)
    parts = [(order, moment, "test" if test(order) else "train", -1, None) for order, moment, *_ in rows]
    frame = here.run.spark.createDataFrame(parts, "order int, as_of timestamp, part string, fold int, train_from int")
    table = here.tables.membership
    inputs[table.table] = here.run.lake.replace(frame.repartition(2), table, Transaction(uuid4().hex, 1)).version
    return inputs


def fitted(here: Shop, estimator: Any, *, reg_param: float = 0.01) -> PipelineModel:
    """The model that `train` would make of the training part, by the same stages."""
    rows = here.run.lake.read(here.tables.features)
    key = here.tables.features.key
    rows = contracts.join_rows(rows, here.run.lake.read(here.tables.labels).select(*key, "label"), key)
    profile = preprocessing.profile(rows, ["size"], ["kind"])
    stages = preprocessing.stages(profile, Design.LINEAR, "mean")
    return Pipeline(stages=[*stages, estimator.copy({estimator.regParam: reg_param})]).fit(rows)


def trained(here: Shop, inputs: dict[str, int], **options: Any) -> tuple[PipelineModel, int]:
    model = fitted(here, LogisticRegression(), **options)
    return model, here.trained(model, inputs, threshold=0.4)


def by_hand(here: Shop, model: PipelineModel) -> pd.DataFrame:
    """Label, kind and score of the test rows."""
    lake, key = here.run.lake, here.tables.features.key
    rows = contracts.join_rows(
        lake.read(here.tables.features), lake.read(here.tables.labels).select(*key, "label"), key
    )
    members = lake.read(here.tables.membership).where("part = 'test'").select(*key)
    scored = model.transform(contracts.join_rows(rows, members, key))
    return scored.select("label", "kind", vector_to_array(F.col("probability"))[1].alias("score")).toPandas()


def test_a_model_is_measured_on_the_test_rows_once(new_shop: OpenShop) -> None:
    """Metrics whole and by slice as scikit-learn has them, curves and importances beside them; a second run writes nothing."""
    here = new_shop(evaluate=MEASURED)
    inputs = built(here, orders())
    model, version = trained(here, inputs)
    outcome = evaluate.run(here.run)

    rows = by_hand(here, model)
    expected = {("", ""): rows} | {("kind", kind): part for kind, part in rows.groupby("kind")}
    stored = here.run.lake.read(contracts.metrics(here.run.pipeline.pipeline)).toPandas()
    assert set(stored.model_version) == {version} and set(stored.evaluation) == {outcome.details["evaluation"]}
    areas = stored[stored.metric == "area_under_roc"].set_index(["slice", "value_of_slice"])
    assert {name: (row.value, row["rows"]) for name, row in areas.iterrows()} == {
        name: (pytest.approx(sklearn_metrics.roc_auc_score(part.label, part.score), rel=1e-12), len(part))
        for name, part in expected.items()
    }
    assert ((areas.low <= areas.value) & (areas.value <= areas.high)).all()
    decided = (rows.score >= 0.4).astype(float)
    assert outcome.details["metrics"]["f1"] == pytest.approx(sklearn_metrics.f1_score(rows.label, decided), rel=1e-12)

    drawn = here.run.lake.read(contracts.curves(here.run.pipeline.pipeline)).toPandas()
    assert set(drawn.curve) == {"roc", "pr", "threshold", "calibration", "lift", "gain", "confusion", "importance"}
    assert set(drawn[drawn.curve == "importance"].series) == {"size", "kind"}
    assert (outcome.rows_in, outcome.rows_out) == (120, len(stored) + len(drawn))
    assert outcome.details | {"metrics": None, "evaluation": None} == {
        "model_version": version,
        "evaluation": None,
        "threshold": 0.4,
        "test_rows": 120,
        "metrics": None,
        "importances_missing": "",
        "champion_version": None,
        "champion_metrics": None,
        "champion_trained_on_test_rows": None,
        "champion_not_measured": "",
    }

    again = evaluate.run(here.restarted())
    assert (again.unchanged, again.outputs, again.details) == (True, outcome.outputs, outcome.details)
    assert {
        table: here.run.lake.version(replace(here.tables.labels, table=table)) for table in outcome.outputs
    } == outcome.outputs


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.mark.system
def test_killed_before_the_ledger_row_it_writes_each_table_once(
    new_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The re-run finds both commits of the first try."""
    here = new_shop()
    trained(here, built(here, orders()))

    def kill(stage: object) -> None:
        raise Killed

    monkeypatch.setattr(here.run.ledger, "record", kill)
    with pytest.raises(Killed):
        evaluate.run(here.run)
    name = here.run.pipeline.pipeline
    tables = [contracts.metrics(name), contracts.curves(name)]
    before = {table.table: (here.run.lake.version(table), here.run.lake.read(table).count()) for table in tables}

    outcome = evaluate.run(here.restarted())
    assert not outcome.unchanged
    assert {
        table.table: (here.run.lake.version(table), here.run.lake.read(table).count()) for table in tables
    } == before
    assert outcome.outputs == {table: version for table, (version, _) in before.items()}


def test_the_champion_is_measured_on_the_same_rows(new_shop: OpenShop) -> None:
    """With its own threshold, and whether it has seen them in training."""
    here = new_shop()
    older = built(here, orders(), test=lambda order: order >= 200)
    champion, standing = trained(here, older, reg_param=5.0)
    here.promoted(standing)
    newer = built(here, orders(), test=lambda order: order >= 100)
    challenger, version = trained(here, newer)
    outcome = evaluate.run(here.run)

    assert (outcome.details["champion_version"], outcome.details["champion_trained_on_test_rows"]) == (standing, True)
    for model, details in ((challenger, outcome.details["metrics"]), (champion, outcome.details["champion_metrics"])):
        rows = by_hand(here, model)
        assert details["log_loss"] == pytest.approx(sklearn_metrics.log_loss(rows.label, rows.score), rel=1e-12)
    stored = here.run.lake.read(contracts.metrics(here.run.pipeline.pipeline))
    assert {row.model_version for row in stored.select("model_version").distinct().collect()} == {standing, version}


def test_a_champion_that_saw_no_test_row_is_told_apart(new_shop: OpenShop) -> None:
    here = new_shop()
    inputs = built(here, orders())
    _, standing = trained(here, inputs, reg_param=5.0)
    here.promoted(standing)
    trained(here, inputs)
    outcome = evaluate.run(here.run)
    assert (outcome.details["champion_version"], outcome.details["champion_trained_on_test_rows"]) == (standing, False)


@pytest.mark.system
def test_a_champion_of_another_feature_table_is_not_measured(new_shop: OpenShop) -> None:
    here = new_shop()
    inputs = built(here, orders())
    other = {table.replace("features", "features_before"): version for table, version in inputs.items()}
    _, standing = trained(here, other)
    here.promoted(standing)
    trained(here, inputs)
    details = evaluate.run(here.run).details
    assert (details["champion_version"], details["champion_metrics"], details["champion_not_measured"]) == (
        standing,
        None,
        f"Version {standing} was made for other features or another label and cannot be measured on these rows.",
    )


@pytest.mark.parametrize(
    ("rows", "test", "message"),
    [
        (
            orders(),
            lambda order: False,
            "evaluate: expected labelled rows in the test part, found none. Move its start back or make its share larger (`split.test`).",
        ),
        (
            orders(),
            lambda order: order in (0, 2),
            "evaluate: expected more than one class in the test part, found 2 rows that are all of class 1."
            " Move its start back or make its share larger (`split.test`).",
        ),
    ],
)
def test_a_test_part_that_says_nothing_is_refused(
    new_shop: OpenShop, rows: list[Row], test: Callable[[int], bool], message: str
) -> None:
    here = new_shop()
    if "all of class 1" in message:
        rows = [(*row[:4], 1.0) if row[0] in (0, 2) else row for row in rows]
    here.record(
        "train", inputs=built(here, rows, test=test), outputs={}, details={"model_version": 1, "threshold": 0.4}
    )
    with pytest.raises(ModelError) as refused:
        evaluate.run(here.run)
    assert str(refused.value) == message


def test_a_model_without_probabilities_is_refused(new_shop: OpenShop) -> None:
    here = new_shop()
    inputs = built(here, orders())
    here.trained(fitted(here, LinearSVC(maxIter=2)), inputs, threshold=0.5)
    with pytest.raises(ModelError) as refused:
        evaluate.run(here.run)
    assert str(refused.value) == (
        "evaluate: expected probabilities of a binary model, and LinearSVCModel gives none."
        " Train a candidate that does, such as logistic_regression."
    )


def test_a_prediction_that_is_no_number_is_refused(new_shop: OpenShop) -> None:
    here = new_shop(
        task="regression", train={"metric": "rmse", "candidates": {"l": {"estimator": "linear_regression"}}}
    )
    rows = orders()
    inputs, size = built(here, rows), rows[4][2]
    nan = SQLTransformer(statement=f"SELECT *, IF(size = {size!r}D, double('NaN'), 0D) AS prediction FROM __THIS__")
    here.trained(PipelineModel([nan]), inputs)
    with pytest.raises(
        ModelError, match=r"no finite prediction for 1 of 120 rows; expected one for each\. Check the features"
    ):
        evaluate.run(here.run)


def test_a_model_of_another_pipeline_file_is_refused(new_shop: OpenShop) -> None:
    here = new_shop()
    here.record("train", inputs=built(here, orders()), outputs={}, details={"model_version": 1, "threshold": 0.4})
    changed = here.run.pipeline.model_copy(
        update={"split": here.run.pipeline.split.model_copy(update={"salt": "other"})}
    )
    with pytest.raises(ContractError, match=r"the pipeline file has changed since\. Run `millrace train` first\."):
        evaluate.run(here.restarted(pipeline=changed))
    taken = here.run.pipeline.model_copy(
        update={"evaluate": here.run.pipeline.evaluate.model_copy(update={"slices": ("score",)})}
    )
    with pytest.raises(ConfigError) as refused:
        evaluate.run(here.restarted(pipeline=taken))
    assert str(refused.value) == ("evaluate.slices: score is a name of the predictions. Give the feature another name.")


@pytest.mark.system
def test_a_regression_is_measured(new_shop: OpenShop) -> None:
    here = new_shop(
        task="regression",
        evaluate={"slices": ["kind"], "bootstrap": 0},
        train={"metric": "rmse", "candidates": {"l": {"estimator": "linear_regression"}}},
    )
    inputs = built(here, orders(label=lambda size, noise: 3 * size + noise))
    here.trained(fitted(here, LinearRegression()), inputs)
    outcome = evaluate.run(here.run)
    assert outcome.details["threshold"] is None and 0.8 < outcome.details["metrics"]["r2"] < 1
    drawn = here.run.lake.read(contracts.curves(here.run.pipeline.pipeline))
    assert {row.curve for row in drawn.select("curve").distinct().collect()} == {"residuals", "deciles", "importance"}


@pytest.mark.system
def test_several_classes_are_measured(new_shop: OpenShop) -> None:
    here = new_shop(
        task="multiclass",
        classes=["early", "on time", "late"],
        evaluate={"slices": ["kind"], "bootstrap": 0},
        train={"metric": "accuracy", "candidates": {"l": {"estimator": "logistic_regression"}}},
    )
    inputs = built(here, orders(label=lambda size, noise: float(np.digitize(size + 0.3 * noise, [-0.5, 0.5]))))
    here.trained(fitted(here, LogisticRegression()), inputs)
    outcome = evaluate.run(here.run)
    assert outcome.details["metrics"]["accuracy"] > 0.6
    assert {"recall of early", "recall of on time", "recall of late"} <= set(outcome.details["metrics"])
    drawn = here.run.lake.read(contracts.curves(here.run.pipeline.pipeline))
    assert {row.curve for row in drawn.select("curve").distinct().collect()} == {
        "confusion",
        "calibration",
        "importance",
    }
