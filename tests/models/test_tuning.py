"""The tuner: a stub estimator whose right answer is known, stock CrossValidator as oracle, stock classes in a fresh process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark import keyword_only
from pyspark.errors import IllegalArgumentException
from pyspark.ml import Estimator, Model, Pipeline
from pyspark.ml.classification import LinearSVC, LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator, Evaluator, RegressionEvaluator
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.ml.linalg import Vectors
from pyspark.ml.param import Param, Params
from pyspark.ml.regression import LinearRegression
from pyspark.ml.tuning import CrossValidator as StockCrossValidator
from pyspark.ml.tuning import CrossValidatorModel, ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from models.folds import Folds
from models.trials import Trial
from models.tuning import CrossValidator, Search, fit, tune
from transforms.errors import ConfigError, ModelError

FITS: Counter[float] = Counter()


class ErrorModel(Model):
    """Predicts the feature plus its own error."""

    error: Param[float] = Param(Params._dummy(), "error", "added to every prediction")

    def _transform(self, dataset: DataFrame) -> DataFrame:
        return dataset.withColumn("prediction", F.col("feature") + F.lit(self.getOrDefault(self.error)))


class ErrorEstimator(Estimator[ErrorModel]):
    """Needs no training: the best value of its only parameter is 0, where the rmse is 0. Refuses a negative one."""

    error: Param[float] = Param(Params._dummy(), "error", "added to every prediction")

    @keyword_only
    def __init__(self, error: float = 1.0) -> None:
        super().__init__()
        self._set(error=error)

    def _fit(self, dataset: DataFrame) -> ErrorModel:
        error = self.getOrDefault(self.error)
        with LOCK:
            FITS[error] += 1
        if error < 0:
            raise ValueError(f"error must not be negative, got {error}\nrow: 7")
        return self._copyValues(ErrorModel())


LOCK = threading.Lock()


@pytest.fixture(autouse=True)
def _no_fits_yet() -> None:
    FITS.clear()


@pytest.fixture
def lines(spark: SparkSession) -> DataFrame:
    """Forty rows with the label equal to the feature."""
    rows = [(float(i), float(i), i % 3) for i in range(40)]
    return spark.createDataFrame(rows, "feature double, label double, fold int").repartition(2)


@pytest.fixture(scope="module")
def points(spark: SparkSession) -> DataFrame:
    """Two overlapping classes in three dimensions, a regression target, a weight, and folds: 0 to 2, and -1 first in time."""
    random = np.random.default_rng(7)
    rows = []
    for i in range(120):
        x = random.normal(size=3)
        label = float(x[0] - 0.5 * x[1] + random.normal() > 0)
        target = float(2 * x[0] + x[2] + random.normal())
        rows.append((i, Vectors.dense(x), *map(float, x), label, target, float(1 + i % 3), i % 3, i // 30 - 1))
    names = ["key", "features", "a", "b", "c", "label", "target", "weight", "fold", "block"]
    return spark.createDataFrame(rows, names).repartition(2).cache()


def rmse() -> RegressionEvaluator:
    return RegressionEvaluator(metricName="rmse")


def grid(estimator: Any, values: list[float]) -> list[Any]:
    return ParamGridBuilder().addGrid(estimator.error, values).build()


def search(values: list[float], evaluator: Evaluator | None = None, parallelism: int = 1) -> Search:
    estimator = ErrorEstimator()
    return Search(
        estimator,
        grid(estimator, values),
        evaluator or rmse(),
        Folds(3, "fold"),
        "stub",
        "rmse",
        parallelism=parallelism,
    )


@pytest.mark.quick
def test_the_known_optimum_of_a_minimised_metric_wins(lines: DataFrame) -> None:
    """The error of 0 gives an rmse of 0 in every fold; every other point its own error."""
    estimator = ErrorEstimator()
    fitted = CrossValidator(
        estimator=estimator, estimatorParamMaps=grid(estimator, [100.0, 0.0, 10.0]), evaluator=rmse()
    ).fit(lines)

    assert type(fitted) is CrossValidatorModel
    assert fitted.bestModel.getOrDefault("error") == 0.0
    assert np.allclose(fitted.avgMetrics, [100.0, 0.0, 10.0], atol=1e-9)
    assert np.allclose(fitted.stdMetrics, [0.0, 0.0, 0.0], atol=1e-9)
    assert fitted.transform(lines).where("prediction != label").count() == 0


def test_the_known_optimum_of_a_maximised_metric_wins(lines: DataFrame) -> None:
    """r2 is 1 for the error of 0."""
    estimator = ErrorEstimator()
    evaluator = RegressionEvaluator(metricName="r2")
    validator = CrossValidator(
        estimator=estimator, estimatorParamMaps=grid(estimator, [100.0, 0.0, 10.0]), evaluator=evaluator
    )
    fitted = validator.fit(lines)

    assert fitted.bestModel.getOrDefault("error") == 0.0
    assert fitted.avgMetrics[1] == pytest.approx(1.0)


def test_of_equal_points_the_first_wins(lines: DataFrame) -> None:
    """Ties go to the simpler model, which a grid names first."""
    assert tune(search([3.0, 3.0]), lines).best == 0


def test_parallel_equals_serial(lines: DataFrame) -> None:
    """Threads change neither scores nor winner."""
    values = [5.0, 4.0, 0.5, 7.0]
    serial, parallel = tune(search(values), lines), tune(search(values, parallelism=4), lines)

    assert serial.scores.tolist() == parallel.scores.tolist()
    assert serial.best == parallel.best == 2


def test_sub_models_are_collected_by_fold_and_point(lines: DataFrame) -> None:
    """As stock has it: `subModels[fold][point]`; without the parameter there are none."""
    estimator = ErrorEstimator()
    validator = CrossValidator(estimator=estimator, estimatorParamMaps=grid(estimator, [1.0, 2.0]), evaluator=rmse())

    models = validator.copy({validator.collectSubModels: True}).fit(lines).subModels
    assert [[m.getOrDefault("error") for m in fold] for fold in models] == [[1.0, 2.0]] * 3
    assert validator.fit(lines).subModels is None


@pytest.mark.quick
def test_known_trials_are_not_fitted_again(lines: DataFrame) -> None:
    """A search that is given the trials of an interrupted one fits the rest and ends with the same scores."""
    values = [5.0, 0.5]
    whole = tune(search(values), lines)
    FITS.clear()
    seen: list[Trial] = []

    resumed = tune(search(values), lines, known=whole.trials[:4], on_trial=seen.append)

    assert Counter({0.5: 2}) == FITS
    assert [(trial.point, trial.fold) for trial in seen] == [(1, 1), (1, 2)]
    assert resumed.scores.tolist() == whole.scores.tolist()


def test_a_failing_point_is_a_row_with_its_error(lines: DataFrame) -> None:
    """The others go on; the error's first line is kept."""
    result = tune(search([5.0, -1.0]), lines)

    errors = [trial.error for trial in result.trials]
    assert errors == [None] * 3 + ["ValueError: error must not be negative, got -1.0"] * 3
    assert np.isnan(result.scores).tolist() == [[False] * 3, [True] * 3]
    assert result.best == 0


