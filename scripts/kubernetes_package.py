"""What Kubernetes needs of `scripts/package --image`: the folder that the image is built in, pod templates, and manifests of the Spark operator."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyspark
from ruamel.yaml import YAML

from jobs import plan

ROOT = Path(__file__).resolve().parents[1]
# Finds Spark by its own place. The script beside the Python of an environment asks the Python on the PATH, and cron has none with Spark.
SUBMIT = str(Path(pyspark.__file__).parent / "bin/spark-submit")
SOURCES = ROOT / "scripts/kubernetes"
SERVICE_ACCOUNT = "spark"  # of the driver, which starts pods
SCRIPT = "local:///opt/millrace/millrace.py"  # in the image
ROLES = ("driver", "executor")
SIZES: dict[str, dict[str, Any]] = {
    "driver": {"cores": 1, "memory": "4g"},
    "executor": {"cores": 2, "memory": "4g", "instances": 2},
}
OVERHEAD = "0.4"  # memory for Python on top of the JVM's, as a share of it: Spark's own default
DAILY = "0 5 * * *"


def write(folder: Path, image: str, *, environment: str = "cluster") -> None:
    """`image`, what `docker build` takes but for the wheel; `kubernetes`, the templates and a manifest for each job of each pipeline file.

    Args:
        folder: has jars and script, by `cluster_package.write`.
    """
    _write_image_folder(folder)
    shutil.rmtree(folder / "kubernetes", ignore_errors=True)
    (folder / "kubernetes").mkdir(parents=True)
    for role in ROLES:
        shutil.copy(SOURCES / f"{role}.yaml", folder / "kubernetes")
    for file in sorted((ROOT / "conf").glob("*.yaml")):
        for manifest in manifests(file.stem, image, environment):
            YAML().dump(manifest, folder / "kubernetes" / f"{manifest['metadata']['name']}.yaml")


def command(folder: Path, image: str, *, master: str = "k8s://https://HOST:6443") -> list[str]:
    """The words of spark-submit up to the job's own, where there is no operator. Code and jars are in the image."""
    conf = {
        "spark.kubernetes.container.image": image,
        "spark.kubernetes.authenticate.driver.serviceAccountName": SERVICE_ACCOUNT,
        **{f"spark.kubernetes.{role}.podTemplateFile": str(folder / f"kubernetes/{role}.yaml") for role in ROLES},
    }
    options = [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
    return [SUBMIT, "--master", master, "--deploy-mode", "cluster", *options, SCRIPT]


def manifests(pipeline: str, image: str, environment: str) -> list[dict[str, Any]]:
    """A SparkApplication for each job in order, and a ScheduledSparkApplication that runs all of them every day.

    No application is restarted: what would be tried again in vain (settings, data) is not told apart from the rest there, and the
    next run goes on from what was committed.
    """
    applications = [
        _manifest("SparkApplication", f"{pipeline}-{job}", _application([job, pipeline, "--env", environment], image))
        for job in plan.ORDER
    ]
    every_day = {
        "schedule": DAILY,
        "timeZone": "UTC",
        "concurrencyPolicy": "Forbid",
        "template": _application(["run", pipeline, "--env", environment], image),
    }
    return [*applications, _manifest("ScheduledSparkApplication", f"{pipeline}-daily", every_day)]


def _manifest(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    # Names of pipelines have underscores, names of Kubernetes have none.
    return {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": kind,
        "metadata": {"name": name.replace("_", "-")},
        "spec": spec,
    }


def _application(arguments: list[str], image: str) -> dict[str, Any]:
    application: dict[str, Any] = {
        "type": "Python",
        "pythonVersion": "3",
        "mode": "cluster",
        "sparkVersion": version("pyspark"),
        "image": image,
        "mainApplicationFile": SCRIPT,
        "arguments": arguments,
        "restartPolicy": {"type": "Never"},
        "memoryOverheadFactor": OVERHEAD,
    }
    for role in ROLES:
        template = YAML(typ="safe").load(SOURCES / f"{role}.yaml")
        application[role] = {**SIZES[role], "template": {"spec": template["spec"]}}
    application["driver"]["serviceAccount"] = SERVICE_ACCOUNT
    return application


def _write_image_folder(package: Path) -> None:
    folder = package / "image"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(package / "jars", folder / "jars")
    for file in (
        SOURCES / "Dockerfile",
        SOURCES / "entrypoint.sh",
        ROOT / "requirements.lock",
        package / "millrace.py",
    ):
        shutil.copy(file, folder)
