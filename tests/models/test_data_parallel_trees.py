"""Boosted trees of rows that are divided among workers: the models of one worker that holds all of them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    Evaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.feature import StringIndexer, VectorAssembler, VectorSizeHint
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn import metrics
from xgboost.callback import TrainingCallback
from xgboost.spark import SparkXGBClassifier, SparkXGBRegressor

from models import any_estimator, gpus, tree_division, tree_search, trees
from models.folds import Folds
from models.gpus import Found, NoGpu
from models.halving import Halving
from models.tree_division import Division
from models.tuning import CrossValidator
from tests.models.exact.test_passes import settled, spark_setting

ROWS, FOLDS = 400, Folds(3, "fold")
COMMON: dict[str, Any] = {"n_estimators": 6, "max_depth": 3, "num_workers": 1, "missing": float("nan")}
EARLY = {"n_estimators": 40, "validation_indicator_col": "aside", "early_stopping_rounds": 2, "learning_rate": 0.8}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    """Four features with missing values, a text, labels of two and three classes, a number, a weight, a fold and rows aside.

    Features have fewer values than there are bins: cuts lie between them, however the rows are divided.
    """
    random = np.random.default_rng(11)
    values = []
    for key in range(ROWS):
        x = random.normal(size=4).round(1)
        number = float(x[0] + x[1] * x[2])
        two, three = float(number + random.normal() > 0), float(np.digitize(number, [-1, 1]))
        x[random.integers(4)] = np.nan
        fold, text = int(random.integers(-1, 3)), "abcd"[int(random.integers(4))]
        values.append((key, Vectors.dense(x), text, two, three, number, float(1 + key % 2), fold, key % 5 == 0))
    names = ["key", "features", "text", "two", "three", "number", "weight", "fold", "aside"]
    return spark.createDataFrame(spark.sparkContext.parallelize(values, 2), names).cache()


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker has room for all rows."""
    monkeypatch.setattr(tree_division, "SMALL", 0)
    monkeypatch.setattr(tree_division, "room", lambda spark: 1)


def found(
    frame: DataFrame, estimator: Any, points: list[Any], judge: Evaluator, **options: Any
) -> dict[tuple[int, int], any_estimator.Fit]:
    routes = [any_estimator.route(estimator, point, extra) for point, extra in enumerate(points)]
    return {
        (fit.point, fit.fold): fit for fit in tree_search.fits(frame, FOLDS, routes, judge, parallelism=2, **options)
    }


def values(fits: dict[tuple[int, int], any_estimator.Fit]) -> dict[tuple[int, int], float | None]:
    assert [fit.error for fit in fits.values()] == [None] * len(fits)
    return {pair: fit.value for pair, fit in fits.items()}


def stages(last: Any) -> Pipeline:
    """The text as codes that depend on the rows of a fold, then the estimator."""
    return Pipeline(
        stages=[
            StringIndexer(inputCol="text", outputCol="code"),
            VectorSizeHint(inputCol="features", size=4, handleInvalid="optimistic"),
            VectorAssembler(inputCols=["features", "code"], outputCol="all", handleInvalid="keep"),
            last.copy({last.getParam("featuresCol"): "all"}),
        ]
    )


AREA = (BinaryClassificationEvaluator, {"numBins": 0})
CASES = [
    (SparkXGBClassifier, "two", {}, *AREA),
    (SparkXGBClassifier, "two", EARLY, *AREA),
    (SparkXGBClassifier, "three", {"max_bin": 200, "weight_col": "weight"}, MulticlassClassificationEvaluator, {"metricName": "logLoss"}),
    (SparkXGBRegressor, "number", {"weight_col": "weight"}, RegressionEvaluator, {"metricName": "mae"}),
]  # fmt: skip
IDS = ["classes", "stopping early", "three classes, weighted", "numbers, weighted"]
SHORT = {
    ("stopping early", False),
    ("three classes, weighted", False),
    ("numbers, weighted", True),
}  # the rest for the system's tests
VARIANTS = [
    pytest.param(
        *case, by_fold, id=f"{name}, {'a matrix a fold' if by_fold else 'one matrix'}",
        marks=pytest.mark.slow if (name, by_fold) in SHORT else pytest.mark.system,
    )
    for name, case in zip(IDS, CASES, strict=True) for by_fold in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("kind", "label", "settings", "judge", "metric", "by_fold"), VARIANTS)
