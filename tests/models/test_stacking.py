"""Stacks: what is learnt on top of other models, from rows that they did not train on; scikit-learn and NumPy judge."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression, RandomForestClassifier
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn import linear_model, metrics

from models import grid_search, search, stacking
from models.explain import importances
from models.folds import Folds
from models.stacking import Member, Stack
from models.trials import Trial

ROWS = 300
RANDOM = Folds(3, "fold")
EARLIER = Folds(3, "fold", "earlier", "train_from")


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    """Two numbers; a label of two and of three classes, and a number; a random fold, a fold in time from -1 to 2 and when to train."""
    random = np.random.default_rng(4)
    x, y = random.normal(size=(2, ROWS))
    raw = x + x * y + random.normal(scale=0.5, size=ROWS)
    block = np.arange(ROWS) * 4 // ROWS - 1
    frame = pd.DataFrame(
        {
            "key": np.arange(ROWS), "x": x, "y": y, "number": raw, "two": (raw > 0).astype(float),
            "three": np.digitize(raw, [-0.5, 0.5]).astype(float), "random": random.integers(0, 3, ROWS), "block": block,
            # Every tenth row's label is known a fold later, the last rows' never.
            "train_from": [None if i > 290 else int(b) + 1 + (i % 10 == 0) for i, b in enumerate(block)],
        }
    )  # fmt: skip
    return spark.createDataFrame(frame.astype({"train_from": "Int64"}).replace({np.nan: None})).repartition(2).cache()


def prepared(rows: DataFrame, label: str, folds: Folds) -> DataFrame:
    fold = "random" if folds.scheme == "others" else "block"
    return rows.select(
        "key", "x", "y", F.col(label).alias("label"), F.col(fold).cast("int").alias("fold"), "train_from"
    )


def member(name: str, last: Any, columns: list[str], frame: DataFrame, folds: Folds, values: list[float]) -> Member:
    """A pipeline over some columns; its model of a fold knows the rows alone that the fold trains on."""
    pipeline = Pipeline(stages=[VectorAssembler(inputCols=columns, outputCol="features"), last])
    fit = partial(grid_search.fit, pipeline, {})
    models = {fold: fit(frame.where(folds.trains(fold))) for fold in range(folds.count)}
    return Member(name, f"{name}()", values, models.__getitem__, fit)


def stack(frame: DataFrame, folds: Folds, task: str, scale: float = 1.0) -> Stack:
    if task == "regression":
        lasts: list[Any] = [LinearRegression(regParam=0.1), LinearRegression(regParam=1.0)]
    else:
        lasts = [LogisticRegression(regParam=0.1), RandomForestClassifier(numTrees=3, maxDepth=3, seed=1)]
    members = [
        member(name, last, columns, frame, folds, values)
        for name, last, columns, values in zip(
            ("plain", "woods"), lasts, (["x"], ["x", "y"]), ([0.5, 0.6, 0.7], [0.8, 0.7, 0.6]), strict=True
        )
    ]
    return Stack(tuple(members), stacking.said(members, frame, folds), folds, task, members[0], scale)


def level_one(made: Stack) -> pd.DataFrame:
    """What the members say, spread out into columns."""
    frame = made.said.toPandas()
    for name in ("plain", "woods"):
        told = np.array(
            [np.atleast_1d(getattr(each, "toArray", lambda each=each: each)()) for each in frame[f"{name}=said"]]
        )
        frame = frame.join(pd.DataFrame(told, index=frame.index).add_prefix(f"{name}_"))
    return frame


def features(frame: pd.DataFrame) -> np.ndarray:
    return frame[[name for name in frame.columns if name.startswith(("plain_", "woods_"))]].to_numpy()


def logistic(frame: pd.DataFrame, penalty: float) -> tuple[linear_model.LogisticRegression, np.ndarray, np.ndarray]:
    """MLlib's objective by scikit-learn: standardised features, mean loss, penalty times half the squared coefficients."""
    x = features(frame)
    mean, scale = x.mean(axis=0), x.std(axis=0, ddof=1)
    fitted = linear_model.LogisticRegression(C=1 / (penalty * len(x)), tol=1e-12, max_iter=10_000)
    return fitted.fit((x - mean) / scale, frame["label"]), mean, scale


def test_what_members_say_comes_from_models_that_did_not_see_the_row(rows: DataFrame) -> None:
    frame = prepared(rows, "two", RANDOM)
    made = stack(frame, RANDOM, "binary")

    found = level_one(made)

    assert list(made.said.columns) == ["label", "fold", "plain=said", "woods=said"]
    assert len(found) == ROWS
    expected = []
    for fold in range(3):
        model = made.members[1].of_fold(fold)
        told = model.transform(frame.where(F.col("fold") == fold)).select(vector_to_array("probability")[1].alias("p"))
        expected += [row["p"] for row in told.collect()]
    assert sorted(found["woods_1"]) == pytest.approx(sorted(expected), abs=1e-12)


