"""The job `train` with a stack of its candidates."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from pyspark.sql import SparkSession
from sklearn.metrics import f1_score, roc_auc_score

from jobs.score import unseen
from models.explain import importances
from models.registry import Registry
from tests.jobs.test_train import CANDIDATES, of_winner, out_of_fold, parcels, pipeline, tracking_uri, trials, world
from tests.jobs.told import Told
from transforms import contracts

__all__ = ["tracking_uri"]  # a fixture
LOGISTIC = "logistic(reg_param=0.01)"
FOREST = {"estimator": "random_forest", "grid": {"max_depth": [4]}, "params": {"num_trees": 5}}


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_stack_is_one_candidate_more(spark: SparkSession, tmp_path: Path, tracking_uri: str) -> None:
    """Trials that are there stand. Where it wins, its model is logged, and out-of-fold predictions are those that were measured."""
    candidates: dict[str, Any] = {**CANDIDATES, "forest": FOREST}
    train = {"metric": "area_under_roc", "candidates": candidates}
    folds = {"test": {"last": "5 days"}, "folds": {"kind": "random", "count": 3}}
    plain = pipeline("stacked", train=train, split=folds)
    rows = parcels(rows=400)
    rows["fold"] = np.where(rows["part"] == "test", -1, rows["parcel"] % 3)
    made = world(spark, tmp_path, tracking_uri, plain, rows)
    made.train(plain)
    before = made.table(contracts.trials("stacked"))
    spec = pipeline("stacked", train={**train, "stack": True}, split=folds)
    progress = Told()

    outcome = made.train(spec, progress)

    after = made.table(contracts.trials("stacked"))
    stack = after[after["candidate"] == "stack"]
    pd.testing.assert_frame_equal(
        *(
            each.sort_values(["candidate", "point", "fold"]).reset_index(drop=True)
            for each in (after[after["candidate"] != "stack"], before)
        )
    )
    assert sorted(stack[["point", "fold"]].values.tolist()) == [
        [point, fold] for point in range(4) for fold in range(3)
    ]
    assert [text for text in progress.messages if "stacking" in text] == [
        f"train: stacking {LOGISTIC}, trees(max_depth=1), forest(max_depth=4)"
    ]
    means = trials(made, spec).groupby(["candidate", "point"])["value"].mean()
    assert means.idxmax()[0] == "stack", "the data are to be such that it wins"
    assert outcome.details["candidate"] == "stack"
    assert outcome.details["parameters"]["of"] == f"{LOGISTIC}, trees(max_depth=1), forest(max_depth=4)"
    found = out_of_fold(made, spec)
    assert len(found) == found["parcel"].nunique() == (rows["fold"] >= 0).sum()
    score = found["probability"].map(lambda both: both[1])
    best = max(f1_score(found["label"], score >= value) for value in score)
    assert f1_score(found["label"], score >= outcome.details["threshold"]) == pytest.approx(best, abs=1e-12)
    registry = Registry(made.environment.tracking_uri, f"{made.environment.lake}/models")
    model = registry.load("stacked", outcome.details["model_version"])
    raw = spark.createDataFrame(
        rows[["size", "weight", "kind"]].astype(object).where(rows[["size", "weight", "kind"]].notna(), None),
        "size double, weight double, kind string",
    )
    assert set(importances(model, raw).shares) == {"size", "weight", "kind"}
    assert all(0 < row["probability"][1] < 1 for row in model.transform(raw).collect())
    strange = spark.createDataFrame([(0.5, 1.0, kind) for kind in ("box", "crate", None, "crate")], raw.schema)
    assert unseen(strange, model, ("kind",)) == {"kind": 2}
    source = MlflowClient(tracking_uri).get_model_version("stacked", str(outcome.details["model_version"])).source
    packages = Path(source, "requirements.txt").read_text().split()
    assert f"xgboost-cpu=={version('xgboost-cpu')}" in packages

    assert made.train(spec).unchanged


@pytest.mark.system
@pytest.mark.timeout(400)
def test_what_a_stack_said_out_of_fold_was_measured(spark: SparkSession, tmp_path: Path, tracking_uri: str) -> None:
    """In time: in the first fold it is its best member. scikit-learn finds the metric of its trials."""
    spec = pipeline("in_time", train={"metric": "area_under_roc", "candidates": CANDIDATES, "stack": True})
    made = world(spark, tmp_path, tracking_uri, spec, parcels())

    outcome = made.train(spec)

    found = out_of_fold(made, spec)
    score = found["probability"].map(lambda both: both[1])
    by_fold = [roc_auc_score(found["label"][found["fold"] == k], score[found["fold"] == k]) for k in (0, 1)]
    assert np.allclose(of_winner(made, spec, outcome), by_fold, atol=1e-9)