def test_the_models_are_those_of_one_worker(
    rows: DataFrame,
    kind: Any,
    label: str,
    settings: dict[str, Any],
    judge: Any,
    metric: dict[str, Any],
    by_fold: bool,
    request: pytest.FixtureRequest,
) -> None:
    last = kind(label_col=label, **{**COMMON, **settings})
    estimator = stages(last) if by_fold else last
    points = [{last.max_depth: depth} for depth in (2, 4)]
    evaluator = judge(labelCol=label, **metric)
    whole = found(rows, estimator, points, evaluator)
    request.getfixturevalue("divided")

    fits = found(rows, estimator, points, evaluator, keep_models=True)

    assert values(fits) == pytest.approx(values(whole), abs=1e-5)
    assert {pair: fit.rounds for pair, fit in fits.items()} == {pair: fit.rounds for pair, fit in whole.items()}
    assert {fit.solver for fit in whole.values()} == {"xgboost, a matrix a fold"}
    assert {fit.solver for fit in fits.values()} == {"xgboost, rows divided"}
    for (_, fold), fit in list(fits.items())[:2]:
        kept = fit.model()  # type: ignore[misc]
        assert evaluator.evaluate(kept.transform(rows.where(FOLDS.validates(fold)))) == pytest.approx(
            fit.value, abs=1e-6
        )


@pytest.mark.slow
def test_against_xgboost_by_itself(rows: DataFrame, divided: None) -> None:
    """One worker has no rows; scikit-learn judges."""
    last = SparkXGBClassifier(label_col="two", **COMMON)
    frame = rows.repartitionById(2, F.lit(0))
    assert sorted(frame.rdd.glom().map(len).collect()) == [0, ROWS]

    fits = found(frame, last, [{}], BinaryClassificationEvaluator(labelCol="two", numBins=0))

    local = rows.toPandas()
    x = np.array([vector.toArray() for vector in local["features"]], dtype=np.float32)
    y, fold = local["two"].to_numpy(), local["fold"].to_numpy()
    expected = {}
    for k in range(3):
        train, valid = fold != k, fold == k
        part = xgboost.QuantileDMatrix(x[train], y[train])
        model = xgboost.train({"max_depth": 3, "objective": "binary:logistic", "nthread": 1}, part, 6)
        margin = model.inplace_predict(x[valid], predict_type="margin")
        expected[0, k] = metrics.roc_auc_score(y[valid], margin)
    assert values(fits) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_halving(rows: DataFrame, request: pytest.FixtureRequest) -> None:
    """Boosters that are divided go on from where they stood, too."""
    last = SparkXGBRegressor(label_col="number", **COMMON)
    points = [{last.max_depth: depth, last.learning_rate: rate} for depth in (1, 3) for rate in (0.01, 0.3)]
    judge = RegressionEvaluator(labelCol="number")
    whole = found(rows, last, points, judge, halving=Halving(2, frozenset(range(4))))
    request.getfixturevalue("divided")

    fits = found(rows, last, points, judge, halving=Halving(2, frozenset(range(4))))

    assert values(fits) == pytest.approx(values(whole), abs=1e-5)
    assert {pair: fit.share for pair, fit in fits.items()} == {pair: fit.share for pair, fit in whole.items()}
    assert {fit.share for fit in fits.values()} == {1 / 4, 1 / 2, 1}


class Dies(TrainingCallback):
    """The first worker that has trained three rounds is gone."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._mark = folder / "death"

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if epoch == 2:
            try:
                self._mark.touch(exist_ok=False)
            except FileExistsError:
                return False
            os._exit(9)
        return False


@pytest.mark.slow
def test_a_worker_that_dies_is_started_anew(
    spark: SparkSession, rows: DataFrame, divided: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a model, whose other worker waits for sums: the model is trained again, and the next ones as before."""
    last = SparkXGBClassifier(label_col="two", **COMMON)
    judge = BinaryClassificationEvaluator(labelCol="two", numBins=0)
    expected = found(rows, last, [{}], judge)

    dying = SparkXGBClassifier(label_col="two", callbacks=[Dies(tmp_path)], **COMMON)
    fits = found(rows, dying, [{}], judge)

    assert values(fits) == values(expected)
    assert (tmp_path / "death").exists()
    assert [record.getMessage()[:31] for record in caplog.records if record.levelno == logging.WARNING] == [
        "Attempt 1 of pass 'boost' faile"
    ]
    assert settled(spark)


@pytest.mark.slow
def test_what_xgboost_refuses_is_the_error_of_the_model(spark: SparkSession, rows: DataFrame, divided: None) -> None:
    last = SparkXGBClassifier(label_col="two", **COMMON)

    fits = found(rows, last, [{last.max_depth: -1}, {}], BinaryClassificationEvaluator(labelCol="two", numBins=0))

    errors = {pair: str(fit.error) for pair, fit in fits.items() if fit.error is not None}
    assert sorted(errors) == [(0, 0), (0, 1), (0, 2)]
    assert all("value -1 for Parameter max_depth should be greater equal to 0" in text for text in errors.values())
    assert all(fit.value for (point, _), fit in fits.items() if point == 1)
    assert settled(spark)


@pytest.mark.slow
def test_rows_that_cannot_be_loaded_are_a_sentence(spark: SparkSession, rows: DataFrame, divided: None) -> None:
    """In one worker, for which the other would wait when they train."""
    frame = rows.withColumn("two", F.when(F.col("key") == 7, float("nan")).otherwise(F.col("two")))
    last = SparkXGBRegressor(label_col="two", **COMMON)

    fits = found(frame, last, [{}], RegressionEvaluator(labelCol="two"))

    assert {str(fit.error) for fit in fits.values()} == {
        "Column 'label' is null or NaN in 1 rows of one partition; expected a number in each: impute or drop them before the fit."
    }
    assert len(fits) == 3
    assert settled(spark)


