"""Training on small tables as `features` leaves them: the search, its resumption, the winner, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from pyspark.sql import SparkSession
from sklearn.metrics import f1_score, roc_auc_score

from conf.schema import Environment, Pipeline
from jobs import train, trial_log
from jobs.lake import Lake, Transaction
from jobs.progress import Progress
from jobs.runs import Ledger, Outcome, Run, Stage
from models import any_estimator, exact_estimator, gpus
from models.any_estimator import Fit, Route
from models.registry import Registry
from tests.jobs.told import Told
from transforms import contracts, features
from transforms.errors import ContractError, ModelError

RUN_DATE = date(2024, 2, 1)
START = datetime(2024, 1, 1)
CANDIDATES: dict[str, Any] = {
    "logistic": {"estimator": "logistic_regression", "grid": {"reg_param": [0.01, 100.0]}},
    "trees": {"estimator": "boosted_trees", "grid": {"max_depth": [1]}, "params": {"n_estimators": 3}},
}

STACKED: dict[str, Any] = {"metric": "area_under_roc", "candidates": CANDIDATES, "stack": True}


def pipeline(name: str, **changes: Any) -> Pipeline:
    """Parcels with two numbers and a category; will one be late?"""
    spec: dict[str, Any] = {
        "pipeline": name,
        "task": "binary",
        "sources": {
            "parcels": {
                "files": "parcels.csv",
                "columns": {
                    "parcel": "int!",
                    "sent_at": "timestamp",
                    "size": "double",
                    "weight": "double",
                    "kind": "string",
                },
                "key": ["parcel"],
                "at": "sent_at",
            }
        },
        "features": {
            "spine": "parcels",
            "as_of": "sent_at",
            "label": {"name": "is_late", "value": "size"},
            "numeric": ["size", "weight"],
            "categorical": ["kind"],
        },
        "split": {"test": {"last": "5 days"}, "folds": {"kind": "time", "count": 2}},
        "train": {"metric": "area_under_roc", "candidates": CANDIDATES},
    }
    return Pipeline.model_validate({**spec, **changes})


def parcels(task: str = "binary", rows: int = 160) -> pd.DataFrame:
    """Training rows in three blocks of time (folds -1, 0, 1) and ten test rows; some sizes and kinds are missing."""
    random = np.random.default_rng(11)
    size, weight = random.normal(size=rows), random.exponential(size=rows)
    kind = random.choice(["box", "bag", "tube"], size=rows)
    raw = size + 0.5 * (kind == "bag") + random.normal(scale=0.7, size=rows)
    label = {"binary": (raw > 0.2), "multiclass": np.digitize(raw, [-0.5, 0.6]), "regression": raw}[task].astype(float)
    block = np.minimum(np.arange(rows) * 3 // (rows - 10), 3)
    return pd.DataFrame(
        {
            "parcel": np.arange(rows, dtype=np.int32),
            "as_of": [START + timedelta(hours=i) for i in range(rows)],
            "size": np.where(np.arange(rows) % 9 == 0, np.nan, size),
            "weight": weight,
            "kind": np.where(np.arange(rows) % 7 == 0, None, kind),
            "label": label,
            "part": np.where(block == 3, "test", "train"),
            "fold": np.where(block == 3, -1, block - 1).astype(np.int32),
            "train_from": [int(b) if b < 2 else None for b in block],
        }
    )


@dataclass(frozen=True)
class World:
    """A lake with the tables that `features` wrote, and what is needed to run `train` on it."""

    lake: Lake
    environment: Environment
    rows: pd.DataFrame

    def train(self, spec: Pipeline, progress: Progress | None = None, **given: Any) -> Outcome:
        """Run the job as a new process would."""
        return train.run(
            Run(
                spark=self.lake.spark,
                pipeline=spec,
                environment=self.environment,
                lake=self.lake,
                ledger=Ledger(self.lake, spec.pipeline),
                asked_run_date=RUN_DATE,
                progress=progress or Progress(),
                **given,
            )
        )

    def table(self, contract: contracts.Contract) -> pd.DataFrame:
        return self.lake.read(contract).toPandas()


def world(spark: SparkSession, root: Path, tracking_uri: str, spec: Pipeline, rows: pd.DataFrame) -> World:
    """Write features, labels and membership, and the ledger row of the job that makes them."""
    lake = Lake(spark, str(root / "lake"))
    tables = features.tables(spark, spec)
    whole = {"parcel": int, "fold": int, "train_from": int, "as_of": pd.Timestamp.to_pydatetime}
    values = [
        {name: None if pd.isna(value) else whole.get(name, lambda v: v)(value) for name, value in row.items()}
        for row in rows.to_dict("records")
    ]
    schema = "parcel int, as_of timestamp, size double, weight double, kind string, label double, part string, fold int, train_from int"
    frame = spark.createDataFrame(values, schema).repartition(3)
    known = frame.selectExpr("*", "as_of AS label_known_at")
    outputs = {}
    for contract in (tables.features, tables.labels, tables.membership):
        content = known if contract is not tables.membership else known.where("label IS NOT NULL")
        outputs[contract.table] = lake.replace(
            content.select(*contract.columns), contract, Transaction(contract.table, 1)
        ).version
    stamp = datetime.now(UTC).replace(tzinfo=None)
    stage = Stage("features", RUN_DATE, "f", 1, {}, outputs, None, None, 1.0, {}, "c0de", stamp)
    Ledger(lake, spec.pipeline).record(stage)
    return World(lake, Environment(lake=lake.root, mlflow=tracking_uri), rows)


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests here: a new one takes seconds, and models go by the pipeline's name."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def trained(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, tracking_uri: str
) -> tuple[World, Pipeline, Outcome]:
    """One uninterrupted run over both candidates and a stack of them."""
    spec = pipeline("parcels", train=STACKED)
    made = world(spark, tmp_path_factory.mktemp("trained"), tracking_uri, spec, parcels())
    return made, spec, made.train(spec)


def out_of_fold(made: World, spec: Pipeline) -> pd.DataFrame:
    tables = features.tables(made.lake.spark, spec)
    contract = contracts.out_of_fold(spec.pipeline, features.membership_version(spec), tables.key)
    return made.table(contract).sort_values("parcel").reset_index(drop=True)


def trials(made: World, spec: Pipeline) -> pd.DataFrame:
    table = made.table(contracts.trials(spec.pipeline)).sort_values(["candidate", "point", "fold"])
    return table.drop(columns=["seconds", "search"]).reset_index(drop=True)


def of_winner(made: World, spec: Pipeline, outcome: Outcome) -> list[float]:
    """Its metric in each fold, as its trials have it."""
    found = trials(made, spec)
    is_its = found["parameters"].map(json.loads) == outcome.details["parameters"]
    values: list[float] = found[is_its & (found["candidate"] == outcome.details["candidate"])]["value"].tolist()
    return values


def test_the_winner_is_the_best_mean_of_the_trials(trained: tuple[World, Pipeline, Outcome]) -> None:
    """One row for each candidate, point and fold; the details name the point whose mean is largest."""
    made, spec, outcome = trained
    found = trials(made, spec)

    assert found[["candidate", "point", "fold", "error"]].values.tolist() == [
        [candidate, point, fold, None]
        for candidate, point in (
            ("logistic", 0),
            ("logistic", 1),
            *(("stack", point) for point in range(4)),
            ("trees", 0),
        )
        for fold in (0, 1)
    ]
    means = found.groupby(["candidate", "point"])["value"].mean()
    assert (outcome.details["candidate"], outcome.details["cross_validated"]) == (
        means.idxmax()[0],
        pytest.approx(means.max()),
    )
    assert outcome.details["parameters"] == json.loads(
        found.set_index(["candidate", "point"]).loc[[means.idxmax()], "parameters"].iloc[0]
    )
    assert (outcome.details["trials"], outcome.details["failed"]) == (14, 0)
    assert (outcome.rows_in, outcome.rows_out) == (150, int((made.rows["fold"] >= 0).sum()))


def test_out_of_fold_predictions_are_those_that_were_measured(trained: tuple[World, Pipeline, Outcome]) -> None:
    """Every row that a fold validates, once, with the label; scikit-learn finds the same metric by fold, and the same best threshold."""
    made, spec, outcome = trained
    found = out_of_fold(made, spec)
    expected = made.rows[made.rows["fold"] >= 0]

    assert found[["parcel", "fold", "label"]].values.tolist() == expected[["parcel", "fold", "label"]].values.tolist()
    score = found["probability"].map(lambda both: both[1])
    by_fold = [roc_auc_score(found["label"][found["fold"] == k], score[found["fold"] == k]) for k in (0, 1)]
    assert np.allclose(of_winner(made, spec, outcome), by_fold, rtol=0, atol=1e-9)
    best = max(f1_score(found["label"], score >= value) for value in score)
    assert f1_score(found["label"], score >= outcome.details["threshold"]) == pytest.approx(best, abs=1e-12)


def test_the_logged_model_is_fitted_on_the_whole_training_part(trained: tuple[World, Pipeline, Outcome]) -> None:
    """The registry has it, with the exact table versions; it scores rows with missing values and unseen categories."""
    made, spec, outcome = trained
    registry = Registry(made.environment.tracking_uri, f"{made.environment.lake}/models")
    version = registry.get(spec.pipeline, outcome.details["model_version"])
    model = registry.load(spec.pipeline, version.version)
    unseen = made.lake.spark.createDataFrame(
        [(None, 1.0, None), (0.5, float("nan"), "crate")], "size double, weight double, kind string"
    )

    assert version.tables == outcome.inputs
    assert version.tags["search"] == outcome.details["search"]
    assert all(0.0 < row["probability"][1] < 1.0 for row in model.transform(unseen).collect())


@pytest.mark.slow
@pytest.mark.system
def test_the_model_loads_with_stock_pyspark_in_a_fresh_process(
    trained: tuple[World, Pipeline, Outcome], tmp_path: Path
) -> None:
    """No module of ours is imported, and the predictions are the same."""
    made, spec, outcome = trained
    registry = Registry(made.environment.tracking_uri, f"{made.environment.lake}/models")
    model = registry.load(spec.pipeline, outcome.details["model_version"])
    model.save(str(tmp_path / "model"))
    row = made.lake.spark.createDataFrame([(0.5, 1.0, "box")], "size double, weight double, kind string")
    expected = model.transform(row).collect()[0]["probability"][1]
    script = f"""
