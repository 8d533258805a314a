"""Rows that tests of boosted trees share, and the search over them."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.feature import StringIndexer, VectorAssembler, VectorSizeHint
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession

from models import any_estimator, tree_search
from models.folds import Folds, canonical

ROWS, FOLDS = 600, 3
COMMON: dict[str, Any] = {"n_estimators": 8, "max_depth": 3, "num_workers": 1, "missing": float("nan")}
EARLY = {"validation_indicator_col": "aside", "early_stopping_rounds": 2, "learning_rate": 0.8}


def make(spark: SparkSession) -> DataFrame:
    """Four features with missing values, a text, labels of two and of three classes, a number, a weight, a fold and rows aside."""
    random = np.random.default_rng(7)
    values = []
    for key in range(ROWS):
        x = random.normal(size=4)
        number = float(x[0] + x[1] * x[2])
        two, three = float(number + random.normal() > 0), float(np.digitize(number, [-1, 1]))
        x[random.integers(4)] = np.nan
        text = "abcd"[int(random.integers(4))]
        values.append(
            (
                key,
                Vectors.dense(x),
                text,
                two,
                three,
                number,
                float(1 + key % 2),
                int(random.integers(-1, FOLDS)),
                key % 5 == 0,
            )
        )
    names = ["key", "features", "text", "two", "three", "number", "weight", "fold", "aside"]
    return canonical(spark.createDataFrame(values, names), ("key",), ROWS).cache()


def fitted_stages() -> list[Any]:
    """The features, missing values among them, and the text as codes that depend on the rows: `all`."""
    return [
        StringIndexer(inputCol="text", outputCol="code"),
        VectorSizeHint(inputCol="features", size=4, handleInvalid="optimistic"),
        VectorAssembler(inputCols=["features", "code"], outputCol="all", handleInvalid="keep"),
    ]


def grid(estimator: Any) -> list[dict[Any, Any]]:
    return [{estimator.max_depth: depth, estimator.n_estimators: count} for depth, count in ((2, 8), (4, 5))]


def found(
    frame: DataFrame,
    folds: Folds,
    estimator: Any,
    points: list[Any],
    judge: Evaluator,
    *,
    parallelism: int = 2,
    **options: Any,
) -> Any:
    routes = [any_estimator.route(estimator, point, extra) for point, extra in enumerate(points)]
    assert [tree_search.reason_against(way, judge) for way in routes] == [None] * len(routes)
    return {
        (fit.point, fit.fold): fit
        for fit in tree_search.fits(frame, folds, routes, judge, parallelism=parallelism, **options)
    }  # fmt: skip
