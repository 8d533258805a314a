"""A standalone cluster of two workers with 4 GB each: raw CSV to Delta, features, a linear search, by the jobs as spark-submit starts them.

`scaling` has seconds and megabytes of raw files a second for each job; what executors spilled to disk is from Spark's event log.
There is no peer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from scripts import cluster_package, paired
from scripts.benches.ingest import PIPELINE
from scripts.raw_flights import write_files
from tests.models.exact.standalone import standalone

COPIES = {"small": 2, "full": 212}  # of the 336,776 flights; 212 are 5 GB
MEMORY, OVERHEAD = "2g", "2g"  # of an executor's JVM, and for its Python workers
JOBS = ("ingest", "features", "train")


def pipeline() -> dict[str, Any]:
    """Flights with windows and a linear regression of the delay."""
    found: dict[str, Any] = json.loads(json.dumps(PIPELINE))
    flights = found["sources"]["flights"]
    flights["known_at"] = "time_hour - INTERVAL 30 DAYS"
    flights["outcomes"] = [
        {"columns": ["dep_delay", "arr_delay", "air_time"], "known_at": "time_hour + INTERVAL 12 HOURS"}
    ]
    windows = [
        {"of": "flights", "by": ["origin"], "over": ["1 day"], "take": {"origin_delay": "avg(dep_delay)"}},
        {
            "of": "flights",
            "by": ["carrier", "flight"],
            "over": ["7 days", "28 days"],
            "take": {"own_delay": "avg(arr_delay)"},
        },
    ]
    numeric = ["distance", "month", "origin_delay", "own_delay_7_days", "own_delay_28_days"]
    found["features"] |= {
        "as_of": "time_hour - INTERVAL 2 HOURS",
        "windows": windows,
        "numeric": numeric,
        "categorical": ["carrier"],
    }
    found["split"] = {"test": {"share": 0.2}, "folds": {"kind": "random", "count": 5}}
    grid = {"reg_param": [0.001, 0.01, 0.1, 1.0], "elastic_net_param": [0.0, 0.5]}
    found["train"]["candidates"] = {"linear": {"estimator": "linear_regression", "grid": grid}}
    return found


def spilled_bytes(events: Path) -> int:
    """What tasks wrote to disk because it did not fit into memory, over all event logs of a folder."""
    total = 0
    for file in events.rglob("*"):
        if file.is_file():
            for line in file.open():
                if '"SparkListenerTaskEnd"' in line:
                    total += (json.loads(line).get("Task Metrics") or {}).get("Disk Bytes Spilled", 0)
    return total


def main() -> int:
    """Run the benchmark."""
    given = paired.arguments(__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_files(folder / "raw", COPIES[given.size])
        size = sum(file.stat().st_size for file in (folder / "raw").rglob("*.csv"))
        (folder / "events").mkdir()
        (folder / "bench.yaml").write_text(yaml.safe_dump(pipeline()))
        logged = {"spark.eventLog.enabled": "true", "spark.eventLog.compress": "false"}
        spark = {**logged, "spark.eventLog.dir": str(folder / "events")}
        place = {"name": "bench", "raw": str(folder / "raw"), "lake": str(folder / "lake"), "spark": spark}
        (folder / "place.yaml").write_text(yaml.safe_dump(place))
        cluster_package.write(folder / "package", ["delta"])
        found: dict[str, Any] = {}
        with standalone(folder, "4g") as master:
            words = cluster_package.command("standalone", folder / "package", master=master)
            sizes = [
                "--executor-memory",
                MEMORY,
                "--driver-memory",
                "2g",
                "--conf",
                f"spark.executor.memoryOverhead={OVERHEAD}",
            ]
            for job in JOBS:
                line = [
                    *words[:-1],
                    *sizes,
                    words[-1],
                    job,
                    str(folder / "bench.yaml"),
                    "--env",
                    str(folder / "place.yaml"),
                ]
                done = subprocess.run(
                    line, stdout=subprocess.PIPE, text=True, env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"}
                )
                summary = json.loads(done.stdout.splitlines()[-1])
                paired.told(f"{job}: {summary}")
                found[job] = {
                    "exit_code": done.returncode,
                    "seconds": summary["seconds"],
                    "megabytes_per_second": size / 1e6 / summary["seconds"],
                }
        spilled = spilled_bytes(folder / "events")
    line_of_json = {
        "bench": "cluster", "size": {"name": given.size, "rows": rows, "gigabytes": size / 1e9, "workers": 2, "gibibytes_a_worker": 4},
        "ours_s": sum(job["seconds"] for job in found.values()), "peer_s": None, "ratio": None, "scaling": found,
        "quality": {"spilled_bytes": spilled}, "ok": all(job["exit_code"] == 0 for job in found.values()),
    }  # fmt: skip
    return paired.finish(line_of_json, given)


if __name__ == "__main__":
    sys.exit(main())
