"""What is wrong with this installation, and the cure. Needs no Spark session and changes nothing."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from rich.console import Console

from conf.load import load, load_environment
from conf.schema import Environment
from jobs import jars
from jobs.progress import print_problems
from transforms.errors import ConfigError

JAVA_RELEASES = (17, 21)
FREE_GIB = 2.0
# The same library, for a GPU: it will do.
OTHER_BUILD = {"xgboost-cpu": "xgboost"}
# Each pair owns the same files: different versions of the two overwrite each other.
RIVALS = (("pyspark", "pyspark-client"), ("xgboost-cpu", "xgboost"))


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, and the cure where that is a problem."""

    name: str
    found: str
    cure: str = ""

    @property
    def ok(self) -> bool:
        return not self.cure


def execute(pipeline: str | None, environment: str, look: Callable[[Environment], list[Check]]) -> int:
    """`millrace doctor`: print what `look` finds; returns 0, 1 when a check failed, 2 when a file cannot be read."""
    console = Console()
    try:
        chosen = load(pipeline, environment=environment).environment if pipeline else load_environment(environment)
    except ConfigError as error:
        print_problems(error, console)
        return error.exit_code
    return 0 if run(look(chosen), console) else 1


def run(made: list[Check], console: Console) -> bool:
    """Print one line a check; True when nothing is wrong."""
    for check in made:
        style = "green" if check.ok else "red"
        line = f"{'ok' if check.ok else 'problem':8}{check.name}: {check.found}" + (
            "" if check.ok else f". {check.cure}"
        )
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    return all(check.ok for check in made)


def checks(environment: Environment) -> list[Check]:
    """Every check, in the order in which problems are best mended."""
    made = [_python(), *_packages(), _java(), *_jars()]
    if is_local(environment):
        made.append(_memory(environment))
    return [*made, _raw(environment), _lake(environment), _mlflow(environment)]


def _python() -> Check:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if (3, 11) <= sys.version_info < (3, 13):
        return Check("Python", found)
    return Check(
        "Python", found, "Expected 3.11 or 3.12: remove .venv and run scripts/setup with one of these on the PATH."
    )


def _packages() -> Iterator[Check]:
    """The versions that setup.cfg asks for, above all the exact pins of Spark and Delta; one line when all are there."""
    try:
        wanted = [Requirement(text) for text in requires("millrace") or []]
    except PackageNotFoundError:
        yield Check("packages", "millrace itself is not installed", "Run scripts/setup.")
        return
    wanted = [need for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    found = {need.name: installed(need.name) or installed(OTHER_BUILD.get(need.name, need.name)) for need in wanted}
    wrong = [need for need in wanted if not need.specifier.contains(found[need.name] or "0", prereleases=True)]
    for need in wrong:
        yield Check(need.name, found[need.name] or "not installed", f"Expected {need.specifier}: run scripts/setup.")
    rivals = [
        (one, other) for one, other in RIVALS if installed(one) and installed(other) not in (None, installed(one))
    ]
    for one, other in rivals:
        yield Check(
            other,
            f"{installed(other)} beside {one} {installed(one)}",
            f"Both own the same files: keep one, or the same version of both. Uninstall {other} and reinstall {one}.",
        )
    if not wrong and not rivals:
        yield Check(
            "packages", f"{len(wanted)} as expected, pyspark {found['pyspark']}, delta-spark {found['delta-spark']}"
        )


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _java() -> Check:
    cure = "Expected 17 or 21: install one, on Debian `apt-get install openjdk-17-jre-headless`, and set JAVA_HOME if it is not the default."
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if java is None or shutil.which(java) is None:
        return Check(
            "Java", f"none at JAVA_HOME={home}" if home else "none on the PATH, and JAVA_HOME is not set", cure
        )
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r'version "((\d+)[^"]*)"', told.stderr)
    if match is None:
        return Check("Java", f"{java} does not tell its version", cure)
    found = f"{match[1]} at {java}"
    return Check("Java", found) if int(match[2]) in JAVA_RELEASES else Check("Java", found, cure)


def _jars() -> Iterator[Check]:
    """Only looked at: a missing jar is fetched by the next session, if the network allows it."""
    folder = jars.cache_folder()
    wrong = False
    for jar in jars.locked("delta"):
        file = folder / jar.file_name
        if not file.exists():
            wrong = True
            yield Check("jars", f"{file} is missing", "Run `python -m jobs.jars` where there is a network.")
        elif jars.sha256(file) != jar.sha256:
            wrong = True
            yield Check("jars", f"{file} is not the locked file", "Remove it and run `python -m jobs.jars`.")
    if not wrong:
        yield Check("jars", f"{len(jars.locked('delta'))} verified in {folder}")


