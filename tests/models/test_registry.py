"""Models in a real MLflow on sqlite: once per identity, finished after a kill, loadable by stock pyspark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import StringIndexer, VectorAssembler
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from models.registry import ModelVersion, Registry
from transforms.errors import ConfigError, ModelError

ROWS = [(1.0, "a", 3.0), (2.0, "b", 5.0), (3.0, "a", 7.0), (4.0, "b", 9.5)]
TABLES = {"gold/shop_features_0a1b2c3d": 4, "gold/shop_labels_0a1b2c3d": 2}


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(ROWS, "size double, kind string, label double").repartition(2)


@pytest.fixture(scope="module")
def model(rows: DataFrame) -> PipelineModel:
    stages = [
        StringIndexer(inputCol="kind", outputCol="kind_index", handleInvalid="keep"),
        VectorAssembler(inputCols=["size", "kind_index"], outputCol="assembled"),
        LinearRegression(featuresCol="assembled"),
    ]
    return Pipeline(stages=stages).fit(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a space in its path. One for all tests, since a new database takes seconds; each test has its own model name."""
    return tmp_path_factory.mktemp("the lake")


@pytest.fixture(scope="module")
def registry(folder: Path) -> Registry:
    return Registry(f"sqlite:///{folder}/ops/mlflow.db", f"{folder}/models")


def log(
    registry: Registry, model: PipelineModel, rows: DataFrame, name: str, identity: str = "i1", **changes: Any
) -> ModelVersion:
    given: dict[str, Any] = {
        "parameters": {"reg_param": 0.1, "candidate": "linear"},
        "metrics": {"rmse": 0.25},
        "tables": TABLES,
        "tags": {"code": "c0de", "configuration": "c0ff"},
        "sample": rows.select("size", "kind"),
    }
    return registry.log(model, name=name, identity=identity, **{**given, **changes})


def test_a_logged_model_carries_its_past(registry: Registry, model: PipelineModel, rows: DataFrame) -> None:
    """Parameters, metrics and signature stand on the run; tags and exact table versions on the registered version."""
    version = log(registry, model, rows, "past")
    registry.add_metrics(version, {"test_rmse": 0.5})
    registry.add_metrics(version, {"test_rmse": 0.5})

    client = mlflow.MlflowClient()
    run = client.get_run(version.run_id)
    signature = mlflow.models.get_model_info(client.get_model_version_download_uri("past", "1")).signature
    assert (version.name, version.version, version.tables) == ("past", 1, TABLES)
    assert version.tags.items() >= {"code": "c0de", "configuration": "c0ff"}.items()
    assert registry.get("past", 1) == version
    assert run.data.params == {"reg_param": "0.1", "candidate": "linear"}
    assert run.data.metrics == {"rmse": 0.25, "test_rmse": 0.5}
    assert len(client.get_metric_history(version.run_id, "test_rmse")) == 1
    assert run.info.status == "FINISHED"
    assert [(c.name, c.type.name) for c in signature.inputs] == [("size", "double"), ("kind", "string")]
    assert [c.name for c in signature.outputs] == ["prediction"]


def test_one_version_per_identity(registry: Registry, model: PipelineModel, rows: DataFrame) -> None:
    """The same identity gives back its version, another makes the next one."""
    first = log(registry, model, rows, "identities", "i1")
    again = log(registry, model, rows, "identities", "i1", metrics={"rmse": 9.0})
    other = log(registry, model, rows, "identities", "i2")

    assert again == first
    assert other.version == 2
    assert other.run_id != first.run_id


class Killed(BaseException):
    """Stands for SIGKILL between two steps: nothing of ours catches it."""


@pytest.mark.parametrize(
    "step", ["log_batch", "list_artifacts", "set_tag", "search_registered_models", "create_model_version"]
)
def test_a_killed_call_is_finished_by_the_next(
    registry: Registry, model: PipelineModel, rows: DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Killed before any step, the next call ends with one run, one version and a whole model.

    `set_tag` is the moment when the model's files are there but not known to be whole. A method of MLflow's client is replaced
    because a kill cannot be timed to the step from outside.
    """
    name = f"killed_{step}"
    with monkeypatch.context() as patch:
        patch.setattr(registry._client, step, lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            log(registry, model, rows, name)

    version = log(registry, model, rows, name)

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [version.run_id]
    assert len(client.search_model_versions(f"name = '{name}'")) == 1
    assertDataFrameEqual(registry.load(name, 1).transform(rows), model.transform(rows))


def test_the_champion_is_the_version_with_the_alias(registry: Registry, model: PipelineModel, rows: DataFrame) -> None:
    """No model, no alias, an alias, the alias moved back."""
    assert registry.champion("alias") is None
    first = log(registry, model, rows, "alias", "i1")
    second = log(registry, model, rows, "alias", "i2")
    assert registry.champion("alias") is None

    registry.set_champion("alias", 2)
    registry.set_champion("alias", 2)
    assert registry.champion("alias") == second
    registry.set_champion("alias", 1)
    assert registry.champion("alias") == first


def test_stock_pyspark_loads_the_model_in_a_fresh_process(
    registry: Registry, model: PipelineModel, rows: DataFrame, folder: Path
) -> None:
    """Nothing of ours and no MLflow is needed to predict with a model; predictions are the same."""
    log(registry, model, rows, "stock")
    source = mlflow.MlflowClient().get_model_version_download_uri("stock", "1")
    script = f"""
from pyspark.sql import SparkSession
from pyspark.ml import PipelineModel
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
rows = spark.createDataFrame({[row[:2] for row in ROWS]!r}, "size double, kind string")
print("predicted", [row.prediction for row in PipelineModel.load({f"file://{source}/sparkml"!r}).transform(rows).orderBy("size").collect()])
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=folder)
    expected = [row.prediction for row in model.transform(rows).orderBy("size").collect()]
    assert ran.stdout.splitlines()[-1] == f"predicted {expected}", ran.stderr[-2000:]


def test_a_model_whose_files_are_gone_is_a_sentence(registry: Registry, model: PipelineModel, rows: DataFrame) -> None:
    """The folder is named, and what to do."""
    log(registry, model, rows, "gone")
    source = mlflow.MlflowClient().get_model_version_download_uri("gone", "1")
    Path(source).rename(Path(source).with_name("elsewhere"))

    with pytest.raises(ModelError) as error:
        registry.load("gone", 1)
    assert str(error.value) == (
        f"Model gone version 1: expected its files in file://{source}/sparkml, and they are missing or damaged."
        " Restore that folder, or train again with --force and promote the new version."
    )


def test_addresses_that_cannot_work_are_sentences(registry: Registry, tmp_path: Path) -> None:
    """A sqlite file on object storage, and a version that MLflow does not have."""
    with pytest.raises(ConfigError) as error:
        Registry("sqlite:///s3a://bucket/lake/ops/mlflow.db", "s3a://bucket/lake/models")
    assert str(error.value) == (
        "mlflow: expected the address of a server or database for a lake at s3a://bucket/lake, found none;"
        " a sqlite file needs a local folder. Set `mlflow` in the environment file."
    )
    with pytest.raises(
        ConfigError,
        match=r"^MLflow at sqlite:///.*mlflow\.db answered: Model Version \(name=none, version=7\) not found",
    ):
        registry.get("none", 7)
