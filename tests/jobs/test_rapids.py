"""Spark SQL on GPUs: who gets NVIDIA's plugin, on machines that a made-up nvidia-smi tells of."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from conf.load import load_environment
from conf.schema import Environment
from jobs import rapids, session
from jobs.cli import cli
from models.gpus import NoGpu
from transforms.errors import ConfigError

pytestmark = pytest.mark.quick
MISSING = "there is no nvidia-smi on the PATH, as NVIDIA's driver has it"


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    """A PATH with an nvidia-smi, or with nothing."""
    if script is not None:
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_where_there_is_a_gpu_the_plugin_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its jar, where it can be found by the time that plugins are loaded."""
    machine(tmp_path, monkeypatch, "echo 'GPU 0: NVIDIA H200'")
    environment = load_environment("gpu")
    monkeypatch.setattr(rapids, "ensure", lambda: Path("/jars/rapids.jar"))
    monkeypatch.setattr(session.jars, "ensure", lambda group: [Path(f"/jars/{group}.jar")])

    settings = session.settings(rapids.decided(environment, is_local=True))

    assert settings["spark.plugins"] == "com.nvidia.spark.SQLPlugin"
    assert settings["spark.jars"] == "/jars/delta.jar,/jars/rapids.jar"
    assert settings["spark.driver.extraClassPath"] == "/jars/rapids.jar"
    assert settings["spark.rapids.memory.gpu.maxAllocFraction"] == "0.5"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, MISSING),
        ("echo No devices were found", "No devices were found"),
        ("echo 'NVIDIA-SMI has failed because of its driver.' >&2; exit 9", "NVIDIA-SMI has failed because of its driver."),
        ("exit 0", "nvidia-smi lists no card"),
    ],
    ids=["no driver", "no card", "broken driver", "silence"],
)  # fmt: skip
def test_auto_does_without(
    script: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And says why; other plugins stay."""
    if script == "echo No devices were found":
        script += "; exit 6"
    machine(tmp_path, monkeypatch, script)
    environment = load_environment("gpu")
    several = environment.model_copy(
        update={
            "spark": {
                **environment.spark,
                "spark.plugins": "com.nvidia.spark.SQLPlugin,org.other.Plugin",
                "spark.x": "1",
            }
        }
    )
    caplog.set_level(logging.INFO)

    assert rapids.decided(environment, is_local=True).spark == {}
    assert rapids.decided(several, is_local=True).spark == {"spark.plugins": "org.other.Plugin", "spark.x": "1"}
    assert [record.getMessage() for record in caplog.records] == [f"Spark SQL on CPU: {reason}"] * 2


def test_require_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As does a switch that contradicts itself; both by a job, before its work."""
    machine(tmp_path, monkeypatch, None)
    asked = load_environment("gpu")
    required = asked.model_copy(update={"gpu": "require"})
    with pytest.raises(NoGpu) as caught:
        rapids.decided(required, is_local=True)
    assert str(caught.value) == f"A GPU is required (environment gpu), and there is none for Spark SQL: {MISSING}."
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError) as refused:
        rapids.decided(asked.model_copy(update={"gpu": "never"}), is_local=True)
    assert str(refused.value) == (
        "Environment gpu: spark.plugins names NVIDIA's plugin, and `gpu` is never. Set `gpu` to auto or require, or remove the plugin."
    )


def test_nobody_else_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No plugin, one that explains only, and the driver of a cluster, whose workers have the GPUs."""
    machine(tmp_path, monkeypatch, None)
    asked = load_environment("gpu")
    explaining = asked.model_copy(update={"gpu": "never", "spark": {**asked.spark, rapids.MODE: rapids.EXPLAINS}})

    assert rapids.decided(Environment(), is_local=True) == Environment()
    assert rapids.decided(explaining, is_local=True) == explaining
    assert rapids.decided(asked, is_local=False) == asked


def test_a_plugin_for_another_spark_is_refused(tmp_path: Path) -> None:
    """In a sentence that says for which it is; a vendor's own Spark is none of them."""
    jar = tmp_path / "rapids.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        for name in (
            "spark350/X.class",
            "spark413/X.class",
            "spark400db173/X.class",
            "spark3xx-common/X.class",
            "META-INF/x",
        ):
            archive.writestr(name, "")
    rapids.require(jar, "4.1.3")
    for other in ("4.2.0", "4.0.0"):
        with pytest.raises(ConfigError) as caught:
            rapids.require(jar, other)
        assert str(caught.value) == (
            f"Expected NVIDIA's plugin for Spark {other}, found rapids.jar, which is for 4.1.3, 3.5.0."
            " Lock a version that has it in conf/jars.lock, or install a Spark that it has."
        )


def test_a_job_says_it_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is a session."""
    machine(tmp_path, monkeypatch, None)
    monkeypatch.setattr(session.SparkSession, "getActiveSession", lambda: None)
    settings = ["--set", "environment.gpu=require", "--set", f"environment.lake={tmp_path}/lake"]

    done = CliRunner().invoke(cli, ["ingest", "flights", "--env", "gpu", *settings])

    assert done.exit_code == 2
    assert f"A GPU is required (environment gpu), and there is none for Spark SQL: {MISSING}." in " ".join(
        done.stderr.split()
    )


def test_names_of_plugins_are_read_as_spark_reads_them() -> None:
    """Spark trims them."""
    assert rapids.is_asked(Environment(spark={"spark.plugins": "a.Plugin, com.nvidia.spark.SQLPlugin"}))
    assert not rapids.is_asked(Environment(spark={"spark.plugins": "a.Plugin"}))
