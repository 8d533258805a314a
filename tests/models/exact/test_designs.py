"""Affine maps of feature stages against the stock stages, fitted on the training rows and applied to all."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.ml import Pipeline
from pyspark.ml.feature import Imputer, OneHotEncoder, StandardScaler, StringIndexer, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import SparkSession

from models.exact.driver import designs
from models.exact.driver import moments as exact
from models.exact.driver.passes import InProcess
from models.exact.worker.blocks import Blocks, Cell

FILL = 2.0
NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_pipeline(spark: SparkSession, drop_last: bool) -> None:
    """Imputed by the mean, indexed, one-hot and as an index, standardised; some are null, and one only in cell 1."""
    x = [1.0, None, 4.0, 2.5, None, 0.0, 7.0, None, 3.0]
    constant = [0.3, 0.3, None, 0.3, None, 0.3, 0.3, 0.3, None]
    level = ["b", "c", "b", "a", None, "a", "d", None, "b"]
    cell = [0, 0, 0, 0, 0, 0, 1, 1, 1]
    data = spark.createDataFrame(
        list(zip(range(9), x, constant, level, cell, strict=True)),
        "id int, x double, constant double, level string, cell int",
    )
    stages = Pipeline(
        stages=[
            Imputer(inputCols=["x", "constant"], outputCols=["x_", "constant_"]),
            StringIndexer(inputCol="level", outputCol="index", handleInvalid="keep"),
            OneHotEncoder(inputCol="index", outputCol="levels", dropLast=drop_last),
            VectorAssembler(inputCols=["x_", "constant_", "index", "levels"], outputCol="assembled"),
            StandardScaler(inputCol="assembled", outputCol="features", withMean=True),
        ]
    )
    fitted = stages.fit(data.where("cell = 0").coalesce(1))
    stock = fitted.transform(data).select("id", vector_to_array("features").alias("features")).orderBy("id").collect()

    filled = [[FILL if value is None else value for value in column] for column in (x, constant)]
    flags = [[float(value is None) for value in column] for column in (x, constant)]
    dense, codes = np.column_stack([*filled, *flags]), np.array([-1 if v is None else NAMES.index(v) for v in level])
    cells = [
        Cell(c, dense[at], codes[at, None].astype(np.int32), np.zeros(at.sum()), np.full(at.sum(), 5.0))
        for c in (0, 1)
        for at in [np.array(cell) == c]
    ]
    found = exact.of_replies(InProcess([Blocks(cells, (4,))]).run("moments", {"weighted": False}), 2)
    rows = exact.total(found, np.array([True, False]))
    order = designs.in_order(rows.nonzero[4:8], "frequencyDesc")
    means = [designs.mean_of_known(rows, value, value + 2, FILL) for value in (0, 1)]
    parts = [designs.imputed(8, value, value + 2, FILL, means[value]) for value in (0, 1)]
    parts += [designs.indexed(8, 4, order), designs.one_hot(8, 4, order, drop_last=drop_last)]
    features = designs.standardised(designs.assembled(parts), rows, with_mean=True, with_std=True)
    onehot = np.eye(5)[codes][:, :4]
    mapped = np.column_stack([dense, onehot]) @ features.matrix + features.offset
    np.testing.assert_allclose(mapped, [row["features"] for row in stock], atol=1e-12)
