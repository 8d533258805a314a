"""Fitted models in MLflow: logged, registered, loaded, and the alias that names the champion.

MLflow is imported when a registry is opened, not with this module: the import takes seconds, and a run that finds nothing to do
never opens one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame, SparkSession

from models.preprocessing import fitted_stages
from transforms.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion as RegisteredVersion

CHAMPION = "champion"
IDENTITY, ARTIFACT = "millrace.identity", "millrace.artifact"
_TABLE = "table."


@dataclass(frozen=True)
class ModelVersion:
    """One registered model. `tags` are those given to `log`, and one `table.<name>` with the version of each table behind it."""

    name: str
    version: int
    run_id: str
    tags: dict[str, str]

    @property
    def tables(self) -> dict[str, int]:
        """Table -> exact Delta version that the model was made from."""
        return {tag.removeprefix(_TABLE): int(value) for tag, value in self.tags.items() if tag.startswith(_TABLE)}


class Registry:
    """The models of one MLflow server or database.

    Args:
        tracking_uri: a server (`https://...`), a database, or a sqlite file (`sqlite:///lake/ops/mlflow.db`).
        artifact_root: folder or address that new models are written under, when it is a folder or on S3; used for experiments that
            do not exist yet. MLflow writes to no other file system: models then go where the server keeps its artifacts, by way of
            this address, which driver and workers share.

    Raises:
        ConfigError: the address cannot be opened, or models cannot be written to S3 for want of boto3.
    """

    def __init__(self, tracking_uri: str, artifact_root: str) -> None:
        self._uri = re.sub(r"://[^@/]*@", "://***@", tracking_uri)  # for messages: an address may carry a password
        self._artifact_root = _artifact_uri(artifact_root)
        self._shared = f"{artifact_root}/tmp"
        _prepare_database(tracking_uri)
        if self._artifact_root is not None and self._artifact_root.startswith("s3:"):
            _prepare_s3(artifact_root)
        _import_quietly()
        import mlflow

        # log_model knows the fluent interface only, hence the address of the whole process.
        mlflow.set_tracking_uri(tracking_uri)
        with self._reported():
            self._client = mlflow.MlflowClient(tracking_uri)

    def log(
        self,
        model: PipelineModel,
        *,
        name: str,
        identity: str,
        parameters: Mapping[str, Any],
        metrics: Mapping[str, float],
        tables: Mapping[str, int],
        tags: Mapping[str, str],
        sample: DataFrame,
    ) -> ModelVersion:
        """Log and register a model, once per identity; killed anywhere and called again, it finishes what is missing.

        Args:
            name: of the registered model and its experiment.
            identity: hash of everything that made the model; a second call with it gives back the version of the first.
            parameters: values may be anything JSON can hold.
            tables: table -> Delta version, all that is needed to make the model again.
            sample: the feature columns, for the signature; only its schema is read.

        Raises:
            ConfigError: MLflow refuses or cannot be reached.
        """
        with self._reported():
            run = self._run(name, identity)
            registered = self._registered(name, run.info.run_id)
            if registered:
                return _version(registered)
            described = {**tags, **{_TABLE + table: str(version) for table, version in tables.items()}}
            self._describe(run.info.run_id, parameters, metrics, described)
            source = run.data.tags.get(ARTIFACT) or self._write(model, run.info.run_id, sample)
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            # Tags come with the version in one call: a version without them is never seen.
            created = self._client.create_model_version(
                name, source, run.info.run_id, tags={IDENTITY: identity, **described}, await_creation_for=60
            )
            return _version(created)

    def add_metrics(self, version: ModelVersion, metrics: Mapping[str, float]) -> None:
        """Add metrics to the run behind a version, say those on the test rows."""
        from mlflow.entities import Metric

        # One fixed time and step: MLflow keeps a metric once per (value, time, step), so repeating the call adds nothing.
        with self._reported():
            self._client.log_batch(version.run_id, metrics=[Metric(key, value, 0, 0) for key, value in metrics.items()])

    def get(self, name: str, version: int) -> ModelVersion:
        """A registered version.

        Raises:
            ConfigError: there is none.
        """
        with self._reported():
            return _version(self._client.get_model_version(name, str(version)))

    def load(self, name: str, version: int) -> PipelineModel:
        """The fitted model, read by Spark where it lies: MLflow's own loader copies it twice and leaves one copy behind.

        Raises:
            ModelError: its files are gone or damaged.
        """
        with self._reported():
            source = str(self._client.get_model_version_download_uri(name, str(version)))
        if not source.startswith(("/", "file:", "hdfs:", "s3:")):
            return self._download(name, version)
        source = _spark_uri(source)
        try:
            return PipelineModel.load(f"{source}/sparkml")
        except (PySparkException, Py4JJavaError) as error:
            raise ModelError(
                f"Model {name} version {version}: expected its files in {source}/sparkml, and they are missing or damaged."
                " Restore that folder, or train again with --force and promote the new version."
            ) from error

    def _download(self, name: str, version: int) -> PipelineModel:
        """The model of a server that keeps artifacts behind HTTP, by way of copies that are removed: Spark has read them by then."""
        import mlflow.spark

        shared = f"{self._shared}/{uuid.uuid4().hex}"
        with self._reported(), tempfile.TemporaryDirectory() as local:
            try:
                model: PipelineModel = mlflow.spark.load_model(
                    f"models:/{name}/{version}", dfs_tmpdir=shared, dst_path=local
                )
            finally:
                _remove(shared)
        return model

    def champion(self, name: str) -> ModelVersion | None:
        """The version with the alias `champion`, None when there is none."""
        with self._reported():
            found = self._client.search_registered_models(f"name = '{name}'")
            if not found or CHAMPION not in found[0].aliases:
                return None
            return self.get(name, int(found[0].aliases[CHAMPION]))

    def set_champion(self, name: str, version: int) -> None:
        """Move the alias; no effect when it is there already."""
        with self._reported():
            self._client.set_registered_model_alias(name, CHAMPION, str(version))

    def _run(self, name: str, identity: str) -> Run:
        """The run of this identity, new or left by a call that was killed."""
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = None if self._artifact_root is None else f"{self._artifact_root}/{name}"
            experiment_id = self._client.create_experiment(name, artifact_location=location)
        else:
            experiment_id = experiment.experiment_id
        runs = self._client.search_runs(
            [experiment_id], f"tags.`{IDENTITY}` = '{identity}'", order_by=["attributes.start_time"]
        )
        return runs[0] if runs else self._client.create_run(experiment_id, tags={IDENTITY: identity})

    def _registered(self, name: str, run_id: str) -> RegisteredVersion | None:
        found = [v for v in self._client.search_model_versions(f"run_id = '{run_id}'") if v.name == name]
        return found[0] if found else None

    def _describe(
        self, run_id: str, parameters: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run_id,
            metrics=[Metric(key, value, 0, 0) for key, value in metrics.items()],
            params=[Param(key, _text(value)) for key, value in parameters.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def _write(self, model: PipelineModel, run_id: str, sample: DataFrame) -> str:
        """Write the model's files and note on the run where they are, which says that they are complete."""
        import mlflow
        from mlflow.models import infer_signature
        from mlflow.spark import log_model

        # A folder that no earlier, killed try has half filled: Spark would read the part files of both.
        folder = f"model_{len(self._client.list_artifacts(run_id)) + 1}"
        with mlflow.start_run(run_id=run_id):
            source = f"{mlflow.get_artifact_uri()}/{folder}"
            _spark_uri(source)
            log_model(
                model,
                folder,
                dfs_tmpdir=self._shared,
                signature=infer_signature(sample, model.transform(sample).select("prediction")),
                pip_requirements=_requirements(
                    model
                ),  # given, or MLflow starts a process that loads the model to find out
            )
        self._client.set_tag(run_id, ARTIFACT, source)
        return source

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """MLflow's refusals as sentences."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            lines = str(error.message).strip().splitlines() or [error.error_code]
            raise ConfigError(
                f"MLflow at {self._uri} answered: {lines[0]} Check the address (`mlflow` in the environment file), and that the"
                " experiment and the model named in it were not deleted there."
            ) from error


def _version(registered: RegisteredVersion) -> ModelVersion:
    return ModelVersion(registered.name, int(registered.version), str(registered.run_id), dict(registered.tags))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _requirements(model: PipelineModel) -> list[str]:
    """The installed packages whose classes the model's stages are, at their versions."""
    names = {"pyspark", "numpy"} | {type(stage).__module__.split(".")[0] for stage in fitted_stages(model)}
    owners = metadata.packages_distributions()
    packages = {owner for name in names for owner in owners.get(name, [])[:1]}
    return sorted(f"{package}=={metadata.version(package)}" for package in packages)


