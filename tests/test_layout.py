"""The shape of the repository: packages, names, sizes, pins and what is packed with the code."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("conf", "transforms", "models", "jobs")
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base", "core"}

pytestmark = pytest.mark.quick


def modules() -> list[Path]:
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def setup_cfg() -> ConfigParser:
    parsed = ConfigParser()
    parsed.read(ROOT / "setup.cfg")
    return parsed


def requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line.strip()]


def locked(lock: str = "requirements.lock") -> dict[str, str]:
    """Package -> its version in a lock file."""
    lines = (ROOT / lock).read_text().splitlines()
    pins = [line.split(" ")[0].split("==", 1) for line in lines if line and line[0] not in " #"]
    return {canonicalize_name(name): version for name, version in pins}


def test_the_repository_has_its_parts() -> None:
    """A newcomer finds the documents, the four packages and the scripts where every description of the project says."""
    documents = {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"}
    parts = {*documents, "setup.cfg", "pyproject.toml", "requirements.lock", ".gitignore", ".ci/run", "tests"}
    scripts = {f"scripts/{name}" for name in ("run", "test", "setup", "fetch_flights")}

    assert {part for part in parts | scripts if not (ROOT / part).exists()} == set()
    assert {file.parent.name for file in ROOT.glob("[!.]*/__init__.py")} == set(PACKAGES)


@pytest.mark.slow
def test_every_module_imports() -> None:
    """All failures at once, each with its reason. Airflow's DAG file needs an environment of its own."""
    failures = {}
    for file in modules():
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name.startswith("jobs.dags"):
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            failures[name] = str(error)

    assert failures == {}


def test_modules_are_named_after_their_concept() -> None:
    """A module called utils is a place where things get lost."""
    assert [str(file.relative_to(ROOT)) for file in modules() if file.stem in NAMELESS] == []


def test_no_job_shadows_another_package() -> None:
    """`spark-submit jobs/x.py` puts jobs/ first on sys.path: a jobs/mlflow.py would be what `import mlflow` finds."""
    jobs = {file.stem for file in (ROOT / "jobs").glob("*.py")} | {
        folder.stem for folder in (ROOT / "jobs").glob("[a-z]*/")
    }
    others = set(sys.stdlib_module_names) | set(packages_distributions()) - {"jobs"}

    assert jobs & others == set()


def too_long(file: Path) -> Iterator[str]:
    """Places of one file that exceed a limit of length."""
    text = file.read_text()
    place = str(file.relative_to(ROOT))
    if (lines := text.count("\n")) > 400:
        yield f"{place}: {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            names = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs) if argument.arg != "self"]
            # MLlib's own shape: one keyword a parameter of the estimator.
            parameters = any(isinstance(mark, ast.Name) and mark.id == "keyword_only" for mark in node.decorator_list)
            if lines > 80 or (len(names) > 9 and not parameters):
                yield f"{place}:{node.lineno}: {node.name} has {lines} lines and {len(names)} arguments"


def test_files_and_functions_stay_readable() -> None:
    """At most 400 lines a file, 80 lines and 9 arguments a function."""
    assert [place for file in modules() for place in too_long(file)] == []


@pytest.mark.parametrize(
    ("lock", "groups"),
    [
        ("requirements.lock", [("options", "install_requires"), ("options.extras_require", "test")]),
        ("requirements-airflow.lock", [("options.extras_require", "airflow")]),
    ],
)
def test_the_lock_satisfies_setup_cfg(lock: str, groups: list[tuple[str, str]]) -> None:
    """Whoever changes a range in setup.cfg compiles the lock again."""
    parsed, versions = setup_cfg(), locked(lock)
    wanted = [need for section, option in groups for need in requirements(parsed[section][option])]

    unmet = {
        str(need): versions.get(canonicalize_name(need.name))
        for need in wanted
        if not need.specifier.contains(versions.get(canonicalize_name(need.name), "0"))
    }

    assert unmet == {}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-airflow.lock"])
def test_every_locked_package_has_a_hash(lock: str) -> None:
    """`--require-hashes` is only as good as the lock."""
    text = (ROOT / lock).read_text()
    entries = [entry for entry in text.split("\n") if "==" in entry and entry[0] not in " #"]

    assert len(entries) == len(locked(lock)) > 100
    assert [entry for entry in entries if not entry.endswith("\\")] == []
    assert text.count("\\\n    --hash=sha256:") >= len(entries)


def test_the_jars_fit_the_packages() -> None:
    """Delta's jar is built for one Spark and one Delta: both are pinned in setup.cfg to the same versions."""
    pins = {need.name: str(need.specifier) for need in requirements(setup_cfg()["options"]["install_requires"])}
    lines = [line.split() for line in (ROOT / "conf/jars.lock").read_text().splitlines() if line.startswith("delta ")]
    spark = pins["pyspark"].removeprefix("==").rsplit(".", 1)[0]
    delta = pins["delta-spark"].removeprefix("==")

    assert [fields[1] for fields in lines] == [
        f"io.delta:delta-spark_{spark}_2.13:{delta}",
        f"io.delta:delta-storage:{delta}",
    ]


def test_files_beside_the_code_are_packed() -> None:
    """A wheel without a YAML or HTML file fails only at run time, on somebody else's machine."""
    patterns = {
        package: [pattern.strip() for pattern in text.split(",")]
        for package, text in setup_cfg()["options.package_data"].items()
    }
    files = {
        package: [f for f in (ROOT / package).rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")]
        for package in PACKAGES
    }

    unpacked = [
        str(file.relative_to(ROOT))
        for package, found in files.items()
        for file in found
        if not any(fnmatch(str(file.relative_to(ROOT / package)), pattern) for pattern in patterns.get(package, []))
    ]

    assert unpacked == []
