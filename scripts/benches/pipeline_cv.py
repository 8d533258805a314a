"""Cross-validation of a whole Pipeline, 3 folds x 8 points: imputation, indexing, one-hot, scaling, logistic regression.

Ours against stock CrossValidator on the same cached columns, folds in a column; a third of the numbers and some texts are missing.
"""

from __future__ import annotations

import sys

from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import Imputer, OneHotEncoder, StandardScaler, StringIndexer, VectorAssembler
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Environment
from jobs import session
from scripts import paired, tuning_bench

SIZES = {"small": 20_000, "full": 200_000}
NUMBERS, TEXTS, FOLDS = 20, 3, 3


def rows(spark: SparkSession, count: int) -> DataFrame:
    """Cached rows, from hashes of their number."""

    def uniform(salt: int) -> Column:
        return F.pmod(F.xxhash64("id", F.lit(salt)), F.lit(1 << 40)) / float(1 << 40)

    numbers = [F.when(uniform(i + 100) > 1 / 3, (uniform(i) - 0.5) * (i + 1)).alias(f"n{i}") for i in range(NUMBERS)]
    texts = [F.format_string("level %d", (uniform(i + 50) ** 2 * 12).cast("int")).alias(f"t{i}") for i in range(TEXTS)]
    score = sum((uniform(i) - 0.5) * (1 if i % 2 else -1) for i in range(NUMBERS)) + (uniform(50) ** 2 - 0.3)
    label = (uniform(99) < 1 / (1 + F.exp(-score))).cast("double").alias("label")
    fold = F.pmod(F.xxhash64("id", F.lit(7)), F.lit(FOLDS)).cast("int").alias("fold")
    frame = (
        spark.range(0, count, 1, spark.sparkContext.defaultParallelism).select(*numbers, *texts, label, fold).cache()
    )
    frame.count()
    return frame


def pipeline() -> tuple[Pipeline, StandardScaler, LogisticRegression]:
    """The stages, and the two that the grid is over."""
    numbers, texts = [f"n{i}" for i in range(NUMBERS)], [f"t{i}" for i in range(TEXTS)]
    scaler = StandardScaler(inputCol="raw", outputCol="features")
    last = LogisticRegression()
    stages = [
        Imputer(inputCols=numbers, outputCols=[f"{name}_full" for name in numbers]),
        StringIndexer(inputCols=texts, outputCols=[f"{name}_index" for name in texts], handleInvalid="keep"),
        OneHotEncoder(inputCols=[f"{name}_index" for name in texts], outputCols=[f"{name}_hot" for name in texts]),
        VectorAssembler(
            inputCols=[*(f"{name}_full" for name in numbers), *(f"{name}_hot" for name in texts)], outputCol="raw"
        ),
        scaler,
        last,
    ]
    return Pipeline(stages=stages), scaler, last


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    spark = session.build(Environment(driver_memory=tuning_bench.DRIVER_MEMORY), app="bench pipeline_cv")
    frame = rows(spark, SIZES[given.size])
    estimator, scaler, last = pipeline()
    grid = (
        ParamGridBuilder()
        .addGrid(scaler.withMean, [False, True])
        .addGrid(last.regParam, [0.001, 0.01, 0.1, 0.3])
        .build()
    )
    ours, peer = tuning_bench.validators(estimator, grid, BinaryClassificationEvaluator(), folds=FOLDS)
    timings, mine, theirs = paired.take_turns(lambda: ours.fit(frame), lambda: peer.fit(frame), given.pairs)
    spark.stop()
    apart = tuning_bench.metrics_apart(mine, theirs)
    size = {"name": given.size, "rows": SIZES[given.size], "folds": FOLDS, "points": len(grid)}
    found = timings.line("pipeline_cv", size, {"metrics_apart": apart}, ok=apart <= 1e-4)
    return paired.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
