"""What the benchmarks of the GPU path share: one validator in one session, on the GPU and on the processors in turn."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyspark.ml import Estimator
from pyspark.ml import tuning as stock
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.param import Param
from pyspark.sql import DataFrame, SparkSession

from conf.schema import Environment
from jobs import session
from models import gpus, rapids_ml
from scripts import paired

NO_GPU = 3


def started(bench: str, stage: gpus.Stage, driver_memory: str) -> SparkSession:
    """A session whose workers can use a GPU; without one it says so, and the process ends with `NO_GPU`."""
    spark = session.build(Environment(driver_memory=driver_memory), app=f"bench {bench}")
    found = gpus.found(spark)
    problem = getattr(found, stage)
    if problem:
        spark.stop()
        paired.told(f"{Path(__file__).stem}: {bench} needs a GPU: {problem}. Nothing was measured.")
        sys.exit(NO_GPU)
    paired.told(f"GPU        {'; '.join(found.gpus)}")
    return spark


def rapids(
    estimator: Estimator[Any], grid: Sequence[Mapping[Param[Any], Any]], evaluator: Evaluator, folds: int
) -> stock.CrossValidator:
    """NVIDIA's spark-rapids-ml on the same problem: its own CrossValidator over its estimator of the same name, in doubles."""
    given = {param.name: estimator.getOrDefault(param) for param in estimator.params if estimator.isSet(param)}
    theirs: Any = rapids_ml.counterpart(estimator)(float32_inputs=False, **given)
    validator: Any = importlib.import_module("spark_rapids_ml.tuning").CrossValidator
    points = [{theirs.getParam(param.name): value for param, value in point.items()} for point in grid]
    found: stock.CrossValidator = validator(
        estimator=theirs, estimatorParamMaps=points, evaluator=evaluator, numFolds=folds, foldCol="fold"
    )
    return found


def on_both(
    validator: stock.CrossValidator, frame: DataFrame, pairs: int
) -> tuple[paired.Timings, stock.CrossValidatorModel, stock.CrossValidatorModel]:
    """Timings and models: ours on the GPU, its peer on the processors."""

    def fit(mode: str) -> stock.CrossValidatorModel:
        frame.sparkSession.conf.set(gpus.SETTING, mode)
        model: Any = validator.fit(frame)
        return model

    return paired.take_turns(lambda: fit("require"), lambda: fit("never"), pairs)
