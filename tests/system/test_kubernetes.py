"""What `scripts/package --image` writes for Kubernetes, against the published models of the operator's and of Kubernetes' own resources."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_spark_api import models

from scripts import cluster_package, kubernetes_package
from tests.system.kubernetes_api import kubernetes_api

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "registry.example/millrace:0.1.0"
MODELS: dict[str, Any] = {
    "SparkApplication": models.SparkV1beta2SparkApplication,
    "ScheduledSparkApplication": models.SparkV1beta2ScheduledSparkApplication,
    "Pod": models.IoK8sApiCoreV1Pod,
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    cluster_package.main([str(folder), "--image", IMAGE])
    return folder


@pytest.fixture(scope="module")
def manifests(package: Path) -> dict[str, dict[str, Any]]:
    """Name of the file -> what it says."""
    return {file.stem: yaml.safe_load(file.read_text()) for file in (package / "kubernetes").iterdir()}


def without_empty(value: Any) -> Any:
    """Without what the models add: lists of nothing."""
    if isinstance(value, dict):
        return {key: without_empty(inner) for key, inner in value.items() if inner != []}
    return [without_empty(inner) for inner in value] if isinstance(value, list) else value


def test_every_manifest_fits_its_schema(manifests: dict[str, dict[str, Any]]) -> None:
    """Each has the fields that its model has, of their types, and none besides; a field that the model does not know would be lost."""
    kept = {name: MODELS[found["kind"]].from_dict(found).to_dict() for name, found in manifests.items()}

    assert {name: without_empty(found) for name, found in kept.items()} == manifests


def test_a_field_that_no_schema_has_is_seen(manifests: dict[str, dict[str, Any]]) -> None:
    """What the test above rests on."""
    ingest = manifests["flights-ingest"]
    wrong = ingest | {"spec": ingest["spec"] | {"restartPolice": {"type": "Never"}}}

    assert without_empty(MODELS["SparkApplication"].from_dict(wrong).to_dict()) == ingest


def test_there_is_a_manifest_for_each_job_and_one_for_every_day(manifests: dict[str, dict[str, Any]]) -> None:
    """Names are those of the API: lower case, digits, hyphens."""
    jobs = ("ingest", "features", "train", "evaluate", "promote", "score")

    assert manifests.keys() == {"driver", "executor", "flights-daily", *(f"flights-{job}" for job in jobs)}
    assert [manifests[f"flights-{job}"]["spec"]["arguments"] for job in jobs] == [
        [job, "flights", "--env", "cluster"] for job in jobs
    ]
    daily = manifests["flights-daily"]["spec"]
    assert (daily["concurrencyPolicy"], daily["template"]["arguments"][0]) == ("Forbid", "run")


def test_spark_submit_creates_the_pod_of_a_driver(package: Path) -> None:
    """By the printed line: the image, the job, the secret's name, no right to become root."""
    with kubernetes_api() as api:
        command = kubernetes_package.command(package, IMAGE, master=f"k8s://{api.address}")
        *options, script = command
        done = subprocess.run(
            [*options, "--conf", "spark.kubernetes.submission.waitAppCompletion=false", script, "run", "flights", "--env", "cluster"],
            cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (pod,) = api.of_kind("Pod")
        (settings,) = (kept for kept in api.of_kind("ConfigMap") if "spark.properties" in kept["data"])

    (container,) = pod["spec"]["containers"]
    assert MODELS["Pod"].from_dict(pod) is not None
    assert (container["name"], container["image"]) == ("spark-kubernetes-driver", IMAGE)
    assert container["args"][0] == "driver"
    assert container["args"][-5:] == ["local:///opt/millrace/millrace.py", "run", "flights", "--env", "cluster"]
    assert container["envFrom"] == [{"secretRef": {"name": "millrace", "optional": True}}]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["spec"]["securityContext"] == {"fsGroup": 185, "runAsNonRoot": True, "runAsUser": 185}
    assert (pod["spec"]["serviceAccountName"], pod["spec"]["terminationGracePeriodSeconds"]) == ("spark", 120)
    assert "spark.kubernetes.executor.podTemplateFile=" in settings["data"]["spark.properties"]