def test_a_value_that_mllib_refuses_fails_its_point_only(points: DataFrame) -> None:
    """MLlib looks at the range of a value when the stage is copied, before any fit."""
    estimator = LogisticRegression(maxIter=2)
    wanted = [{estimator.regParam: -1.0}, {estimator.regParam: 0.1}]
    result = tune(Search(estimator, wanted, BinaryClassificationEvaluator(), Folds(3, "fold")), points)

    assert result.best == 1
    assert [trial.point for trial in result.trials if "regParam given invalid value -1.0" in (trial.error or "")] == [
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("of", [LinearRegression, LogisticRegression])
def test_a_value_that_mllib_refuses_is_refused_wherever_it_was_set(points: DataFrame, of: Any) -> None:
    """On the estimator itself as in the grid: with the words of MLlib's own fit."""
    estimator = of(regParam=-1.0)
    judge = RegressionEvaluator() if of is LinearRegression else BinaryClassificationEvaluator()
    validator = CrossValidator(
        estimator=estimator, estimatorParamMaps=[{estimator.elasticNetParam: 0.5}], evaluator=judge, numFolds=2
    )
    told = []
    for call in (lambda: estimator.fit(points), lambda: validator.fit(points), lambda: fit(estimator, {}, points)):
        with pytest.raises(IllegalArgumentException) as refused:
            call()
        told.append(str(refused.value))
    assert told == [f"{estimator.uid} parameter regParam given invalid value -1.0."] * 3


def test_a_search_without_any_success_lists_the_errors(lines: DataFrame) -> None:
    """`best` is None; asking for one raises a sentence for each different error."""
    result = tune(search([-1.0, -2.0]), lines)

    assert result.best is None
    with pytest.raises(ModelError) as caught:
        result.require_best()
    assert caught.value.problems[1:] == (
        "candidate 'stub', 3 trial(s): ValueError: error must not be negative, got -1.0",
        "candidate 'stub', 3 trial(s): ValueError: error must not be negative, got -2.0",
    )


def test_the_drop_in_raises_the_first_error_as_stock_does(lines: DataFrame) -> None:
    """Code that catches the estimator's own exception keeps working."""
    estimator = ErrorEstimator()
    validator = CrossValidator(estimator=estimator, estimatorParamMaps=grid(estimator, [1.0, -1.0]), evaluator=rmse())
    with pytest.raises(ValueError, match="must not be negative"):
        validator.fit(lines)


def test_a_metric_that_is_not_a_number_does_not_win(lines: DataFrame) -> None:
    """NumPy's argmax would choose it."""
    result = tune(search([float("nan"), 5.0], RegressionEvaluator(metricName="r2")), lines)

    assert result.best == 1
    assert result.trials[0].error == "the metric is nan, expected a finite number"


def scaled(**settings: Any) -> tuple[StandardScaler, LogisticRegression, list[Any]]:
    """Scaler, estimator and the stages of a pipeline that ends in them."""
    scaler = StandardScaler(inputCol="raw", outputCol="scaled")
    last = LogisticRegression(featuresCol="scaled", standardization=False, maxIter=10, **settings)
    return scaler, last, [VectorAssembler(inputCols=["a", "b", "c"], outputCol="raw"), scaler, last]


def case(name: str) -> dict[str, Any]:
    """Estimator, grid and evaluator of one comparison with stock."""
    evaluator: Evaluator = BinaryClassificationEvaluator(numBins=0)
    builder = ParamGridBuilder()
    estimator: Any
    if name == "logistic":
        estimator = LogisticRegression(maxIter=10)
        builder.addGrid(estimator.regParam, [0.0, 0.1])
    elif name == "weighted linear":
        estimator = LinearRegression(labelCol="target", weightCol="weight")
        builder.addGrid(estimator.regParam, [0.0, 1.0])
        evaluator = RegressionEvaluator(labelCol="target", weightCol="weight")
    elif name == "pipeline with a grid over features":
        scaler, last, stages = scaled()
        estimator = Pipeline(stages=stages)
        builder.addGrid(scaler.withMean, [False, True]).addGrid(last.regParam, [0.01, 1.0])
    elif name == "pipelines as grid points":
        estimator = Pipeline(stages=[])
        builder.addGrid(estimator.stages, [[LogisticRegression()], scaled()[2], scaled(regParam=0.1)[2]])
    else:
        estimator = LinearSVC(maxIter=5)
        builder.addGrid(estimator.regParam, [0.01, 1.0])
    return {
        "estimator": estimator,
        "estimatorParamMaps": builder.build(),
        "evaluator": evaluator,
        "foldCol": "fold",
        "parallelism": 2,
    }


CASES = (
    "logistic",
    "weighted linear",
    "pipeline with a grid over features",
    "pipelines as grid points",
    "general estimator",
)


@pytest.mark.parametrize("name", CASES)
def test_scores_equal_stock_cross_validator(points: DataFrame, name: str) -> None:
    """Same folds by `foldCol`: averages and deviations to 1e-8, and a best model that predicts the same."""
    given = case(name)

    ours, theirs = CrossValidator(**given).fit(points), StockCrossValidator(**given).fit(points)

    assert np.allclose(ours.avgMetrics, theirs.avgMetrics, rtol=0, atol=1e-8)
    assert np.allclose(ours.stdMetrics, theirs.stdMetrics, rtol=0, atol=1e-8)
    found, expected = (
        fitted.transform(points).select("key", "prediction").orderBy("key").toPandas()["prediction"]
        for fitted in (ours, theirs)
    )
    assert np.allclose(found, expected, rtol=0, atol=1e-6)


def test_feature_stages_are_fitted_once_a_fold(points: DataFrame) -> None:
    """Four grid points share the scaler that none of them touches."""
    fitted: list[int] = []

    class CountingScaler(StandardScaler):
        def _fit(self, dataset: DataFrame) -> Any:
            fitted.append(1)
            return super()._fit(dataset)

    last = LogisticRegression(featuresCol="scaled", maxIter=2)
    assembler = VectorAssembler(inputCols=["a", "b", "c"], outputCol="raw")
    pipeline = Pipeline(stages=[assembler, CountingScaler(inputCol="raw", outputCol="scaled"), last])
    param_maps = ParamGridBuilder().addGrid(last.regParam, [0.0, 0.1, 0.2, 0.3]).build()
    tune(Search(pipeline, param_maps, BinaryClassificationEvaluator(), Folds(3, "fold")), points)

    assert len(fitted) == 3


def test_nothing_stays_cached(points: DataFrame, spark: SparkSession) -> None:
    """Also when a fit fails."""
    points.count()  # the fixture is cached by its first use
    before = spark.sparkContext._jsc.getPersistentRDDs().size()
    pipeline = Pipeline(stages=scaled(threshold=0.5)[2])
    wrong = RegressionEvaluator(labelCol="nowhere")
    validator = CrossValidator(estimator=pipeline, estimatorParamMaps=[{}], evaluator=wrong, foldCol="fold")
    with pytest.raises(IllegalArgumentException, match="nowhere"):
        validator.fit(points.withColumn("more", F.lit(1)))

    assert spark.sparkContext._jsc.getPersistentRDDs().size() == before


@pytest.mark.parametrize("train_from", ["", "start"])
def test_earlier_folds_equal_hand_made_loops(points: DataFrame, train_from: str) -> None:
    """Fold k trains on rows of blocks before it; with `trainFromCol` only on those whose label was known in time."""
    data = points.withColumn(
        "start", F.when(F.col("key") % 5 == 0, F.lit(None)).otherwise(F.col("block") + 1 + F.col("key") % 2)
    )
    estimator = LogisticRegression(maxIter=10)
    param_maps = ParamGridBuilder().addGrid(estimator.regParam, [0.01, 1.0]).build()
    evaluator = BinaryClassificationEvaluator(numBins=0)
    validator = CrossValidator(estimator=estimator, estimatorParamMaps=param_maps, evaluator=evaluator, foldCol="block")
    validator.setFoldScheme("earlier")
    if train_from:
        validator.setTrainFromCol(train_from)

    ours = validator.fit(data)

    by_hand = np.empty((3, 2))
    for fold in range(3):
        train = data.where(f"start <= {fold}" if train_from else f"block < {fold}")
        validation = data.where(f"block = {fold}")
        for point, extra in enumerate(param_maps):
            by_hand[fold, point] = evaluator.evaluate(estimator.fit(train, extra).transform(validation))
    assert np.allclose(ours.avgMetrics, by_hand.mean(axis=0), rtol=0, atol=1e-8)


def test_hash_folds_do_not_depend_on_partitioning(points: DataFrame) -> None:
    """One, two and seven partitions: the same folds and scores; another seed: others."""
    estimator = LogisticRegression(maxIter=10)
    validator = CrossValidator(
        estimator=estimator, estimatorParamMaps=[{}], evaluator=BinaryClassificationEvaluator(numBins=0), seed=3
    )

    scores = [validator.fit(points.repartition(n)).avgMetrics[0] for n in (1, 2, 7)]

    assert np.allclose(scores, scores[0], rtol=0, atol=1e-9)
    assert validator.setSeed(4).fit(points).avgMetrics[0] != pytest.approx(scores[0], abs=1e-9)


def test_a_saved_validator_keeps_our_parameters(spark: SparkSession, tmp_path: Path) -> None:
    """Saved and loaded by our class; what stock saved, ours loads."""
    estimator = LogisticRegression()
    param_maps = ParamGridBuilder().addGrid(estimator.regParam, [0.1, 0.2]).build()
    given: dict[str, Any] = {
        "estimator": estimator,
        "estimatorParamMaps": param_maps,
        "evaluator": rmse(),
        "numFolds": 4,
    }
    ours = CrossValidator(**given, foldCol="block", foldScheme="earlier", trainFromCol="start")
    ours.save(str(tmp_path / "ours"))
    StockCrossValidator(**given).save(str(tmp_path / "stock"))
    loaded, stock = CrossValidator.load(str(tmp_path / "ours")), CrossValidator.load(str(tmp_path / "stock"))

    assert type(loaded) is type(stock) is CrossValidator
    assert (loaded.uid, loaded.getNumFolds(), loaded.getFoldCol()) == (ours.uid, 4, "block")
    assert (loaded.getFoldScheme(), loaded.getTrainFromCol(), loaded.getKeyCol()) == ("earlier", "start", "")
    assert (stock.getNumFolds(), stock.getFoldScheme()) == (4, "others")
    assert loaded.getEstimatorParamMaps() == param_maps


def test_a_copy_is_independent(lines: DataFrame) -> None:
    """As in stock: estimator and evaluator are copied, extra parameters set."""
    estimator = ErrorEstimator()
    validator = CrossValidator(
        estimator=estimator, estimatorParamMaps=grid(estimator, [1.0]), evaluator=rmse(), foldCol="fold"
    )
    copied = validator.copy({validator.numFolds: 5, validator.foldScheme: "earlier"})

    assert type(copied) is CrossValidator
    assert (copied.getNumFolds(), copied.getFoldScheme(), copied.getEstimator().uid) == (5, "earlier", estimator.uid)
    assert copied.getEstimator() is not estimator
    assert (validator.getNumFolds(), validator.getFoldScheme()) == (3, "others")


@pytest.mark.slow
def test_results_load_with_stock_classes_in_a_fresh_process(points: DataFrame, tmp_path: Path) -> None:
    """The fitted CrossValidatorModel with sub-models, and a validator without our parameters."""
    estimator = LogisticRegression(maxIter=5)
    param_maps = ParamGridBuilder().addGrid(estimator.regParam, [0.1, 0.2]).build()
    validator = CrossValidator(
        estimator=estimator,
        estimatorParamMaps=param_maps,
        evaluator=BinaryClassificationEvaluator(),
        foldCol="fold",
        collectSubModels=True,
    )
    fitted = validator.fit(points)
    fitted.save(str(tmp_path / "model"))
    validator.save(str(tmp_path / "validator"))
    script = f"""
import sys
from pyspark.sql import SparkSession
from pyspark.ml.tuning import CrossValidator, CrossValidatorModel
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
model = CrossValidatorModel.load({str(tmp_path / "model")!r})
validator = CrossValidator.load({str(tmp_path / "validator")!r})
assert not any(name.split(".")[0] in ("models", "jobs", "transforms") for name in sys.modules)
print("RESULT", model.avgMetrics, len(model.subModels), len(model.subModels[0]), validator.getNumFolds())
spark.stop()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120)

    assert done.returncode == 0, done.stderr
    assert f"RESULT {fitted.avgMetrics} 3 2 3" in done.stdout


def test_plan_names_solver_and_reason(points: DataFrame) -> None:
    """Nothing is fitted; every grid point has its line."""
    estimator = ErrorEstimator()
    planned = CrossValidator(
        estimator=estimator, estimatorParamMaps=grid(estimator, [1.0, 2.0]), evaluator=rmse()
    ).plan(points)

    assert [(p.point, p.parameters, p.solver, p.passes) for p in planned] == [
        (0, {"error": 1.0}, "general", None),
        (1, {"error": 2.0}, "general", None),
    ]
    assert all(p.reason and p.bytes_per_worker > 0 for p in planned)
    assert not FITS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"foldScheme": "later"}, "foldScheme is 'later'; expected 'others' or 'earlier'."),
        (
            {"foldScheme": "earlier"},
            "foldScheme 'earlier' needs foldCol: a hash knows no time. Set foldCol to a column of fold numbers.",
        ),
        ({"trainFromCol": "start"}, "trainFromCol belongs to foldScheme 'earlier'. Set both, or neither."),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(
    lines: DataFrame, settings: dict[str, str], message: str
) -> None:
    """Before anything is fitted, in a sentence."""
    validator = CrossValidator(estimator=ErrorEstimator(), estimatorParamMaps=[{}], evaluator=rmse(), **settings)
    with pytest.raises(ConfigError) as caught:
        validator.fit(lines)
    assert str(caught.value) == message
    assert not FITS
