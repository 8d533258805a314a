"""A standalone cluster of Spark on this machine, started as the README says."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[3]
README = ROOT / "README.md"


@contextmanager
def standalone(folder: Path, memory: str = "700m") -> Iterator[str]:
    """A master and two workers of one core and so much memory each; its address, once it knows both.

    The workers have an address each, as two machines have: Spark starts a second attempt at a task on another host only.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    master = f"spark://127.0.0.1:{port}"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_NO_DAEMONIZE": "1", "SPARK_DAEMON_MEMORY": "256m",
    }  # fmt: skip
    commands = [[*_readme_words("Master", master), "--webui-port", "0", "--port", str(port)]]
    for i in range(2):
        place = ["--host", f"127.0.0.{i + 1}", "--webui-port", "0", "--work-dir", str(folder / f"work-{i}")]
        *words, address = _readme_words("Worker", master)
        commands.append([*words, *place, "--cores", "1", "--memory", memory, address])
    processes: list[subprocess.Popen[str]] = []

    def start(number: int, **output: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(commands[number], env=environment, stderr=subprocess.STDOUT, text=True, **output)
        processes.append(process)
        return process

    try:
        said = start(0, stdout=subprocess.PIPE).stdout
        assert said is not None
        lines = _copied(said, folder / "daemon-0.log")
        # Whoever comes before the master listens, a worker or a driver, tries again seconds later.
        _await(lines, "I have been elected leader")
        for number in (1, 2):
            start(number, stdout=(folder / f"daemon-{number}.log").open("w"))
        for _ in (1, 2):
            _await(lines, "Registering worker")
        yield master
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _readme_words(daemon: str, master: str) -> list[str]:
    """The README's command that starts a daemon, with the address of a master of this machine."""
    command = re.search(rf"^(spark-class \S+\.{daemon}[^#\n]*)", README.read_text(), re.MULTILINE)
    assert command is not None
    words = command[1].replace("spark://HOST:7077", master).replace("HOST", "127.0.0.1").split()
    return [str(Path(sys.executable).with_name(words[0])), *words[1:]]


def _copied(stream: IO[str], file: Path) -> SimpleQueue[str | None]:
    """Lines of a stream as they come, None at its end; all are written to a file."""
    lines: SimpleQueue[str | None] = SimpleQueue()

    def copy() -> None:
        with file.open("w") as log:
            for line in stream:
                log.write(line)
                lines.put(line)
        lines.put(None)

    Thread(target=copy, daemon=True).start()
    return lines


def _await(lines: SimpleQueue[str | None], text: str) -> None:
    """Take lines up to one with a text."""
    seen = []
    while (line := lines.get(timeout=60)) is not None:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"expected {text!r}, found:\n{''.join(seen)}")


def found_by(script: list[str], folder: Path) -> Any:
    """What a script prints as JSON after FOUND, run by Python with the master of a new cluster and this repository's root."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    with standalone(folder) as master:
        done = subprocess.run(
            [sys.executable, *script, master, str(ROOT), str(folder)],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    lines = [line.removeprefix("FOUND ") for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-5000:]
    return json.loads(lines[0])


def session(master: str, root: str) -> SparkSession:
    """A session of two cores on the cluster, started when both are there."""
    settings = {
        "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false",
        "spark.executor.memory": "500m", "spark.executorEnv.PYTHONPATH": root, "spark.sql.shuffle.partitions": "2",
        "spark.ui.showConsoleProgress": "false", "spark.cores.max": "2",
        "spark.scheduler.minRegisteredResourcesRatio": "1.0", "spark.scheduler.maxRegisteredResourcesWaitingTime": "60s",
    }  # fmt: skip
    builder = SparkSession.builder.master(master)
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()
