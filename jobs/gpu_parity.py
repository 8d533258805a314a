"""`millrace gpu-parity`: the same searches on the processors and on a GPU, and how far apart their answers are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pyspark.ml import Estimator
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator, Evaluator, RegressionEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table
from xgboost.spark import SparkXGBClassifier

from conf.load import load_environment
from jobs import session
from jobs.progress import print_problems
from models import any_estimator, gpus
from models.tuning import CrossValidator, CrossValidatorModel
from transforms.errors import MillraceError, QualityError

ROWS, FEATURES, FOLDS, SEEN = 100_000, 20, 3, 1_000


@dataclass(frozen=True)
class Distance:
    """How far apart two answers to one search are, and how far they may be.

    Attributes:
        search: which one.
        what: metrics (largest difference of a grid point's), coefficients (largest difference over the largest coefficient, of the
            best model) or predictions (mean difference of its predictions or probabilities).
    """

    search: str
    what: str
    apart: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.apart <= self.allowed


@dataclass(frozen=True)
class _Searched:
    """A search, and what its two answers may differ by."""

    name: str
    estimator: Estimator[Any]
    grid: list[dict[Any, Any]]
    evaluator: Evaluator
    metrics: float
    predictions: float


def execute(environment: str) -> int:
    """Compare on an environment's machines, print a table and a line of JSON; returns the exit code."""
    console = Console(stderr=True)
    try:
        place = load_environment(environment).model_copy(update={"gpu": "require"})
        spark = session.build(place, app="millrace gpu-parity")
        found = distances(spark)
        _print(found, console)
        wrong = [each for each in found if not each.ok]
        sys.stdout.write(
            json.dumps({"gpus": gpus.found(spark).gpus, "distances": [asdict(each) for each in found]}) + "\n"
        )
        if wrong:
            raise QualityError(
                [
                    f"{each.search}: {each.what} on a GPU and on processors are {each.apart:.3g} apart; expected {each.allowed:.3g} at most."
                    for each in wrong
                ]
            )
    except MillraceError as error:
        print_problems(error, console)
        return error.exit_code
    return 0


def distances(spark: SparkSession, one: str = "never", other: str = "require") -> list[Distance]:
    """Of every search, under two values of `models.gpus.SETTING`. Sums come in another order on a GPU: linear models agree to the
    solvers' own tolerance, trees cut at other values."""
    found: list[Distance] = []
    try:
        with any_estimator.cached(_rows(spark)) as frame:
            for search in _searches():
                answers = []
                for mode in (one, other):
                    spark.conf.set(gpus.SETTING, mode)
                    answers.append(_validator(search).fit(frame))
                found += _compared(search, answers[0], answers[1], frame.limit(SEEN))
    finally:
        spark.conf.set(gpus.SETTING, "never")
    return found


def _rows(spark: SparkSession) -> DataFrame:
    names = [f"x{i}" for i in range(FEATURES)]
    numbers = spark.range(0, ROWS, 1, 4).select("id", *(F.randn(i).alias(name) for i, name in enumerate(names)))
    score = sum((F.col(name) * (i % 5 - 2) / 3 for i, name in enumerate(names)), F.lit(0.0))
    labelled = numbers.withColumn("value", score + F.randn(FEATURES)).withColumn(
        "flag", (F.rand(FEATURES + 1) < 1 / (1 + F.exp(-score))).cast("double")
    )
    assembler = VectorAssembler(inputCols=names, outputCol="features")
    return assembler.transform(labelled).select(
        "features", "value", "flag", (F.col("id") % FOLDS).cast("int").alias("fold")
    )


def _searches() -> Iterator[_Searched]:
    linear = LinearRegression(labelCol="value")
    points = [{linear.regParam: r, linear.elasticNetParam: e} for r in (0.001, 0.1) for e in (0.0, 0.5)]
    yield _Searched("linear regression", linear, points, RegressionEvaluator(labelCol="value"), 1e-8, 1e-8)
    logistic = LogisticRegression(labelCol="flag")
    points = [{logistic.regParam: r, logistic.elasticNetParam: e} for r in (0.001, 0.1) for e in (0.0, 0.5)]
    areas = BinaryClassificationEvaluator(labelCol="flag", numBins=0)
    yield _Searched("logistic regression", logistic, points, areas, 1e-8, 1e-8)
    trees: Any = SparkXGBClassifier(label_col="flag", n_estimators=20, num_workers=1, missing=float("nan"))
    # One point: the best of two that are as good may be another one on a GPU.
    yield _Searched("boosted trees", trees, [{trees.max_depth: 4}], areas, 0.002, 0.02)


def _validator(search: _Searched) -> CrossValidator:
    return CrossValidator(
        estimator=search.estimator,
        estimatorParamMaps=search.grid,
        evaluator=search.evaluator,
        numFolds=FOLDS,
        foldCol="fold",
    )


def _compared(
    search: _Searched, one: CrossValidatorModel, other: CrossValidatorModel, seen: DataFrame
) -> Iterator[Distance]:
    metrics = float(np.max(np.abs(np.subtract(one.avgMetrics, other.avgMetrics))))
    yield Distance(search.name, "metrics", metrics, search.metrics)
    best: list[Any] = [one.bestModel, other.bestModel]
    if hasattr(best[0], "coefficients"):
        mine, theirs = (model.coefficients.toArray() for model in best)
        apart = float(np.max(np.abs(mine - theirs)) / np.max(np.abs(mine)))
        yield Distance(search.name, "coefficients", apart, search.metrics)
    said = [_said(model, seen) for model in best]
    yield Distance(search.name, "predictions", float(np.mean(np.abs(said[0] - said[1]))), search.predictions)


def _said(model: Any, seen: DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    rows = model.transform(seen)
    said = vector_to_array(F.col("probability"))[1] if "probability" in rows.columns else F.col("prediction")
    return np.array([row[0] for row in rows.select(said).collect()])


def _print(found: list[Distance], console: Console) -> None:
    table = Table("search", "what", "apart", "allowed", "")
    for each in found:
        table.add_row(
            each.search, each.what, f"{each.apart:.2g}", f"{each.allowed:.2g}", "ok" if each.ok else "differs"
        )
    console.print(table)
