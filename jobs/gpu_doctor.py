"""What keeps this machine's GPUs from being used, and the cure: `millrace doctor --gpu`. Run it on a worker; it asks CUDA nothing itself."""

from __future__ import annotations

from collections.abc import Iterator

from conf.schema import Environment
from jobs import nvidia_smi, rapids
from jobs.doctor import Check, installed, is_local

# CUDA 13, which CuPy of the extra `gpu` is built for, needs this branch of the driver.
DRIVER = 580
# Rows of a search have to fit beside CUDA's own half GiB for each worker.
FREE_SHARE = 0.5
# Of a GPU's memory, for Spark SQL; Python workers have the rest.
SQL_SHARE, MOST_FOR_SQL = "spark.rapids.memory.gpu.maxAllocFraction", 0.6
SLOTS = "spark.task.resource.gpu.amount"


def checks(environment: Environment) -> list[Check]:
    """Every check, in the order in which problems are best mended."""
    return [*_cards(), *_packages(), _switch(environment), _sql(environment), *_spark(environment)]


def _cards() -> Iterator[Check]:
    if not nvidia_smi.is_there():
        cure = f"Install NVIDIA's driver, {DRIVER} or newer, or set `gpu` to never."
        yield Check("GPU", "none: there is no nvidia-smi on the PATH", cure)
        return
    cards = _asked("--query-gpu=index,name,driver_version,memory.total,memory.free")
    if isinstance(cards, str) or not cards:
        said = cards if isinstance(cards, str) else "none: nvidia-smi lists no card"
        yield Check("GPU", said, "Restart the driver or the machine; what the driver said is in dmesg.")
        return
    for index, name, driver, *memory in cards:
        whole, free = (int(figure) if figure.isdigit() else 0 for figure in memory)  # [N/A] where it is the machine's
        found = f"{index}: {name}, {free >> 10} of {whole >> 10} GiB free, driver {driver}"
        major = driver.split(".")[0]
        if not major.isdigit() or int(major) < DRIVER:
            yield Check(
                "GPU", found, f"Expected driver {DRIVER} or newer: CuPy of the extra `gpu` is built for CUDA 13."
            )
        elif free < FREE_SHARE * whole:
            yield Check("GPU", found, "Expected at least half of its memory free: end what else runs on it.")
        else:
            yield Check("GPU", found)
    processes = _asked("--query-compute-apps=pid,used_memory,process_name")
    for pid, used, *words in processes if isinstance(processes, list) else ():
        cure = "Two applications on one GPU share its memory without knowing of each other: end one, or give each a GPU of its own."
        yield Check("GPU process", f"{', '.join(words)} ({pid}) holds {used} MiB", cure)


def _asked(query: str) -> list[list[str]] | str:
    """Rows of answers, or what went wrong."""
    told = nvidia_smi.asked(query, "--format=csv,noheader,nounits")
    return told if isinstance(told, str) else [line.split(", ") for line in told]


def _packages() -> Iterator[Check]:
    install = "uv pip install --editable '.[gpu]' in the folder of millrace, on every worker"
    # Both builds own the same files: whichever came last is there, and removing one breaks the other.
    swap = "pip uninstall --yes xgboost xgboost-cpu, then pip install 'xgboost>=3.2,<3.3', on every worker"
    for package in ("cupy-cuda13x", "array-api-compat"):
        found = installed(package)
        cure = "" if found else f"Expected for linear and logistic searches: {install}."
        yield Check(package, found or "not installed", cure)
    for package in ("cuml-cu13", "spark-rapids-ml"):
        # Without them forests, KMeans and PCA are fitted on processors, as all other estimators are.
        yield Check(
            package, installed(package) or "not installed: only for forests, KMeans and PCA (the extra rapids-ml)"
        )
    import xgboost

    if xgboost.build_info().get("USE_CUDA"):
        yield Check("XGBoost", f"{xgboost.__version__} with CUDA")
    else:
        yield Check(
            "XGBoost",
            f"{xgboost.__version__} without CUDA",
            f"Expected a build with CUDA for boosted trees: {swap}.",
        )


def _switch(environment: Environment) -> Check:
    if environment.gpu == "never":
        return Check("gpu", "never", "Nothing uses a GPU: set `gpu` in the environment to auto or require.")
    return Check("gpu", environment.gpu)


def _sql(environment: Environment) -> Check:
    """Whether Spark SQL runs on GPUs, and leaves room for training."""
    if not rapids.is_asked(environment):
        return Check("Spark SQL", f"on processors: {rapids.PLUGINS} does not name NVIDIA's plugin")
    given = environment.spark.get(SQL_SHARE, "1")
    try:
        share = float(given)
    except ValueError:
        return Check("Spark SQL", f"{SQL_SHARE} is '{given}'", f"Expected a share such as {MOST_FOR_SQL}: set it.")
    found = f"NVIDIA's plugin may take {share:.0%} of a GPU's memory"
    if share <= MOST_FOR_SQL:
        return Check("Spark SQL", found)
    return Check(
        "Spark SQL", found, f"Expected {MOST_FOR_SQL:.0%} at most, so that training has the rest: set {SQL_SHARE}."
    )


def _spark(environment: Environment) -> Iterator[Check]:
    """On a cluster Spark deals out GPUs, or tasks of one executor do not know of those of another."""
    if is_local(environment):
        return
    amount = environment.spark.get(SLOTS)
    if amount is None:
        cure = f"Expected a share such as 0.25, with spark.executor.resource.gpu.amount, so that Spark tells each task its GPU: set {SLOTS}."
        yield Check("slots", f"{SLOTS} is not set in the environment", cure)
    else:
        yield Check("slots", f"{SLOTS} is {amount}: the share of a GPU that each task takes")
