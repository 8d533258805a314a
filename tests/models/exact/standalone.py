"""A standalone cluster of Spark on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def standalone(folder: Path) -> Iterator[str]:
    """A master and two workers of one core each; its address."""
    import pyspark

    home = Path(pyspark.__file__).parent
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    master = f"spark://127.0.0.1:{port}"
    environment = os.environ | {
        "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_NO_DAEMONIZE": "1", "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT), "SPARK_DAEMON_MEMORY": "256m",
    }  # fmt: skip
    deploy = "org.apache.spark.deploy"
    settings = ["--host", "127.0.0.1", "--webui-port", "0"]
    commands = [[f"{deploy}.master.Master", *settings, "--port", str(port)]]
    for i in range(2):
        place = ["--cores", "1", "--memory", "700m", "--work-dir", str(folder / f"work-{i}")]
        commands.append([f"{deploy}.worker.Worker", *settings, *place, master])
    processes = []
    try:
        for number, command in enumerate(commands):
            log = (folder / f"daemon-{number}.log").open("w")
            processes.append(
                subprocess.Popen(
                    [str(home / "bin/spark-class"), *command], env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            )
        yield master
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
