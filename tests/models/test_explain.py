"""Importances lead back to raw columns through every stage that `models.preprocessing` makes."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression, NaiveBayes, RandomForestClassifier
from pyspark.ml.feature import SQLTransformer, VectorAssembler
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame, SparkSession
from xgboost.spark import SparkXGBClassifier

from models import preprocessing
from models.explain import Importances, importances
from models.preprocessing import Design

# size, weight (sometimes missing), noise, kind, label
SCHEMA = "size double, weight double, noise double, kind string, label double"


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    generator = np.random.default_rng(2)
    size, weight, noise, chance = generator.normal(size=(4, 300))
    kind = np.array(["a", "b", "c"])[np.arange(300) % 3]
    label = (2 * size + weight + 1.5 * (kind == "b") + 0.3 * chance > 0.5).astype(float)
    missing = np.arange(300) % 10 == 0
    data = [
        (float(10 * s), None if gone else float(w), float(n), str(k), float(y))
        for s, w, gone, n, k, y in zip(size, weight, missing, noise, kind, label, strict=True)
    ]
    return spark.createDataFrame(data, SCHEMA).repartition(2).cache()


def fitted(rows: DataFrame, design: Design, estimator: object) -> PipelineModel:
    profile = preprocessing.profile(rows, ["size", "weight", "noise"], ["kind"])
    return Pipeline(stages=[*preprocessing.stages(profile, design, "mean"), estimator]).fit(rows)


@pytest.mark.parametrize("design", [Design.LINEAR, Design.SCALED])
def test_a_linear_model_weighs_coefficients_by_the_spread_of_their_column(rows: DataFrame, design: Design) -> None:
    """By NumPy from the collected vectors; the missing flag counts for `weight`, the levels for `kind`."""
    model = fitted(rows, design, LogisticRegression(regParam=0.01))
    found = importances(model, rows)

    vectors = np.array([row.features.toArray() for row in model.transform(rows).select("features").collect()])
    spread = np.abs(model.stages[-1].coefficients.toArray()) * vectors.std(axis=0, ddof=1)
    slots = [[0], [1, 3], [2], [4, 5, 6]]  # size, weight and its flag, noise, three kinds
    expected = {
        name: spread[slot].sum() / spread.sum()
        for name, slot in zip(("size", "weight", "noise", "kind"), slots, strict=True)
    }
    assert vectors.shape[1] == 7
    assert found == Importances(pytest.approx(expected, rel=1e-9))
    assert sum(found.shares.values()) == pytest.approx(1)
    assert max(found.shares, key=lambda name: found.shares[name]) == "size"


def test_a_forest_gives_its_own_importances(rows: DataFrame) -> None:
    model = fitted(rows, Design.TREES, RandomForestClassifier(numTrees=5, seed=1))
    size, weight, noise, flag, kind = model.stages[-1].featureImportances.toArray()
    assert importances(model, rows).shares == pytest.approx(
        {"size": size, "weight": weight + flag, "noise": noise, "kind": kind}
    )


def test_boosted_trees_give_the_gain_of_their_splits(rows: DataFrame) -> None:
    """Gains from the dump of the trees, split by split."""
    estimator = SparkXGBClassifier(
        features_col="features", label_col="label", num_workers=1, n_estimators=8, max_depth=3
    )
    model = fitted(rows, Design.BOOSTED, estimator)
    splits = model.stages[-1].get_booster().trees_to_dataframe()
    gains = splits[splits.Feature != "Leaf"].groupby("Feature").Gain.sum()
    expected = {
        name: gains.get(f"f{slot}", 0.0) / gains.sum() for slot, name in enumerate(("size", "weight", "noise", "kind"))
    }
    assert importances(model, rows).shares == pytest.approx(expected, rel=1e-6)


def test_several_classes_count_alike(rows: DataFrame) -> None:
    """A multinomial model has coefficients per class: their mean size counts."""
    model = fitted(rows, Design.LINEAR, LogisticRegression(regParam=0.01, family="multinomial"))
    binomial = fitted(rows, Design.LINEAR, LogisticRegression(regParam=0.01))
    assert importances(model, rows).shares == pytest.approx(importances(binomial, rows).shares, rel=0.2)


@pytest.mark.quick
def test_what_cannot_be_explained_says_why(rows: DataFrame) -> None:
    """A model without weights, and one that predicts the same for every row."""
    absolute = SQLTransformer(statement="SELECT size, label, abs(size) AS magnitude FROM __THIS__")
    assembler = VectorAssembler(inputCols=["magnitude"], outputCol="features")
    bayes = Pipeline(stages=[absolute, assembler, NaiveBayes()]).fit(rows)
    assert importances(bayes, rows) == Importances(
        reason="NaiveBayesModel has neither coefficients nor feature importances."
    )
    constant = Pipeline(stages=[absolute, assembler, LinearRegression(regParam=1e9, elasticNetParam=1.0)]).fit(rows)
    assert importances(constant, rows) == Importances(
        reason="No column has any weight: the model predicts the same for every row."
    )
