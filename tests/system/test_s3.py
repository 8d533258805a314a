"""Raw files and lake on an object store, by the environment file alone: moto speaks S3's protocol, Hadoop's S3A is the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from moto.server import ThreadedMotoServer

from tests.system import deliveries, lakes

ROOT = Path(__file__).resolve().parents[2]
ID, SECRET = "canary-id", "canary-secret"
# What differs by nature: clocks, and what says which content a file has, for which a store has its own words.
APART = ("recorded_at", "seconds", "details", "inputs", "outputs", "etag", "manifest", "fingerprint")
JOBS = """
import sys
from jobs.runtime import Arguments, execute
sys.exit(max(execute(job, Arguments(sys.argv[1], sys.argv[2])) for job in ("ingest", "features")))
"""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def run(folder: Path, environment: Path) -> tuple[list[dict[str, Any]], str]:
    """Ingest and features in one process; their summaries, and all that the process said."""
    script = folder / "two_jobs.py"  # Great Expectations takes a main module without a file for its doctests
    script.write_text(JOBS)
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "parcels.yaml"), str(environment)],
        cwd=ROOT, capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stdout + done.stderr


def tables(client: Any, endpoint: str) -> dict[str, pa.Table]:
    """As `lakes.tables`, of the bucket `lake`."""
    options = {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip
    keys = [
        entry["Key"]
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="lake")
        for entry in page["Contents"]
    ]
    found = {}
    for name in sorted({key.split("/_delta_log/")[0] for key in keys if "/_delta_log/" in key}):
        table = DeltaTable(f"s3://lake/{name}", storage_options=options).to_pyarrow_table()
        found[name] = table.select([column for column in table.column_names if not column.startswith("_")])
    return found


@pytest.mark.system
def test_the_same_tables_on_an_object_store(tmp_path: Path, endpoint: str) -> None:
    """As in a folder, row for row; a second run writes nothing; the credentials are found nowhere."""
    deliveries.write(tmp_path / "raw", rows=600)
    (tmp_path / "parcels.yaml").write_text(deliveries.PIPELINE)
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=ID, aws_secret_access_key=SECRET, region_name="us-east-1"
    )
    for bucket in ("raw", "lake"):
        client.create_bucket(Bucket=bucket)
    for file in sorted((tmp_path / "raw").rglob("*.csv")):
        client.upload_file(str(file), "raw", file.relative_to(tmp_path / "raw").as_posix())
    local = deliveries.write_environment(tmp_path, "lake")
    settings = {
        "endpoint": endpoint, "endpoint.region": "us-east-1", "path.style.access": "true", "connection.ssl.enabled": "false",
        "attempts.maximum": "2",
    }  # fmt: skip
    remote = deliveries.write_environment(
        tmp_path, "remote", {f"spark.hadoop.fs.s3a.{name}": value for name, value in settings.items()}
    )
    text = (
        remote.read_text()
        .replace(f"raw: {tmp_path}/raw", "raw: s3a://raw")
        .replace(f"lake: {tmp_path}/remote", "lake: s3a://lake")
    )
    remote.write_text(text)

    run(tmp_path, local)
    _, said = run(tmp_path, remote)
    ours, theirs = tables(client, endpoint), lakes.tables(tmp_path / "lake")
    again, said_again = run(tmp_path, remote)

    assert {name: lakes.checksum(table, APART) for name, table in ours.items()} == {
        name: lakes.checksum(table, APART) for name, table in theirs.items()
    }
    assert [summary["outcome"] for summary in again] == ["unchanged", "unchanged"]
    assert SECRET not in said + said_again
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="lake"):
        for entry in page["Contents"]:
            assert SECRET.encode() not in client.get_object(Bucket="lake", Key=entry["Key"])["Body"].read(), entry[
                "Key"
            ]