def _memory(environment: Environment) -> Check:
    asked, there = _gibibytes(environment.driver_memory), _memory_gibibytes()
    found = f"{len(os.sched_getaffinity(0))} cores, {there:.1f} GiB; driver_memory {environment.driver_memory}"
    if asked is None:
        return Check("memory", found, "Expected a whole number and a unit such as 4g or 900m as driver_memory.")
    if asked > 0.8 * there:
        # Python workers, XGBoost and the JVM's own needs lie outside the heap.
        return Check(
            "memory", found, f"Expected at most 80 % of the memory: set driver_memory to {max(1, int(0.6 * there))}g."
        )
    return Check("memory", found)


def _gibibytes(text: str) -> float | None:
    """A JVM size such as `4g`; None when it is not one."""
    match = re.fullmatch(r"(\d+)([kmgt])b?", text.lower())
    return int(match[1]) * 1024.0 ** ("kmgt".index(match[2]) - 2) if match else None


def _memory_gibibytes() -> float:
    """The machine's memory, or the container's limit where that is less."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        there = min(there, int(text))
    return there / 1024**3


def is_local(environment: Environment) -> bool:
    """Whether all runs in the driver, without executors."""
    return environment.master.partition("[")[0] == "local"


def _local(location: str) -> Path | None:
    """The path of a location on this machine; None for another file system, which only a session can reach."""
    parts = urlsplit(location)
    return Path(parts.path) if parts.scheme == "file" else None if parts.scheme else Path(location)


def _raw(environment: Environment) -> Check:
    folder = _local(environment.raw)
    if folder is None:
        return Check("raw", f"{environment.raw} is not on this machine; ingest checks it")
    if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
        return Check("raw", f"{folder} is readable")
    return Check(
        "raw",
        f"{folder} is not a readable folder",
        "Set `raw` in the environment, or run scripts/fetch_flights for the example.",
    )


def _lake(environment: Environment) -> Check:
    folder = _local(environment.lake)
    if folder is None:
        return Check("lake", f"{environment.lake} is not on this machine; the first job checks it")
    problem = _not_writable(folder)
    if problem:
        return Check("lake", problem, "Set `lake` in the environment to a folder that this user may write.")
    free = shutil.disk_usage(_existing(folder)).free / 1024**3
    found = f"{folder} is writable, {free:.1f} GiB free"
    return (
        Check("lake", found, f"Expected at least {FREE_GIB:.0f} GiB: free some.")
        if free < FREE_GIB
        else Check("lake", found)
    )


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _not_writable(folder: Path) -> str | None:
    """Why nothing can be written there, None when something can; tried, since permissions do not tell of read-only disks."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return None
    except OSError as error:
        return f"{folder} is not writable: {error.strerror}"


def _mlflow(environment: Environment) -> Check:
    uri = environment.tracking_uri
    parts = urlsplit(uri)
    shown = re.sub(r"://[^@/]*@", "://***@", uri)  # an address may carry a password
    if parts.scheme == "sqlite":
        return _sqlite(environment, Path(uri.removeprefix("sqlite:///")))
    cure = "Start the server or the database, or set `mlflow` in the environment."
    try:
        if parts.scheme in ("http", "https"):
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                return Check("mlflow", f"{shown} answers")
        if parts.hostname and parts.port:
            socket.create_connection((parts.hostname, parts.port), timeout=5).close()
            return Check("mlflow", f"{shown} takes connections")
    except urllib.error.HTTPError as error:
        return Check("mlflow", f"{shown} answers {error.code} {error.reason}", cure)
    except OSError as error:
        return Check("mlflow", f"{shown} cannot be reached: {error}", cure)
    return Check("mlflow", f"{shown} is not looked at from here")


def _sqlite(environment: Environment, file: Path) -> Check:
    on_one_machine = is_local(environment) and (environment.mlflow or _local(environment.lake))
    if not on_one_machine:
        cure = "Expected a server or database address as `mlflow`: a cluster's driver may run where that file is not."
        return Check("mlflow", environment.tracking_uri, cure)
    problem = _not_writable(file.parent)
    if problem:
        return Check("mlflow", problem, "Set `mlflow` in the environment.")
    return Check("mlflow", f"{environment.tracking_uri} can be kept")
