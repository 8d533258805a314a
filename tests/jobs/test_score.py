"""Scoring on a real lake and MLflow: rows scored + rows refused = rows asked, insert-only, once."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import SQLTransformer, StringIndexer, VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from jobs import score
from jobs.runs import Ledger
from jobs.score import Champion
from models.registry import Registry
from tests.jobs import shop
from tests.jobs.shop import Row, Shop
from transforms import contracts
from transforms.errors import ContractError, RefusedError

THRESHOLD = 0.3
TRAINING: list[Row] = [
    (number, None, float(number % 7), "ab"[number % 2], float(number % 7 + number % 2 > 3)) for number in range(40)
]


def at(day: int, hour: int) -> datetime:
    return datetime(2024, 1, day, hour, tzinfo=UTC)


# Midnight of 15 January in New York is 5 o'clock UTC.
ROWS: list[Row] = [
    (1, at(15, 4), 6.0, "a", None),
    (2, at(15, 5), 0.5, "a", 1.0),
    (3, at(16, 0), 6.0, "new", None),
    (4, at(17, 0), None, None, None),
    (5, at(18, 0), None, "b", None),
]


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def logistic(spark: SparkSession) -> PipelineModel:
    """A null category is a level and a null size 0, as the product's own stages do it."""
    stages = [
        SQLTransformer(
            statement="SELECT *, coalesce(size, 0D) AS `size=value`, coalesce(kind, '(missing)') AS `kind=level` FROM __THIS__"
        ),
        StringIndexer(inputCols=["kind=level"], outputCols=["kind=index"], handleInvalid="keep"),
        VectorAssembler(inputCols=["size=value", "kind=index"], outputCol="features"),
        LogisticRegression(regParam=0.01),
    ]
    rows = spark.createDataFrame(TRAINING, "order int, as_of timestamp, size double, kind string, label double")
    return Pipeline(stages=stages).fit(rows)


def event_probability(model: PipelineModel, size: float, index: float) -> float:
    """The logistic function, written out."""
    fitted: Any = model.stages[-1]
    margin = fitted.intercept + fitted.coefficients[0] * size + fitted.coefficients[1] * index
    return 1 / (1 + math.exp(-margin))


def opened(spark: SparkSession, lake_root: str, tracking_uri: str, **changes: Any) -> Shop:
    return shop.open_shop(spark, lake_root, tracking_uri, shop.pipeline(f"score_{uuid4().hex}", **changes))


def predictions(of: Shop) -> DataFrame:
    return of.run.lake.read(contracts.predictions(of.run.pipeline.pipeline, of.tables.key)).orderBy("order", "revision")


def test_rows_since_a_local_day_are_scored_once(
    spark: SparkSession, lake_root: str, tracking_uri: str, logistic: PipelineModel
) -> None:
    """Whole rows: probability, decision at the champion's threshold, a row without any feature refused with its reason."""
    counter = opened(spark, lake_root, tracking_uri, score={"since": date(2024, 1, 15)})
    version = counter.trained(logistic, counter.build(ROWS), threshold=THRESHOLD)
    counter.promoted(version)

    outcome = score.run(counter.run)
    again = score.run(counter.restarted())

    indexer: Any = logistic.stages[1]
    levels = list(indexer.labelsArray[0])
    expected = []
    for order, as_of, size, kind, _ in ROWS[1:]:
        index = levels.index(kind) if kind in levels else len(levels)
        chance = event_probability(logistic, size or 0.0, float(index))
        event = "1" if chance >= THRESHOLD else "0"
        scored = (event, chance, [1 - chance, chance], None)
        refused = (None, None, None, "every feature is null")
        expected.append((order, as_of, 1, 1, *(refused if size is None and kind is None else scored), shop.RUN_DATE))
    table = contracts.predictions(counter.run.pipeline.pipeline, counter.tables.key)
    assertDataFrameEqual(predictions(counter), spark.createDataFrame(expected, table.schema), rtol=1e-12)
    assert {row[4] for row in expected} == {"0", "1", None}
    assert (outcome.rows_in, outcome.rows_out) == (4, 4)
    assert outcome.details == {
        "model_version": 1,
        "asked": 4,
        "scored": 3,
        "refused": 1,
        "reasons": {"every feature is null": 1},
        "unseen_categories": {"kind": 1},
    }
    assert (again.unchanged, again.details) == (True, outcome.details)


