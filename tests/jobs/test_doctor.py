"""`millrace doctor`: what is sound is one line, what is wrong is one line with its cure."""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from conf.schema import Environment
from jobs import doctor, jars
from jobs.doctor import Check

pytestmark = pytest.mark.quick


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A sound local environment in a folder of its own."""
    (tmp_path / "raw").mkdir()
    return Environment(raw=str(tmp_path / "raw"), lake=str(tmp_path / "lake"), driver_memory="512m")


def named(environment: Environment, name: str) -> list[Check]:
    return [check for check in doctor.checks(environment) if check.name == name]


def fake_java(folder: Path, version_line: str) -> Path:
    """A JAVA_HOME whose java answers -version with this line, as every Java does on standard error."""
    java = folder / "java-home/bin/java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho '{version_line}' >&2\n")
    java.chmod(0o755)
    return folder / "java-home"


def test_a_sound_installation_has_no_problem(environment: Environment, tmp_path: Path) -> None:
    """Every check is one line that begins with ok, and nothing is left behind."""
    console = Console(record=True, width=200)
    before = sorted(tmp_path.rglob("*"))

    assert doctor.run(doctor.checks(environment), console)

    lines = console.export_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"ok      {name}" for name in ("Python", "packages", "Java", "jars", "memory", "raw", "lake", "mlflow")
    ]
    assert lines[0] == f"ok      Python: {sys.version.split()[0]} at {sys.executable}"
    assert lines[1].endswith(f"pyspark {metadata.version('pyspark')}, delta-spark {metadata.version('delta-spark')}")
    assert lines[5] == f"ok      raw: {tmp_path}/raw is readable"
    assert lines[7] == f"ok      mlflow: sqlite:///{tmp_path}/lake/ops/mlflow.db can be kept"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('openjdk version "11.0.2" 2019-01-15', "11.0.2"),
        ('java version "1.8.0_202"', "1.8.0_202"),
        ('openjdk version "25" 2025-09-16', "25"),
    ],
)
def test_another_java_is_a_problem(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, found: str
) -> None:
    """Spark 4.2 runs on 17 and 21: anything else is named with its place."""
    home = fake_java(tmp_path, line)
    monkeypatch.setenv("JAVA_HOME", str(home))

    assert named(environment, "Java") == [
        Check(
            "Java",
            f"{found} at {home}/bin/java",
            "Expected 17 or 21: install one, on Debian `apt-get install openjdk-17-jre-headless`, and set JAVA_HOME if it is not the"
            " default.",
        )
    ]


def test_the_next_long_term_java_is_fine(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """21 is as good as 17."""
    home = fake_java(tmp_path, 'openjdk version "21.0.2" 2024-01-16')
    monkeypatch.setenv("JAVA_HOME", str(home))

    assert named(environment, "Java") == [Check("Java", f"21.0.2 at {home}/bin/java")]


def test_no_java_is_a_problem(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both places that were looked at are in the line."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")

    (check,) = named(environment, "Java")

    assert (check.ok, check.found) == (False, "none on the PATH, and JAVA_HOME is not set")


def test_each_package_of_another_version_is_a_problem(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delta's jar breaks on the next patch of Spark already, so the exact pin is told; what is absent is told too."""
    real = metadata.version

    def changed(package: str) -> str:
        if package == "delta-spark":
            raise metadata.PackageNotFoundError(package)
        return "4.2.1" if package == "pyspark" else real(package)

    # What pip installed cannot be changed within a test process, hence the replaced look-up.
    monkeypatch.setattr(doctor, "version", changed)

    problems = [check for check in doctor.checks(environment) if not check.ok]
    assert problems == [
        Check("pyspark", "4.2.1", "Expected ==4.2.0: run scripts/setup."),
        Check("delta-spark", "not installed", "Expected ==4.4.0: run scripts/setup."),
    ]


