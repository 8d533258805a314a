"""What the benchmarks of the GPU path share: one validator in one session, on the GPU and on the processors in turn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyspark.ml import tuning as stock
from pyspark.sql import DataFrame, SparkSession

from conf.schema import Environment
from jobs import session
from models import gpus
from scripts import paired

NO_GPU = 3


def started(bench: str, stage: gpus.Stage, driver_memory: str) -> SparkSession:
    """A session whose workers can use a GPU; without one it says so, and the process ends with `NO_GPU`."""
    spark = session.build(Environment(driver_memory=driver_memory), app=f"bench {bench}")
    found = gpus.found(spark)
    problem = found.arrays if stage == "arrays" else found.trees
    if problem:
        spark.stop()
        paired.told(f"{Path(__file__).stem}: {bench} needs a GPU: {problem}. Nothing was measured.")
        sys.exit(NO_GPU)
    paired.told(f"GPU        {'; '.join(found.gpus)}")
    return spark


def on_both(
    validator: stock.CrossValidator, frame: DataFrame, pairs: int
) -> tuple[paired.Timings, stock.CrossValidatorModel, stock.CrossValidatorModel]:
    """Timings and models: ours on the GPU, its peer on the processors."""

    def fit(mode: str) -> stock.CrossValidatorModel:
        frame.sparkSession.conf.set(gpus.SETTING, mode)
        model: Any = validator.fit(frame)
        return model

    return paired.take_turns(lambda: fit("require"), lambda: fit("never"), pairs)