def _artifact_uri(root: str) -> str | None:
    """The address as MLflow knows it: an absolute path (a `file:` address would escape blanks), or `s3` where Spark says `s3a`.

    None where MLflow does not write: it opens hdfs only with Hadoop's native library, which few drivers have.
    """
    if "://" not in root:
        return str(Path(root).absolute())
    return re.sub(r"^s3[an]?://", "s3://", root) if root.startswith("s3") else None


def _spark_uri(source: str) -> str:
    """The address as Spark opens it; `s3` addresses are opened by the file system that it calls `s3a`."""
    spark = SparkSession.getActiveSession()
    if source.startswith("s3://") and spark is not None and spark._jsc is not None:
        spark._jsc.hadoopConfiguration().set("fs.s3.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem")
    return f"file://{source}" if source.startswith("/") else source


def _prepare_database(tracking_uri: str) -> None:
    """Make the folder of a sqlite file, which sqlite does not."""
    if not tracking_uri.startswith("sqlite:///"):
        return
    file = tracking_uri.removeprefix("sqlite:///")
    if "://" in file:
        raise ConfigError(
            f"mlflow: expected the address of a server or database for a lake at {file.removesuffix('/ops/mlflow.db')}, found none;"
            " a sqlite file needs a local folder. Set `mlflow` in the environment file."
        )
    Path(file).parent.mkdir(parents=True, exist_ok=True)


