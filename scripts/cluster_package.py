"""What `scripts/package` does: one folder with all that a cluster needs, and the lines that submit it."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from jobs import jars
from scripts import kubernetes_package

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("conf", "transforms", "models", "jobs")
# What the code reads beside its modules; see package_data in setup.cfg.
DATA = (".yaml", ".lock", ".xml", ".txt", ".properties", ".jinja", ".css")
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same code makes the same bytes
PYTHON = str(ROOT / ".venv/bin/python")
UNPACKED = "./environment/bin/python"
# Where a job runs -> what spark-submit is told of it.
PLACES = {
    "local": ("--master", "local[*]"),
    "standalone": ("--master", "spark://HOST:7077"),
    "yarn-client": ("--master", "yarn", "--deploy-mode", "client"),
    "yarn-cluster": ("--master", "yarn", "--deploy-mode", "cluster"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the folder and print the lines."""
    parser = argparse.ArgumentParser(prog="scripts/package", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/package"))
    parser.add_argument("--environment", action="store_true", help="pack the Python packages too")
    parser.add_argument("--jars", nargs="*", default=["delta", "s3"], metavar="GROUP", help="groups of conf/jars.lock")
    parser.add_argument("--image", help="name of the image to build: writes what Kubernetes needs too")
    given = parser.parse_args(arguments)
    write(given.folder, given.jars)
    if given.environment:
        pack_environment(given.folder)
    for place in PLACES:
        line = command(place, given.folder, has_environment=given.environment)
        sys.stdout.write(f"{place}:\n  {shlex.join(line)} run flights --env cluster\n")
    if given.image:
        kubernetes_package.write(given.folder, given.image)
        build_wheel(given.folder / "image")
        line = kubernetes_package.command(given.folder, given.image)
        sys.stdout.write(f"kubernetes:\n  {shlex.join(line)} run flights --env cluster\n")
    return 0


def write(folder: Path, groups: Sequence[str]) -> None:
    """The zip, the script to submit and the jars."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "millrace.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            for file in sorted((ROOT / package).rglob("*")):
                if file.suffix in (".py", *DATA):
                    name = zipfile.ZipInfo(file.relative_to(ROOT).as_posix(), LONG_AGO)
                    archive.writestr(name, file.read_bytes(), zipfile.ZIP_DEFLATED)
    # Not jobs/cli.py itself: Python would look for modules in `jobs` first.
    shutil.copyfile(ROOT / "jobs/cli.py", folder / "millrace.py")
    shutil.rmtree(folder / "jars", ignore_errors=True)
    (folder / "jars").mkdir()
    for group in groups:
        for jar in jars.ensure(group):
            shutil.copy(jar, folder / "jars")


def command(place: str, folder: Path, *, master: str | None = None, has_environment: bool = False) -> list[str]:
    """The words of spark-submit up to the job's own: `run PIPELINE`, `ingest PIPELINE`, ...

    Args:
        place: one of `PLACES`.
        master: its address, where that is known.
        has_environment: machines unpack the Python packages that were packed; else all of them have this folder's `.venv`.
    """
    option, address, *more = PLACES[place]
    words = [kubernetes_package.SUBMIT, option, master or address, *more]
    words += ["--py-files", str(folder / "millrace.zip")]
    words += ["--jars", ",".join(str(jar) for jar in sorted((folder / "jars").iterdir()))]
    if has_environment and place != "local":
        words += ["--archives", f"{folder / 'environment.tar.gz'}#environment"]
        words += ["--conf", f"spark.pyspark.python={UNPACKED}"]
        if place != "yarn-cluster":  # the driver is here
            words += ["--conf", f"spark.pyspark.driver.python={PYTHON}"]
    else:
        words += ["--conf", f"spark.pyspark.python={PYTHON}"]
    return [*words, str(folder / "millrace.py")]


def pack_environment(folder: Path) -> None:
    """`environment.tar.gz`: the locked packages that jobs need, but Spark's jars, which every machine of a cluster has.

    Its `python` is a link to the Python that set-up found; the cluster's machines need one at the same path.
    """
    place = folder / "environment"
    shutil.rmtree(place, ignore_errors=True)
    quiet = _uv()
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([*quiet, "venv", "--relocatable", "--python", str(base), str(place)], check=True)
    install = ["pip", "install", "--python", str(place / "bin/python"), "--link-mode", "copy", "--compile-bytecode"]
    locked = ["--constraint", "requirements.lock", "--requirements", "setup.cfg", "--extra", "s3"]
    subprocess.run([*quiet, *install, *locked], check=True, cwd=ROOT)
    for jars_of_spark in place.glob("lib/python*/site-packages/pyspark/jars"):
        shutil.rmtree(jars_of_spark)
    with tarfile.open(folder / "environment.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(place, arcname=".")
    shutil.rmtree(place)


def build_wheel(folder: Path) -> None:
    """millrace with its pipeline files and environments, built from a copy: setuptools leaves its work beside what it builds."""
    with tempfile.TemporaryDirectory() as copy:
        for package in PACKAGES:
            shutil.copytree(ROOT / package, Path(copy) / package, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, copy)
        subprocess.run([*_uv(), "build", "--wheel", "--out-dir", str(folder), copy], check=True)


def _uv() -> list[str]:
    return [shutil.which("uv") or str(ROOT / ".venv-tools/bin/uv"), "--quiet"]


if __name__ == "__main__":
    sys.exit(main())
