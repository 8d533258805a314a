"""What keeps this machine's GPUs from being used, and the cure: `millrace doctor --gpu`. Run it on a worker; it asks CUDA nothing itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from conf.schema import Environment
from jobs.doctor import Check

# CUDA 13, which CuPy of the extra `gpu` is built for, needs this branch of the driver.
DRIVER = 580
# Rows of a search have to fit beside CUDA's own half GiB for each worker.
FREE_SHARE = 0.5
SLOTS = "spark.task.resource.gpu.amount"


def checks(environment: Environment) -> list[Check]:
    """Every check, in the order in which problems are best mended."""
    return [*_cards(), *_packages(), _switch(environment), *_spark(environment)]


def _cards() -> Iterator[Check]:
    if shutil.which("nvidia-smi") is None:
        cure = f"Install NVIDIA's driver, {DRIVER} or newer, or set `gpu` to never."
        yield Check("GPU", "none: there is no nvidia-smi on the PATH", cure)
        return
    for index, name, driver, whole, free in _asked("--query-gpu=index,name,driver_version,memory.total,memory.free"):
        found = f"{index}: {name}, {int(free) >> 10} of {int(whole) >> 10} GiB free, driver {driver}"
        if int(driver.split(".")[0]) < DRIVER:
            yield Check(
                "GPU", found, f"Expected driver {DRIVER} or newer: CuPy of the extra `gpu` is built for CUDA 13."
            )
        elif int(free) < FREE_SHARE * int(whole):
            yield Check("GPU", found, "Expected at least half of its memory free: end what else runs on it.")
        else:
            yield Check("GPU", found)
    for pid, name, used in _asked("--query-compute-apps=pid,process_name,used_memory"):
        cure = "Two applications on one GPU share its memory without knowing of each other: end one, or give each a GPU of its own."
        yield Check("GPU process", f"{name} ({pid}) holds {used} MiB", cure)


def _asked(query: str) -> list[list[str]]:
    told = subprocess.run(["nvidia-smi", query, "--format=csv,noheader,nounits"], capture_output=True, text=True)
    return [line.split(", ") for line in told.stdout.splitlines() if line.strip()] if told.returncode == 0 else []


def _packages() -> Iterator[Check]:
    install = "pip install 'millrace[gpu]' on every worker"
    for package in ("cupy-cuda13x", "array-api-compat"):
        try:
            yield Check(package, version(package))
        except PackageNotFoundError:
            yield Check(package, "not installed", f"Expected for linear and logistic searches: {install}.")
    import xgboost

    if xgboost.build_info().get("USE_CUDA"):
        yield Check("XGBoost", f"{xgboost.__version__} with CUDA")
    else:
        yield Check(
            "XGBoost",
            f"{xgboost.__version__} without CUDA",
            f"Expected a build with CUDA for boosted trees: pip uninstall xgboost-cpu, then {install}.",
        )


def _switch(environment: Environment) -> Check:
    if environment.gpu == "never":
        return Check("gpu", "never", "Nothing uses a GPU: set `gpu` in the environment to auto or require.")
    return Check("gpu", environment.gpu)


def _spark(environment: Environment) -> Iterator[Check]:
    """On a cluster Spark deals out GPUs, or tasks of one executor do not know of those of another."""
    if environment.master.startswith("local"):
        return
    amount = environment.spark.get(SLOTS)
    if amount is None:
        cure = f"Expected a share such as 0.25, with spark.executor.resource.gpu.amount, so that Spark tells each task its GPU: set {SLOTS}."
        yield Check("slots", f"{SLOTS} is not set in the environment", cure)
    else:
        yield Check("slots", f"{SLOTS} is {amount}: so many tasks share a GPU as have room for that")
