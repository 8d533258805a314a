"""Estimators that spark-rapids-ml fits on GPUs: what its tables allow, and all of a fit up to the device, where there is none."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Estimator, Pipeline
from pyspark.ml.classification import GBTClassifier, RandomForestClassifier
from pyspark.ml.clustering import KMeans
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import PCA
from pyspark.ml.linalg import Vectors
from pyspark.ml.regression import RandomForestRegressor
from pyspark.sql import DataFrame, SparkSession
from spark_rapids_ml.classification import RandomForestClassifier as Theirs

from models import gpus, rapids_ml
from models.gpus import Choice, Found, NoGpu
from models.tuning import CrossValidator

without = pytest.mark.skipif(
    importlib.util.find_spec("cuml") is not None, reason="cuML is installed: this machine may have a GPU"
)


@pytest.fixture
def rows(spark: SparkSession) -> Iterator[DataFrame]:
    random = np.random.default_rng(0)
    values = [(Vectors.dense(random.normal(size=2)), float(k % 2), k % 3) for k in range(60)]
    yield spark.createDataFrame(values, ["features", "label", "fold"]).repartition(2)
    spark.conf.unset(gpus.SETTING)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers have is made up: most machines have none."""
    monkeypatch.setattr(gpus, "found", lambda spark: Found(("a GPU",), "", "", ""))


def validator(estimator: Estimator, *points: dict[Any, Any]) -> CrossValidator:
    return CrossValidator(
        estimator=estimator,
        estimatorParamMaps=list(points) or [{}],
        evaluator=BinaryClassificationEvaluator(),
        numFolds=3,
        foldCol="fold",
    )


@pytest.mark.parametrize(
    ("make", "settings", "lost"),
    [
        (RandomForestClassifier, {"numTrees": 5, "maxDepth": 4, "seed": 1, "maxBins": 64, "impurity": "entropy"}, ""),
        (RandomForestClassifier, {"featureSubsetStrategy": "0.5", "thresholds": [0.2, 0.8], "maxMemoryInMB": 512}, ""),
        (RandomForestClassifier, {"weightCol": "w", "subsamplingRate": 0.5}, "subsamplingRate=0.5, weightCol='w'"),
        (RandomForestRegressor, {"minInfoGain": 0.1, "impurity": "variance"}, "minInfoGain=0.1"),
        (KMeans, {"k": 3, "maxIter": 5, "tol": 0.1, "maxBlockSizeInMB": 2.0}, ""),
        (KMeans, {"distanceMeasure": "cosine"}, "distanceMeasure='cosine'"),
        (PCA, {"k": 1, "inputCol": "features", "outputCol": "two"}, ""),
    ],
)
def test_what_would_be_lost_is_named(
    spark: SparkSession, make: type[Estimator], settings: dict[str, Any], lost: str
) -> None:
    """By its own tables: what it leaves out with a printed line, too."""
    estimator = make()
    estimator._set(**settings)
    assert rapids_ml.knows(estimator)
    said = f"spark-rapids-ml fits {make.__name__} without {lost}" if lost else ""
    assert rapids_ml.reason_against(estimator) == said


def test_others_are_not_its_own() -> None:
    assert not rapids_ml.knows(GBTClassifier())
    assert not rapids_ml.knows(None)
    assert not rapids_ml.knows(Pipeline())


def test_plans_name_the_device(rows: DataFrame, gpu: None) -> None:
    """Point by point: a grid may set what keeps it off a GPU."""
    forest = RandomForestClassifier()
    search = validator(forest, {forest.numTrees: 3}, {forest.subsamplingRate: 0.5})
    assert [each.device for each in search.plan(rows)] == ["CPU: spark.millrace.gpu is never"] * 2
    rows.sparkSession.conf.set(gpus.SETTING, "auto")
    assert [each.device for each in search.plan(rows)] == [
        "GPU: workers have a GPU",
        "CPU: spark-rapids-ml fits RandomForestClassifier without subsamplingRate=0.5",
    ]
    assert [each.device for each in validator(GBTClassifier()).plan(rows)] == ["CPU: the estimator fits itself"]


def test_require_refuses_before_the_first_fit(rows: DataFrame, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second point's parameter, and a feature stage's."""
    rows.sparkSession.conf.set(gpus.SETTING, "require")
    monkeypatch.setattr(rapids_ml, "fit", lambda estimator, frame: pytest.fail("a fit began"))
    forest = RandomForestClassifier()
    for call in ("plan", "fit"):
        with pytest.raises(NoGpu) as caught:
            getattr(validator(forest, {forest.numTrees: 3}, {forest.subsamplingRate: 0.5}), call)(rows)
        assert str(caught.value) == (
            "A GPU is required (spark.millrace.gpu), and there is none to use for estimators: spark-rapids-ml fits"
            " RandomForestClassifier without subsamplingRate=0.5."
        )


@without
def test_auto_takes_the_processors_and_says_why(rows: DataFrame) -> None:
    """The models are MLlib's own."""
    forest = RandomForestClassifier(numTrees=3, seed=1)
    expected = validator(forest).fit(rows)
    gpus.taken(rows.sparkSession)
    rows.sparkSession.conf.set(gpus.SETTING, "auto")

    found = validator(forest).fit(rows)

    assert found.avgMetrics == expected.avgMetrics
    problem = "Python of the workers cannot import cupy: install the extra gpu of millrace there"
    assert gpus.taken(rows.sparkSession) == {"estimators": Choice(False, problem)}


@without
@pytest.mark.slow
def test_a_fit_gets_as_far_as_the_device(rows: DataFrame, gpu: None) -> None:
    """Its rows, its parameters and its barrier stage are in order: what is missing is cuML in the worker."""
    rows.sparkSession.conf.set(gpus.SETTING, "auto")
    forest = RandomForestClassifier(numTrees=3, seed=1, maxMemoryInMB=512)
    with pytest.raises(Exception, match=r"No module named '(cuml|cupy|pylibraft|rmm|cudf)") as caught:
        validator(forest).fit(rows)
    assert not isinstance(caught.value, ImportError), "it was to fail in a worker"


def test_the_model_is_stock(rows: DataFrame, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fit is MLlib's here, for want of a GPU: what it is asked for, and what becomes of its model, is as on one."""
    stock = RandomForestClassifier(numTrees=3, maxDepth=2, seed=1, maxMemoryInMB=512, predictionCol="said")
    expected = stock.fit(rows)
    asked: list[dict[str, Any]] = []

    class Fitted:
        def cpu(self) -> Any:
            return RandomForestClassifier(numTrees=3, maxDepth=2, seed=1).fit(rows)

    def fit(self: Any, frame: DataFrame) -> Fitted:
        asked.append({**self.cuml_params, "doubles": not self._float32_inputs})
        return Fitted()

    monkeypatch.setattr(Theirs, "fit", fit)

    model = rapids_ml.fit(stock, rows)

    assert [
        {name: each[name] for name in ("n_estimators", "max_depth", "random_state", "doubles")} for each in asked
    ] == [{"n_estimators": 3, "max_depth": 2, "random_state": 1, "doubles": True}]
    assert (type(model), model.uid) == (type(expected), stock.uid)
    said = [each.transform(rows).select("features", "probability", "said").collect() for each in (model, expected)]
    assert said[0] == said[1]