@pytest.mark.slow
def test_the_cross_validation_is_scikit_learns(rows: DataFrame) -> None:
    """Each fold's stack learns from the other folds' rows alone."""
    made = stack(prepared(rows, "two", RANDOM), RANDOM, "binary")
    told: list[Trial] = []

    result = made.tune(search.evaluator("area_under_roc", "binary"), "area_under_roc", on_trial=told.append)

    frame = level_one(made)
    expected = np.zeros((4, 3))
    for point, penalty in enumerate(stacking.PENALTIES):
        for fold in range(3):
            fitted, mean, scale = logistic(frame[frame["fold"] != fold], penalty)
            held_out = frame[frame["fold"] == fold]
            score = fitted.decision_function((features(held_out) - mean) / scale)
            expected[point, fold] = metrics.roc_auc_score(held_out["label"], score)
    assert result.scores == pytest.approx(expected, abs=1e-6)
    assert {(trial.point, trial.fold): trial.value for trial in told} == {
        (point, fold): result.scores[point, fold] for point in range(4) for fold in range(3)
    }
    assert {trial.candidate for trial in told} == {"stack"}
    assert told[0].parameters == {"reg_param": 0.0001, "of": "plain(), woods()"}

    again: list[Trial] = []
    known = [trial for trial in result.trials if trial.point < 2]
    resumed = made.tune(
        search.evaluator("area_under_roc", "binary"), "area_under_roc", known=known, on_trial=again.append
    )
    assert {trial.point for trial in again} == {2, 3}
    assert resumed.scores == pytest.approx(result.scores, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "purged", [True, pytest.param(False, marks=pytest.mark.system)], ids=["train_from", "folds alone"]
)
def test_in_time_it_begins_as_its_best_member(rows: DataFrame, *, purged: bool) -> None:
    """The first fold trains on rows that no fold held out; the later ones on those whose label is known."""
    folds = EARLIER if purged else Folds(3, "fold", "earlier")
    made = stack(prepared(rows, "two", folds), folds, "binary")

    result = made.tune(search.evaluator("area_under_roc", "binary"), "area_under_roc")

    frame = level_one(made)
    assert made.first == 1
    expected = np.full((4, 3), 0.5)  # of `plain` in fold 0
    for point, penalty in enumerate(stacking.PENALTIES):
        for fold in (1, 2):
            train = frame[frame["train_from"] <= fold] if purged else frame[frame["fold"] < fold]
            fitted, mean, scale = logistic(train, penalty)
            held_out = frame[frame["fold"] == fold]
            score = fitted.decision_function((features(held_out) - mean) / scale)
            expected[point, fold] = metrics.roc_auc_score(held_out["label"], score)
    assert result.scores == pytest.approx(expected, abs=1e-6)
    assert next((trial.fold, trial.solver) for trial in result.trials if trial.point == 0) == (0, "as plain")
    for fold in range(3):
        model = made.of_fold(result, 1, prepared(rows, "two", folds), fold)
        told = model.transform(prepared(rows, "two", folds).where(folds.validates(fold)))
        area = search.evaluator("area_under_roc", "binary").evaluate(told)
        if fold:
            assert area == pytest.approx(expected[1, fold], abs=1e-6)
        else:
            assert type(model.stages[-1]).__name__ == "LogisticRegressionModel"  # type: ignore[attr-defined]
            assert len(model.stages) == 2  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "task"),
    [
        ("two", "binary"),
        pytest.param("three", "multiclass", marks=pytest.mark.system),
        pytest.param("number", "regression", marks=pytest.mark.system),
    ],
)
def test_the_model_is_of_stock_stages(rows: DataFrame, label: str, task: str, tmp_path: Path) -> None:
    """It is saved, loaded, and predicts as its parts do; its columns are those of any other model."""
    frame = prepared(rows, label, RANDOM)
    made = stack(frame, RANDOM, task)

    model = made.fit(2, frame)

    model.write().save(str(tmp_path / "model"))
    loaded = PipelineModel.load(str(tmp_path / "model"))
    new = frame.select("key", "x", "y")
    told = loaded.transform(new)
    outputs = ["prediction"] if task == "regression" else ["rawPrediction", "probability", "prediction"]
    assert told.columns == [*new.columns, "plain=said", "woods=said", "stack=features", *outputs]
    # By hand: members fitted on all rows, the model on top to what they said of rows that they did not know.
    parts = [each.fit(frame) for each in made.members]
    spread = new
    for name, part in zip(("plain", "woods"), parts, strict=True):
        answer = "prediction" if task == "regression" else "probability"
        spread = part.transform(spread).select(*spread.columns, F.col(answer).alias(f"{name}=said"))
    estimator, grid = made._estimator()
    by_hand = grid_search.fit(estimator, grid[2], made.said).transform(spread)
    here, there = (
        {row["key"]: row["prediction"] for row in each.select("key", "prediction").collect()}
        for each in (told, by_hand)
    )
    assert here == pytest.approx(there, abs=1e-9)


def test_a_regression_takes_penalties_in_the_labels_unit(rows: DataFrame) -> None:
    made = stack(prepared(rows, "number", RANDOM), RANDOM, "regression", scale=1234.5)

    assert [each["reg_param"] for each in made.parameters] == [0.123, 1.23, 12.3, 123.0]


@pytest.mark.slow
def test_importances_go_through_the_members(rows: DataFrame) -> None:
    """A member's weight times its own shares."""
    frame = prepared(rows, "two", RANDOM)
    model = stack(frame, RANDOM, "binary").fit(1, frame)

    found = importances(model, frame)

    prepared_rows = (
        PipelineModel(model.stages[:-1]).transform(frame).select("stack=features").toPandas()["stack=features"]
    )
    slots = np.array([each.toArray() for each in prepared_rows]).std(axis=0, ddof=1)
    weight = np.abs(model.stages[-1].coefficients.toArray()) * slots
    plain, woods = weight[:2].sum() / weight.sum(), weight[2:].sum() / weight.sum()
    own = importances(model.stages[2], frame).shares
    assert found.shares == pytest.approx({"x": plain + woods * own["x"], "y": woods * own["y"]}, abs=1e-9)
    assert sum(found.shares.values()) == pytest.approx(1)