def test_xgboost_for_gpus_is_as_good(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra `gpu` takes the place of the package for processors alone."""
    real = metadata.version

    def swapped(package: str) -> str:
        if package == "xgboost-cpu":
            raise metadata.PackageNotFoundError(package)
        return real("xgboost-cpu" if package == "xgboost" else package)

    monkeypatch.setattr(doctor, "version", swapped)

    assert [check for check in doctor.checks(environment) if not check.ok] == []


def test_two_packages_that_own_the_same_files_are_a_problem(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's provider brings pyspark-client; at another version it overwrites Spark's own Python files."""
    real = metadata.version
    monkeypatch.setattr(doctor, "version", lambda package: "4.3.0" if package == "pyspark-client" else real(package))

    problems = [check for check in doctor.checks(environment) if not check.ok]
    assert problems == [
        Check(
            "pyspark-client",
            "4.3.0 beside pyspark 4.2.0",
            "Both own the same files: keep one, or the same version of both. Uninstall pyspark-client and reinstall pyspark.",
        )
    ]


def test_missing_and_changed_jars_are_problems(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is looked at, never filled."""
    monkeypatch.setenv("MILLRACE_CACHE", str(tmp_path / "cache"))
    delta, storage = (tmp_path / "cache/jars" / jar.file_name for jar in jars.locked("delta"))
    delta.parent.mkdir(parents=True)
    delta.write_bytes(b"changed")

    assert named(environment, "jars") == [
        Check("jars", f"{delta} is not the locked file", "Remove it and run `python -m jobs.jars`."),
        Check("jars", f"{storage} is missing", "Run `python -m jobs.jars` where there is a network."),
    ]
    assert hashlib.sha256(delta.read_bytes()).hexdigest() == hashlib.sha256(b"changed").hexdigest()


@pytest.mark.parametrize(
    ("asked", "cure"),
    [
        ("900g", "Expected at most 80 % of the memory: set driver_memory to "),
        ("lots", "Expected a whole number and a unit such as 4g or 900m as driver_memory."),
    ],
)
def test_memory_that_is_not_there_is_a_problem(environment: Environment, asked: str, cure: str) -> None:
    """A heap larger than the machine is killed by the kernel in the middle of a job."""
    (check,) = named(environment.model_copy(update={"driver_memory": asked}), "memory")

    assert check.found.endswith(f"driver_memory {asked}")
    assert check.cure.startswith(cure)


def test_folders_that_cannot_be_used_are_problems(environment: Environment, tmp_path: Path) -> None:
    """Raw files must be there; the lake must be writable, which only a try tells (permissions mean nothing to root)."""
    broken = environment.model_copy(update={"raw": str(tmp_path / "nothing"), "lake": "/proc/lake"})

    assert named(broken, "raw") + named(broken, "lake") == [
        Check(
            "raw",
            f"{tmp_path}/nothing is not a readable folder",
            "Set `raw` in the environment, or run scripts/fetch_flights for the example.",
        ),
        Check(
            "lake",
            "/proc/lake is not writable: No such file or directory",
            "Set `lake` in the environment to a folder that this user may write.",
        ),
    ]


def test_other_file_systems_are_left_to_the_jobs(environment: Environment) -> None:
    """Only a Spark session with its credentials can look into object storage."""
    remote = environment.model_copy(
        update={"raw": "s3a://bucket/raw", "lake": "hdfs://host/lake", "mlflow": "databricks"}
    )

    assert named(remote, "raw") + named(remote, "lake") + named(remote, "mlflow") == [
        Check("raw", "s3a://bucket/raw is not on this machine; ingest checks it"),
        Check("lake", "hdfs://host/lake is not on this machine; the first job checks it"),
        Check("mlflow", "databricks is not looked at from here"),
    ]


@pytest.mark.parametrize(
    "update", [{"master": "yarn"}, {"lake": "s3a://bucket/lake"}], ids=["a cluster", "a lake elsewhere"]
)
def test_a_sqlite_file_is_no_registry_for_a_cluster(environment: Environment, update: dict[str, str]) -> None:
    """In cluster mode the driver runs on any machine, and object storage holds no sqlite."""
    (check,) = named(environment.model_copy(update=update), "mlflow")

    assert (
        check.cure
        == "Expected a server or database address as `mlflow`: a cluster's driver may run where that file is not."
    )


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Answers /health with 200 and everything else with 503, as an MLflow server and a proxy before a dead one do."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_tracking_server_is_asked_for_its_health(environment: Environment, server: HTTPServer) -> None:
    """A server that answers is fine, one that answers with an error is not; a password is not shown."""
    address = f"127.0.0.1:{server.server_port}"

    found = [
        named(environment.model_copy(update={"mlflow": uri}), "mlflow")
        for uri in (f"http://{address}", f"http://{address}/down", f"postgresql://me:secret@{address}/mlflow")
    ]

    assert found == [
        [Check("mlflow", f"http://{address} answers")],
        [
            Check(
                "mlflow",
                f"http://{address}/down answers 503 Service Unavailable",
                "Start the server or the database, or set `mlflow` in the environment.",
            )
        ],
        [Check("mlflow", f"postgresql://***@{address}/mlflow takes connections")],
    ]


def test_a_server_that_is_down_is_a_problem(environment: Environment) -> None:
    """Nobody listens on a port that was just given back."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    found = [
        named(environment.model_copy(update={"mlflow": f"{scheme}://127.0.0.1:{port}"}), "mlflow")[0]
        for scheme in ("http", "mysql")
    ]

    assert [check.found.split(": ")[0] for check in found] == [
        f"http://127.0.0.1:{port} cannot be reached",
        f"mysql://127.0.0.1:{port} cannot be reached",
    ]
    assert not any(check.ok for check in found)


def test_exit_codes_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 for a sound installation, 1 with a problem, 2 for an environment file that is not there or not right."""
    (tmp_path / "raw").mkdir()
    sound = tmp_path / "sound.yaml"
    sound.write_text(f"raw: {tmp_path}/raw\nlake: {tmp_path}/lake\ndriver_memory: 512m\n")
    broken = tmp_path / "broken.yaml"
    broken.write_text(f"raw: {tmp_path}/nothing\nlake: {tmp_path}/lake\ndriver_memory: 512m\n")
    mistyped = tmp_path / "mistyped.yaml"
    mistyped.write_text("lakes: here\n")

    codes = [doctor.execute(None, str(file), doctor.checks) for file in (sound, broken, mistyped)]

    assert codes == [0, 1, 2]
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{mistyped}:1: ")