def test_only_rows_without_a_prediction_are_asked_and_force_asks_all(
    spark: SparkSession, lake_root: str, tracking_uri: str, logistic: PipelineModel
) -> None:
    """Files that lack the label: a later delivery adds its rows alone; --force adds the next revision of every row."""
    counter = opened(spark, lake_root, tracking_uri, score={"rows": "unlabelled"})
    version = counter.trained(logistic, counter.build(ROWS[:3]), threshold=THRESHOLD)
    counter.promoted(version)
    score.run(counter.run)
    counter.build(ROWS, day=date(2024, 2, 2))

    later = score.run(counter.restarted(asked_run_date=date(2024, 2, 2)))
    forced = score.run(counter.restarted(asked_run_date=date(2024, 2, 2), force=True))

    found = [(row["order"], row["revision"]) for row in predictions(counter).collect()]
    assert found == [(1, 1), (1, 2), (3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (5, 2)]
    assert (later.details["asked"], forced.details["asked"]) == (2, 4)


def test_when_no_row_is_asked_nothing_is_written(
    spark: SparkSession, lake_root: str, tracking_uri: str, logistic: PipelineModel
) -> None:
    """Every row has its label: done, with counts of zero and no table version."""
    counter = opened(spark, lake_root, tracking_uri, score={"rows": "unlabelled"})
    counter.promoted(counter.trained(logistic, counter.build(ROWS[1:2]), threshold=THRESHOLD))

    outcome = score.run(counter.run)

    assert (outcome.rows_in, outcome.rows_out, outcome.outputs) == (0, 0, {})
    assert outcome.details["asked"] == outcome.details["scored"] == outcome.details["refused"] == 0
    assert predictions(counter).count() == 0


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def test_a_run_killed_after_its_commit_counts_from_the_commit(
    spark: SparkSession, lake_root: str, tracking_uri: str, logistic: PipelineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run writes nothing, opens no model, and records the same counts though other rows were there before.

    A method is replaced because a kill cannot be timed to this step from outside; loading is broken to show that it is not needed.
    """
    counter = opened(spark, lake_root, tracking_uri, score={"rows": "all"})
    version = counter.trained(logistic, counter.build(ROWS[:2]), threshold=THRESHOLD)
    counter.promoted(version)
    score.run(counter.run)
    counter.build(ROWS, day=date(2024, 2, 2))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            score.run(counter.restarted(asked_run_date=date(2024, 2, 2)))
    monkeypatch.setattr(Registry, "load", lambda *_: (_ for _ in ()).throw(Killed()))

    outcome = score.run(counter.restarted(asked_run_date=date(2024, 2, 2)))

    assert predictions(counter).count() == 5
    assert outcome.details == {
        "model_version": 1,
        "asked": 3,
        "scored": 2,
        "refused": 1,
        "reasons": {"every feature is null": 1},
        "unseen_categories": {"kind": 1},
    }


def test_a_number_that_is_not_finite_is_refused(spark: SparkSession, lake_root: str, tracking_uri: str) -> None:
    """Regression: the value as text and as score; NaN, infinity and null are refused."""
    counter = opened(
        spark,
        lake_root,
        tracking_uri,
        task="regression",
        train={"metric": "rmse", "candidates": {"l": {"estimator": "linear_regression"}}},
        evaluate={},
        score={"rows": "all"},
    )
    rows: list[Row] = [(order, at(15, 5), float(order), "a", None) for order in range(4)]
    statement = "SELECT *, CASE size WHEN 0 THEN 2.5D WHEN 1 THEN double('NaN') WHEN 2 THEN double('-Infinity') END AS prediction FROM __THIS__"
    counter.promoted(counter.trained(PipelineModel([SQLTransformer(statement=statement)]), counter.build(rows)))

    outcome = score.run(counter.run)

    why = "the model gave no finite number"
    found = [
        tuple(row)
        for row in predictions(counter).select("order", "prediction", "score", "probability", "refused").collect()
    ]
    assert found == [(0, "2.5", 2.5, None, None), *((order, None, None, None, why) for order in (1, 2, 3))]
    assert outcome.details["reasons"] == {why: 3}


def test_a_model_that_loses_rows_is_refused_and_its_rows_taken_back(
    spark: SparkSession, lake_root: str, tracking_uri: str
) -> None:
    """Scored and refused must add up to the rows asked, read from what was committed."""
    counter = opened(
        spark,
        lake_root,
        tracking_uri,
        task="regression",
        train={"metric": "rmse", "candidates": {"l": {"estimator": "linear_regression"}}},
        evaluate={},
        score={"rows": "all"},
    )
    losing = PipelineModel(
        [SQLTransformer(statement="SELECT *, 1D AS prediction FROM __THIS__ WHERE size IS NOT NULL")]
    )
    counter.promoted(counter.trained(losing, counter.build(ROWS)))

    with pytest.raises(ContractError) as error:
        score.run(counter.run)

    table = contracts.predictions(counter.run.pipeline.pipeline, counter.tables.key).table
    assert str(error.value) == (
        f"{table}: expected one row for each of 5 rows asked, found 3; they were taken back. A stage of model version 1 drops or adds"
        " rows: set its handleInvalid to keep, train again, and score with --force."
    )
    assert predictions(counter).count() == 0


def test_a_multiclass_prediction_is_the_class_by_name(spark: SparkSession) -> None:
    """The score is the probability of the predicted class."""
    labelled = [(float(size), float(size // 2)) for size in range(6)] * 3
    frame = spark.createDataFrame(labelled, "size double, label double").repartition(2)
    assembler = VectorAssembler(inputCols=["size"], outputCol="features")
    model = Pipeline(stages=[assembler, LogisticRegression(regParam=0.001)]).fit(frame)
    spec = shop.pipeline(
        "classes",
        task="multiclass",
        classes=["low", "mid", "high"],
        train={"metric": "accuracy", "candidates": {"l": {"estimator": "logistic_regression"}}},
        evaluate={},
    )
    rows = spark.createDataFrame(
        [(n, at(15, n), float(n), None, 1) for n in range(6)],
        "order int, as_of timestamp, size double, kind string, revision int",
    )
    table = contracts.predictions("classes", (contracts.Field("order", "int", "number", True),))

    found = score.predicted(rows, model, spec, table, Champion(4, None)).orderBy("order").collect()

    assert [row["prediction"] for row in found] == ["low", "low", "mid", "mid", "high", "high"]
    assert [row["score"] for row in found] == [max(row["probability"]) for row in found]
    assert {row["model_version"] for row in found} == {4}


def test_a_champion_that_does_not_fit_is_a_sentence(
    spark: SparkSession, lake_root: str, tracking_uri: str, logistic: PipelineModel
) -> None:
    """No promotion; an alias moved by hand; a champion of other features."""
    counter = opened(spark, lake_root, tracking_uri, score={"rows": "all"})
    inputs = counter.build(ROWS)
    with pytest.raises(ContractError, match=r"^The ledger has no `promote`\. Run `millrace promote` first\.$"):
        score.run(counter.run)

    counter.promoted(counter.trained(logistic, inputs, threshold=THRESHOLD))
    old_table = f"gold/{counter.run.pipeline.pipeline}_features_00000000"
    other = counter.trained(logistic, {old_table: 3}, threshold=THRESHOLD)
    counter.registry.set_champion(counter.run.pipeline.pipeline, other)
    with pytest.raises(RefusedError) as moved:
        score.run(counter.run)
    assert str(moved.value) == (
        "score: the last promotion made version 1 champion, and the alias in MLflow names 2: it was moved by hand. Set it back to version"
        " 1, or run `millrace evaluate --force` and `millrace promote` to decide again."
    )

    counter.promoted(other)
    with pytest.raises(ContractError) as mismatch:
        score.run(counter.run)
    assert str(mismatch.value) == (
        f"score: model version 2, the champion, was trained on {old_table}; the features of the pipeline file are"
        f" {counter.tables.features.table} now. A model cannot score features that were defined otherwise. Train, evaluate and promote a"
        " model of the new features, or restore the old definition."
    )