@pytest.mark.slow
def test_without_workers_that_wait_one_task_tries(
    spark: SparkSession, rows: DataFrame, divided: None, caplog: pytest.LogCaptureFixture
) -> None:
    last = SparkXGBClassifier(label_col="two", **COMMON)
    with (
        spark_setting(spark, "spark.dynamicAllocation.enabled", "true"),
        spark_setting(spark, "spark.dynamicAllocation.testing", "true"),
    ):
        fits = found(rows, last, [{}], BinaryClassificationEvaluator(labelCol="two", numBins=0))
        trees.fit(last, rows)

    assert {fit.solver for fit in fits.values()} == {"xgboost, a matrix a fold"}
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "One task holds all rows of boosted trees nevertheless (no task has room for all rows (all rows are 0 MiB, of 0 MiB that an"
        " executor has for them): each worker has a part, and all train each model together), because there are no workers that wait:"
        " dynamic allocation is on (spark.dynamicAllocation.enabled), under which Spark refuses barrier stages."
    ] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"feature_names": ["a", "b", "c", "d"]}, EARLY], ids=["to the end, by names", "stopping early"]
)
def test_one_fit(rows: DataFrame, settings: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """The refit of a search on all rows."""
    last = SparkXGBClassifier(label_col="two", weight_col="weight", **{**COMMON, **settings})
    whole = trees.fit(last, rows)
    request.getfixturevalue("divided")

    model = trees.fit(last, rows)

    def scores(fitted: Any) -> list[float]:
        score = vector_to_array(F.col("probability"))[1].alias("score")
        return [row[0] for row in fitted.transform(rows).orderBy("key").select(score).collect()]

    assert scores(model) == pytest.approx(scores(whole), abs=1e-5)


@pytest.mark.slow
def test_the_plan_says_so(spark: SparkSession, rows: DataFrame, divided: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that no GPU is used; where one is required, nothing runs."""
    last = SparkXGBClassifier(label_col="two", **COMMON)
    validator = CrossValidator(
        estimator=last, estimatorParamMaps=[{last.max_depth: 2}, {last.tree_method: "approx"}], numFolds=3, foldCol="fold",
        evaluator=BinaryClassificationEvaluator(labelCol="two", numBins=0),
    )  # fmt: skip
    held = "(all rows are 0 MiB, of 0 MiB that an executor has for them)"

    assert [(each.solver, each.reason) for each in validator.plan(rows)] == [
        (
            "xgboost, rows divided",
            f"no task has room for all rows {held}: each worker has a part, and all train each model together",
        ),
        (
            "xgboost, a matrix a fold",
            f"trees that are not grown on bins need all rows in one place, whose memory may not do {held}",
        ),
    ]

    monkeypatch.setattr(gpus, "found", lambda spark: Found(("a GPU",), "", ""))
    try:
        spark.conf.set(gpus.SETTING, "auto")
        assert [each.device for each in validator.plan(rows)] == [
            "CPU: rows that no worker has room for are divided, and workers train on their part of them on processors",
            "GPU: workers have a GPU",
        ]
        spark.conf.set(gpus.SETTING, "require")
        with pytest.raises(NoGpu, match=r"none to use for trees: rows that no worker has room for are divided"):
            validator.fit(rows)
    finally:
        spark.conf.unset(gpus.SETTING)


MIB = 2**20


@pytest.mark.parametrize(
    ("rows", "features", "room", "expected"),
    [
        (1_000_000, 40, None, Division(4, "a task has room for all rows (221 MiB)", 1_000_000, 40)),
        (4_000_000, 40, 2_000 * MIB, Division(4, "each task has room for all rows ({})", 4_000_000, 40)),
        (4_000_000, 40, 1_700 * MIB, Division(1, "1 at once have room for all rows ({})", 4_000_000, 40)),
        (4_000_000, 40, 800 * MIB, Division(0, "no task has room for all rows ({}): each worker has a part, and all train each model together", 4_000_000, 40)),
    ],
)  # fmt: skip
def test_the_rule(
    spark: SparkSession, rows: int, features: int, room: int | None, expected: Division, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks run beside each other here, of four that are allowed."""

    def has(spark: SparkSession) -> int:
        assert room is not None, "a worker is not asked about so few bytes"
        return room

    monkeypatch.setattr(tree_division, "room", has)
    held = f"all rows are 885 MiB, of {(room or 0) // MIB:,} MiB that an executor has for them"

    division = tree_division.of(spark, rows, features, 4)

    assert division == Division(expected.tasks, expected.reason.format(held), rows, features)


@pytest.mark.slow
def test_a_worker_says_what_it_has_room_for(spark: SparkSession) -> None:
    available = {line.split(":")[0]: line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines()}
    most = int(available["MemTotal"]) * 1024 // 2

    assert 64 * MIB < tree_division.room(spark) <= most
