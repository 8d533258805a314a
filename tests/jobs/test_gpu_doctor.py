"""`millrace doctor --gpu`, on machines that a made-up nvidia-smi tells of: where tests run there is most often no GPU."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path

import pytest
import xgboost

from conf.schema import Environment
from jobs import gpu_doctor
from jobs.doctor import Check

pytestmark = [
    pytest.mark.quick,
    pytest.mark.skipif(
        importlib.util.find_spec("cupy") is not None, reason="CuPy is installed: packages are not as told here"
    ),
]
PACKAGES = [
    Check("cupy-cuda13x", "not installed", "Expected for linear and logistic searches: uv pip install --editable '.[gpu]' in the folder of millrace, on every worker."),
    Check("array-api-compat", "not installed", "Expected for linear and logistic searches: uv pip install --editable '.[gpu]' in the folder of millrace, on every worker."),
    Check("cuml-cu13", "not installed: only for forests, KMeans and PCA (the extra rapids-ml)"),
    Check("spark-rapids-ml", version("spark-rapids-ml")),
    Check(
        "XGBoost",
        f"{xgboost.__version__} without CUDA",
        "Expected a build with CUDA for boosted trees: pip uninstall --yes xgboost xgboost-cpu, then pip install 'xgboost>=3.2,<3.3', on every"
        " worker.",
    ),
]  # fmt: skip
PROCESSORS = Check("Spark SQL", "on processors: spark.plugins does not name NVIDIA's plugin")


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, cards: str, processes: str = "") -> None:
    """Puts an nvidia-smi on the PATH that answers so."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncase $1 in --query-gpu*) printf '{cards}';; *) printf '{processes}';; esac\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_without_a_driver_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the packages lack, and that nothing asks for a GPU."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_doctor.checks(Environment()) == [
        Check(
            "GPU",
            "none: there is no nvidia-smi on the PATH",
            "Install NVIDIA's driver, 580 or newer, or set `gpu` to never.",
        ),
        *PACKAGES,
        Check("gpu", "never", "Nothing uses a GPU: set `gpu` in the environment to auto or require."),
        PROCESSORS,
    ]


def test_each_card_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound one, one with an old driver, one that is taken, and by what."""
    machine(
        tmp_path,
        monkeypatch,
        "0, NVIDIA H200, 580.159.04, 143771, 142000\\n1, NVIDIA T4, 535.1, 16384, 16000\\n2, NVIDIA H200, 580.159.04, 143771, 1000\\n",
        "4711, 142000, python, the other one\\n",
    )
    assert gpu_doctor.checks(Environment(gpu="require")) == [
        Check("GPU", "0: NVIDIA H200, 138 of 140 GiB free, driver 580.159.04"),
        Check(
            "GPU",
            "1: NVIDIA T4, 15 of 16 GiB free, driver 535.1",
            "Expected driver 580 or newer: CuPy of the extra `gpu` is built for CUDA 13.",
        ),
        Check(
            "GPU",
            "2: NVIDIA H200, 0 of 140 GiB free, driver 580.159.04",
            "Expected at least half of its memory free: end what else runs on it.",
        ),
        Check(
            "GPU process",
            "python, the other one (4711) holds 142000 MiB",
            "Two applications on one GPU share its memory without knowing of each other: end one, or give each a GPU of its own.",
        ),
        *PACKAGES,
        Check("gpu", "require"),
        PROCESSORS,
    ]


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (
            "echo NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.; exit 9",
            "NVIDIA-SMI has failed because",
        ),
        ("exit 0", "none: nvidia-smi lists no card"),
    ],
)
def test_a_driver_that_does_not_answer_is_a_problem(
    script: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In nvidia-smi's own words."""
    machine(tmp_path, monkeypatch, "")
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (check, *_) = gpu_doctor.checks(Environment(gpu="auto"))
    assert not check.ok
    assert check.found.startswith(found)


def test_memory_that_is_not_told_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of cards that share the machine's."""
    machine(tmp_path, monkeypatch, "0, NVIDIA GB10, 580.95, [N/A], [N/A]\\n")
    assert gpu_doctor.checks(Environment(gpu="auto"))[0] == Check(
        "GPU", "0: NVIDIA GB10, 0 of 0 GiB free, driver 580.95"
    )
    machine(tmp_path, monkeypatch, "0, NVIDIA GB10, [N/A], [N/A], [N/A]\\n")
    assert not gpu_doctor.checks(Environment(gpu="auto"))[0].ok


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ({}, Check("Spark SQL", "NVIDIA's plugin may take 100% of a GPU's memory", "Expected 60% at most, so that training has the rest: set"
            " spark.rapids.memory.gpu.maxAllocFraction.")),
        ({"spark.rapids.memory.gpu.maxAllocFraction": "0.5"}, Check("Spark SQL", "NVIDIA's plugin may take 50% of a GPU's memory")),
        ({"spark.rapids.memory.gpu.maxAllocFraction": "50%"}, Check("Spark SQL", "spark.rapids.memory.gpu.maxAllocFraction is '50%'", "Expected a share such as 0.6: set it.")),
    ],
)  # fmt: skip
def test_spark_sql_is_to_leave_room(
    share: dict[str, str], expected: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For CuPy and XGBoost on the same GPU."""
    machine(tmp_path, monkeypatch, "0, NVIDIA H200, 580.159.04, 143771, 142000\\n")
    spark = {"spark.plugins": "com.nvidia.spark.SQLPlugin", **share}
    assert gpu_doctor.checks(Environment(gpu="auto", spark=spark))[-1] == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {},
            Check(
                "slots",
                "spark.task.resource.gpu.amount is not set in the environment",
                "Expected a share such as 0.25, with spark.executor.resource.gpu.amount, so that Spark tells each task its GPU: set"
                " spark.task.resource.gpu.amount.",
            ),
        ),
        (
            {"spark.task.resource.gpu.amount": "0.25"},
            Check("slots", "spark.task.resource.gpu.amount is 0.25: the share of a GPU that each task takes"),
        ),
    ],
)
def test_on_a_cluster_spark_has_to_deal_them_out(
    settings: dict[str, str], expected: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of one executor do not know of those of another."""
    machine(tmp_path, monkeypatch, "0, NVIDIA H200, 580.159.04, 143771, 142000\\n")
    found = gpu_doctor.checks(Environment(master="yarn", gpu="auto", spark=settings))
    assert found[-1] == expected