import sys
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
row = spark.createDataFrame([(0.5, 1.0, "box")], "size double, weight double, kind string")
print("RESULT", PipelineModel.load({str(tmp_path / "model")!r}).transform(row).collect()[0]["probability"][1])
assert not any(name.split(".")[0] in ("models", "jobs", "transforms", "conf") for name in sys.modules)
spark.stop()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=500)

    assert done.returncode == 0, done.stderr
    assert f"RESULT {expected}" in done.stdout


def test_the_same_run_again_does_nothing(trained: tuple[World, Pipeline, Outcome]) -> None:
    """The recorded outcome comes back."""
    made, spec, outcome = trained
    again = made.train(spec)

    assert again.unchanged
    assert again.details == outcome.details


class Interrupted(Exception):
    """Stands for a kill."""


def interrupt() -> None:
    raise Interrupted


@dataclass
class KilledAfter(Progress):
    """Stops the job at a trial, or at the message before the winner is refitted."""

    trials: int = 1_000
    message_part: str = "never"

    def advance(self, done: int, total: int, best: str = "", doing: str = "") -> None:
        if done > self.trials:
            raise Interrupted

    def message(self, text: str) -> None:
        if self.message_part in text:
            raise Interrupted


@pytest.mark.system
def test_killed_and_run_again_it_ends_with_the_same_tables(
    spark: SparkSession,
    tmp_path: Path,
    tracking_uri: str,
    trained: tuple[World, Pipeline, Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed in the second candidate, then before the refit: trials done are not fitted again, and there is one model version."""
    whole, whole_spec, _ = trained
    monkeypatch.setattr(
        trial_log, "MOST_SECONDS_UNWRITTEN", float("inf")
    )  # on a slow machine time alone would write more
    spec = pipeline("killed", train=STACKED)
    made = world(spark, tmp_path, tracking_uri, spec, parcels())
    with pytest.raises(Interrupted):
        made.train(spec, KilledAfter(trials=4))
    before = made.table(contracts.trials("killed"))
    with pytest.raises(Interrupted):
        made.train(spec, KilledAfter(message_part="refitting"))

    outcome = made.train(spec)

    assert before.groupby("candidate").size().to_dict() == {"logistic": 4}
    after = made.table(contracts.trials("killed"))
    assert len(after) == 14
    kept = after.merge(before, on=["candidate", "point", "fold", "seconds", "value"])
    assert len(kept) == 4
    pd.testing.assert_frame_equal(trials(made, spec), trials(whole, whole_spec), check_exact=False, atol=1e-9)
    found, expected = out_of_fold(made, spec), out_of_fold(whole, whole_spec)
    pd.testing.assert_frame_equal(
        found.drop(columns=["search", "probability"]), expected.drop(columns=["search", "probability"])
    )
    assert np.allclose(found["probability"].tolist(), expected["probability"].tolist(), rtol=0, atol=1e-9)
    assert outcome.details["model_version"] == 1


@pytest.mark.system
def test_another_winner_has_predictions_and_a_model_of_its_own(
    spark: SparkSession, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is killed when all is written but the ledger; a candidate that failed in it is tried again, and wins."""
    spec = pipeline("overtaken")
    made = world(spark, tmp_path, tracking_uri, spec, parcels())

    def fails(frame: Any, folds: Any, routes: list[Route], *_: Any, **__: Any) -> Generator[Fit]:
        for k, fold in any_estimator.pairs(routes, folds, ()):
            yield Fit(routes[k].point, fold, None, 0.0, "made up", ValueError("made up"))

    with monkeypatch.context() as patched:
        patched.setattr(exact_estimator, "fits", fails)
        patched.setattr(Registry, "log", lambda *given, log=Registry.log, **named: log(*given, **named) and interrupt())
        with pytest.raises(Interrupted):
            made.train(spec)
    before = out_of_fold(made, spec)

    outcome = made.train(spec)

    found = out_of_fold(made, spec)
    assert outcome.details["candidate"] == "logistic"
    assert outcome.details["model_version"] == 2
    version = Registry(made.environment.tracking_uri, f"{made.environment.lake}/models").get("overtaken", 2)
    assert MlflowClient(tracking_uri).get_run(version.run_id).data.params["candidate"] == "logistic"
    assert found[["parcel", "fold"]].equals(before[["parcel", "fold"]])
    score = found["probability"].map(lambda both: both[1])
    by_fold = [roc_auc_score(found["label"][found["fold"] == k], score[found["fold"] == k]) for k in (0, 1)]
    assert np.allclose(of_winner(made, spec, outcome), by_fold, rtol=0, atol=1e-9)
    best = max(f1_score(found["label"], score >= value) for value in score)
    assert f1_score(found["label"], score >= outcome.details["threshold"]) == pytest.approx(best, abs=1e-12)


SPACES: dict[str, Any] = {
    "logistic": {
        "estimator": "logistic_regression",
        "space": {"reg_param": {"from": 0.0001, "to": 10.0, "scale": "log"}},
    },
    "trees": {
        "estimator": "boosted_trees",
        "params": {"n_estimators": 6, "early_stopping_rounds": 2},
        "space": {"max_depth": {"from": 1, "to": 3}, "learning_rate": [0.001, 0.3, 0.9]},
        "halving": 2,
    },
}


@pytest.mark.slow
def test_a_search_over_spaces_goes_on_where_it_was_killed(
    spark: SparkSession, tmp_path: Path, tracking_uri: str, request: pytest.FixtureRequest
) -> None:
    """Five times, anywhere: trials that were written stand as they are, one round is lost at most, and the end is that of an unbroken run."""
    settings = {"metric": "log_loss", "candidates": SPACES, "search": {"trials": 5, "at_once": 3}}
    whole_spec, spec = (pipeline(name, train=settings) for name in ("searched", "broken"))
    whole = world(spark, tmp_path / "whole", tracking_uri, whole_spec, parcels())
    expected = whole.train(whole_spec)
    made = world(spark, tmp_path / "broken", tracking_uri, spec, parcels())
    written = pd.DataFrame()
    for kill in sorted(np.random.default_rng(3).choice(np.arange(20), 5, replace=False).tolist()):
        with pytest.raises(Interrupted):
            made.train(spec, KilledAfter(trials=kill))
        now = made.table(contracts.trials("broken"))
        assert len(now) >= kill + 1 - 6
        if len(written):
            assert len(now.merge(written, on=["candidate", "point", "fold", "seconds", "value"])) == len(written)
        written = now

    gpus.taken(spark)
    spark.conf.set(gpus.SETTING, "auto")
    request.addfinalizer(lambda: spark.conf.unset(gpus.SETTING))
    outcome = made.train(spec)

    assert {where.partition(":")[0] for where in outcome.details["devices"].values()} == {"CPU"}
    pd.testing.assert_frame_equal(trials(made, spec), trials(whole, whole_spec), check_exact=False, atol=1e-9)
    assert len(trials(made, spec)) == 2 * 5 * 2
    grown = trials(made, spec).query("candidate == 'trees'").groupby("point").first()
    slow = grown["parameters"].map(lambda text: json.loads(text)["learning_rate"] == 0.001)
    # So slow a learner is told from the rest on few rows, too.
    assert set(grown["share"][slow]) == {0.5}
    assert all(1.0 in set(grown["share"].loc[points]) for points in ([0, 1, 2], [3, 4]))
    for name in ("candidate", "parameters", "trials", "failed"):
        assert outcome.details[name] == expected.details[name]


@pytest.mark.system
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_candidates_that_the_data_choose(spark: SparkSession, tmp_path: Path, tracking_uri: str, task: str) -> None:
    """What they are is said, their trials are rows as any, and the same data are searched once."""
    settings = {"metric": "rmse" if task == "regression" else "log_loss", "candidates": "auto", "search": {"trials": 4}}
    split = {"test": {"last": "5 days"}, "folds": {"kind": "time", "count": 2}}
    spec = pipeline(f"auto_{task}", task=task, split=split, train=settings)
    made = world(spark, tmp_path, tracking_uri, spec, parcels(task))

    outcome, again = made.train(spec, told := Told()), made.train(spec)

    linear = "linear_regression" if task == "regression" else "logistic_regression"
    assert f"train: the data's size chose {linear} and boosted_trees" in told.messages
    counts = trials(made, spec).groupby("candidate").size().to_dict()
    assert counts == {linear: 9 * 2 * 2, "boosted_trees": 4 * 2}
    assert outcome.details["failed"] == 0
    assert again.details == outcome.details


def test_a_failing_point_is_a_row_and_is_tried_again_with_force(
    spark: SparkSession, tmp_path: Path, tracking_uri: str
) -> None:
    """A negative regularisation fails and the other point wins; --force makes a new search and a new model version."""
    candidates = {
        "l": {"estimator": "logistic_regression", "grid": {"reg_param": [-1.0, 0.1]}, "params": {"max_iter": 5}}
    }
    spec = pipeline("failing", train={"metric": "log_loss", "candidates": candidates})
    made = world(spark, tmp_path, tracking_uri, spec, parcels())

    outcome = made.train(spec, told := Told())
    again = made.train(spec, force=True)

    (said,) = (text for text in told.messages if "trial(s)" in text)
    assert said.startswith("train: candidate 'l', 2 trial(s): IllegalArgumentException: ")
    assert "regParam" in said
    done, total, best = told.steps[-1]
    assert (done, total) == (4, 4)
    assert best.endswith(" l(reg_param=0.1)")
    assert (outcome.details["parameters"], outcome.details["failed"]) == ({"reg_param": 0.1}, 2)
    assert again.details["model_version"] == outcome.details["model_version"] + 1
    table = made.table(contracts.trials("failing"))
    assert table.groupby("search").size().tolist() == [4, 4]
    errors = table[table["point"] == 0]
    assert errors["value"].isna().all()
    assert errors["error"].str.contains("regParam").all()


def test_a_search_without_success_lists_the_errors(spark: SparkSession, tmp_path: Path, tracking_uri: str) -> None:
    """The process ends with the exit code of a model that cannot be trained; a later run tries again."""
    candidates = {"l": {"estimator": "logistic_regression", "grid": {"reg_param": [-1.0]}}}
    spec = pipeline("hopeless", train={"metric": "log_loss", "candidates": candidates})
    made = world(spark, tmp_path, tracking_uri, spec, parcels())
    for _ in range(2):
        with pytest.raises(ModelError, match=r"candidate 'l', 2 trial\(s\): .*regParam") as caught:
            made.train(spec)
        assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("task", "metric", "candidates"),
    [
        (
            "multiclass",
            "f1",
            {
                "forest": {"estimator": "random_forest", "grid": {"max_depth": [2]}, "params": {"num_trees": 3}},
                "bayes": {"estimator": "pyspark.ml.classification.FMClassifier", "params": {"max_iter": 2}},
                "trees": {"estimator": "boosted_trees", "params": {"n_estimators": 2}},
            },
        ),
        (
            "regression",
            "rmse",
            {
                "linear": {"estimator": "linear_regression", "grid": {"reg_param": [0.0]}},
                "trees": {"estimator": "boosted_trees", "params": {"n_estimators": 2}},
            },
        ),
    ],
)
@pytest.mark.system
def test_other_tasks(
    spark: SparkSession, tmp_path: Path, tracking_uri: str, task: str, metric: str, candidates: dict[str, Any]
) -> None:
    """Several classes and numbers: no threshold; probabilities for classes only; folds that are not of time."""
    classes = ["low", "middle", "high"] if task == "multiclass" else []
    split = {"test": {"share": 0.1}, "folds": {"kind": "random", "count": 2}}
    spec = pipeline(task, task=task, classes=classes, split=split, train={"metric": metric, "candidates": candidates})
    rows = parcels(task)
    rows["fold"], rows["train_from"] = np.where(rows["part"] == "test", -1, rows["parcel"] % 2).astype(np.int32), None
    made = world(spark, tmp_path, tracking_uri, spec, rows)

    outcome = made.train(spec)

    found, table = out_of_fold(made, spec), trials(made, spec)
    assert len(found) == 150
    assert outcome.details["threshold"] is None
    assert [None if p is None else len(p) for p in found["probability"]] == [3 if task == "multiclass" else None] * 150
    means = table[table["error"].isna()].groupby("candidate")["value"].mean()
    best = means.idxmax() if task == "multiclass" else means.idxmin()
    assert outcome.details["candidate"] == best
    if task == "regression":
        errors = (
            (found["prediction"] - found["label"]).groupby(found["fold"]).apply(lambda e: float(np.sqrt((e**2).mean())))
        )
        assert outcome.details["cross_validated"] == pytest.approx(errors.mean(), abs=1e-9)
    else:
        by_fold = [f1_score(part["label"], part["prediction"], average="weighted") for _, part in found.groupby("fold")]
        assert outcome.details["cross_validated"] == pytest.approx(np.mean(by_fold), abs=1e-9)


def test_degenerate_data_is_refused_with_all_problems(spark: SparkSession, tmp_path: Path, tracking_uri: str) -> None:
    """Before any fit, each problem with its cure."""
    spec = pipeline("degenerate")
    rows = parcels()
    rows["weight"] = np.nan
    rows.loc[rows["part"] == "train", "label"] = 0.0
    made = world(spark, tmp_path, tracking_uri, spec, rows)

    with pytest.raises(ModelError) as caught:
        made.train(spec)

    cure = "Remove it from features.numeric and features.categorical, or check the expression, join or window that makes it."
    assert caught.value.problems == (
        "train: expected rows of every class in the training part (150 rows), found none of is_late = 1."
        " Check the label and split.test.",
        f"train: column 'weight' has no value in the training part (150 rows). {cure}",
    )
    assert made.lake.version(contracts.trials("degenerate")) is None


def test_a_changed_pipeline_asks_for_its_features(spark: SparkSession, tmp_path: Path, tracking_uri: str) -> None:
    """Tables of an older pipeline file are not taken for those of this one."""
    spec = pipeline("changed")
    made = world(spark, tmp_path, tracking_uri, spec, parcels())
    changed = pipeline(
        "changed", features={**spec.features.model_dump(), "label": {"name": "is_late", "value": "weight"}}
    )
    with pytest.raises(ContractError, match=r"the pipeline file has changed since. Run `millrace features` first\."):
        made.train(changed)
