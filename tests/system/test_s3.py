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


@pytest.fixture
def client(endpoint: str) -> Any:
    made = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=ID, aws_secret_access_key=SECRET, region_name="us-east-1"
    )
    for bucket in ("raw", "lake"):
        made.create_bucket(Bucket=bucket)
    return made


def on_store(folder: Path, endpoint: str) -> Path:
    """An environment file whose raw files and lake are on the store."""
    settings = {
        "endpoint": endpoint, "endpoint.region": "us-east-1", "path.style.access": "true", "connection.ssl.enabled": "false",
        "attempts.maximum": "2",
    }  # fmt: skip
    path = deliveries.write_environment(
        folder, "remote", {f"spark.hadoop.fs.s3a.{name}": value for name, value in settings.items()}
    )
    local = path.read_text().replace(f"raw: {folder}/raw", "raw: s3a://raw")
    path.write_text(local.replace(f"lake: {folder}/remote", "lake: s3a://lake"))
    return path


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that has the store's credentials in its environment."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def run(folder: Path, environment: Path) -> tuple[list[dict[str, Any]], str]:
    """Ingest and features in one process; their summaries, and all that the process said."""
    script = folder / "two_jobs.py"  # Great Expectations takes a main module without a file for its doctests
    script.write_text(JOBS)
    done = python(str(script), str(folder / "parcels.yaml"), str(environment))
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
def test_the_same_tables_on_an_object_store(tmp_path: Path, endpoint: str, client: Any) -> None:
    """As in a folder, row for row; a second run writes nothing; the credentials are found nowhere."""
    deliveries.write(tmp_path / "raw", rows=600)
    (tmp_path / "parcels.yaml").write_text(deliveries.PIPELINE)
    for file in sorted((tmp_path / "raw").rglob("*.csv")):
        client.upload_file(str(file), "raw", file.relative_to(tmp_path / "raw").as_posix())
    local = deliveries.write_environment(tmp_path, "lake")
    remote = on_store(tmp_path, endpoint)

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


@pytest.mark.system
def test_one_writer_and_no_unfinished_uploads_on_an_object_store(tmp_path: Path, endpoint: str, client: Any) -> None:
    """Of eight that create a file one does; a living lease is respected; uploads below the lake's root are aborted, others are not."""
    for key in ("shop/part-0", "shop/gold/part-1", "shopping/part-2"):
        client.create_multipart_upload(Bucket="lake", Key=key)

    found = json.loads(
        python("-m", "tests.system.store_probe", str(on_store(tmp_path, endpoint)), "s3a://lake/shop").stdout
    )

    assert sorted(found["created"]) == [False] * 7 + [True]
    assert found["content"] == f"writer {found['created'].index(True)}"
    assert (found["absent"], found["names"]) == ([None, []], ["one.json"])
    assert found["refused"] == (
        "s3a://lake/shop/ops/leases/shop/1.json: process 17 on elsewhere is running pipeline shop. Expected no other run."
        " Wait for it to end."
    )
    assert (found["old"], found["young"], found["aborted"]) == (2, 0, 2)
    left = client.list_multipart_uploads(Bucket="lake")["Uploads"]
    assert [upload["Key"] for upload in left] == ["shopping/part-2"]