def _prepare_s3(artifact_root: str) -> None:
    """Let boto3, through which MLflow writes there, find the store that S3A was told of."""
    if find_spec("boto3") is None:
        raise ConfigError(
            f"mlflow: expected the package boto3, through which MLflow keeps models at {artifact_root}, found none. Install it:"
            " uv pip install --editable '.[s3]' in the folder of millrace."
        )
    spark = SparkSession.getActiveSession()
    assert spark is not None and spark._jsc is not None
    conf = spark._jsc.hadoopConfiguration()
    endpoint = str(conf.get("fs.s3a.endpoint") or "")
    if endpoint:
        scheme = "https" if conf.getBoolean("fs.s3a.connection.ssl.enabled", True) else "http"
        os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", endpoint if "://" in endpoint else f"{scheme}://{endpoint}")


def _remove(address: str) -> None:
    """Remove a folder wherever Hadoop's file systems find it; no effect when it is not there."""
    spark = SparkSession.getActiveSession()
    assert spark is not None and spark._jvm is not None and spark._jsc is not None
    path = spark._jvm.org.apache.hadoop.fs.Path(address)
    path.getFileSystem(spark._jsc.hadoopConfiguration()).delete(path, True)


def _import_quietly() -> None:
    """Import MLflow without telemetry, and without the lines that it and alembic write for every database that they open."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    import mlflow.spark  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of every model when the virtual environment has no pip.
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
