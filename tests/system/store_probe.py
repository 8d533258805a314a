"""What `test_s3` asks of a store in a process of its own, whose session has S3A: prints one JSON object."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyspark.sql import SparkSession

from conf.load import load_environment
from jobs import session, uploads
from jobs.lease import Pace, held
from jobs.storage import Storage
from tests.jobs.leases import kept_elsewhere
from transforms.errors import RefusedError

WRITERS = 8


def created(storage: Storage, path: str) -> list[bool]:
    """Of writers that create the same file at once, which one did."""
    ready = threading.Barrier(WRITERS)

    def create(number: int) -> bool:
        ready.wait()
        return storage.create(path, f"writer {number}")

    with ThreadPoolExecutor(WRITERS) as threads:
        return list(threads.map(create, range(WRITERS)))


def refused(spark: SparkSession, root: str) -> str:
    """What a run is told while another machine holds the lease and lives."""
    pace = Pace(beat=0.2, term=30)
    try:
        with kept_elsewhere(spark, root, pace), held(spark, root, "shop", pace):
            return "took it"
    except RefusedError as error:
        return str(error)


def main() -> None:
    root = sys.argv[2]
    spark = session.build(load_environment(sys.argv[1]), app="probe")
    storage = Storage(spark)
    found: dict[str, Any] = {
        "created": created(storage, f"{root}/ops/one.json"),
        "content": storage.read(f"{root}/ops/one.json"),
        "absent": [storage.read(f"{root}/ops/none.json"), storage.names(f"{root}/none")],
        "names": storage.names(f"{root}/ops"),
        "refused": refused(spark, root),
        "old": uploads.stale(spark, root),  # moto says of every upload that it was begun in 2010
    }
    uploads.STALE_SECONDS, day = 100 * 366 * 24 * 3600, uploads.STALE_SECONDS
    found["young"] = uploads.abort_stale(spark, root)
    uploads.STALE_SECONDS = day
    found["aborted"] = uploads.abort_stale(spark, root)
    sys.stdout.write(json.dumps(found) + "\n")
    spark.stop()


if __name__ == "__main__":
    main()
