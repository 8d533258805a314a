"""Cross-validations whose outcome must not depend on where they run; as a script, on the cluster whose master is named."""

from __future__ import annotations

import json
import sys
from typing import Any

from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import Imputer, OneHotEncoder, StandardScaler, StringIndexer, VectorAssembler
from pyspark.ml.regression import LinearRegression
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from models.tuning import CrossValidator
from tests.models.exact.standalone import session

Found = dict[str, dict[str, list[float]]]


def rows(spark: SparkSession, partitions: int) -> DataFrame:
    """Numbers, one of them with nulls, a text, a value, a flag and a fold, from hashes of the row's number."""

    def uniform(salt: int) -> Column:
        return F.pmod(F.xxhash64("id", F.lit(salt)), F.lit(1 << 30)) / float(1 << 30)

    score = 2 * uniform(1) - uniform(2) + F.when(uniform(4) < 0.3, 1.0).otherwise(0.0)
    return spark.range(0, 4000, 1, partitions).select(
        uniform(1).alias("a"),
        F.when(uniform(3) < 0.8, uniform(2)).alias("b"),
        F.when(uniform(4) < 0.3, "one").otherwise("other").alias("text"),
        (score + uniform(5)).alias("value"),
        (uniform(6) < 1 / (1 + F.exp(1 - 2 * score))).cast("double").alias("flag"),
        F.pmod(F.xxhash64("id", F.lit(7)), F.lit(3)).cast("int").alias("fold"),
    )


def found(frame: DataFrame) -> Found:
    """Metrics of all points, and the weights of the best model, of linear and of logistic regression after feature stages."""
    stages = [
        Imputer(inputCols=["b"], outputCols=["full"]),
        StringIndexer(inputCol="text", outputCol="index"),
        OneHotEncoder(inputCol="index", outputCol="hot", dropLast=True),
        VectorAssembler(inputCols=["a", "full", "hot"], outputCol="raw"),
        StandardScaler(inputCol="raw", outputCol="features", withMean=True),
    ]
    linear, logistic = LinearRegression(labelCol="value"), LogisticRegression(labelCol="flag")
    results: Found = {}
    for name, last, evaluator in (
        ("linear", linear, RegressionEvaluator(labelCol="value")),
        ("logistic", logistic, BinaryClassificationEvaluator(labelCol="flag")),
    ):
        grid = ParamGridBuilder().addGrid(last.regParam, [0.001, 0.1]).addGrid(last.elasticNetParam, [0.0, 0.7]).build()
        model = CrossValidator(
            estimator=Pipeline(stages=[*stages, last]), estimatorParamMaps=grid, evaluator=evaluator, foldCol="fold"
        ).fit(frame)
        best: Any = model.bestModel
        fitted = best.stages[-1]
        results[name] = {
            "metrics": list(model.avgMetrics),
            "weights": [*fitted.coefficients.toArray().tolist(), fitted.intercept],
        }
    return results


def main(master: str, root: str, _: str) -> None:
    """Print what is found on a cluster of two cores."""
    spark = session(master, root)
    sys.stdout.write("FOUND " + json.dumps(found(rows(spark, 3))) + "\n")
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
