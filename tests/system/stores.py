"""An object store on this machine: moto speaks S3's protocol, Hadoop's S3A and boto3 are the real ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pyarrow as pa
from deltalake import DeltaTable
from moto.server import ThreadedMotoServer

ID, SECRET = "canary-id", "canary-secret"
REGION = "us-east-1"
# What a process needs to open the store: credentials stand nowhere else.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION}


@dataclass(frozen=True)
class Store:
    """A running store with the buckets `raw` and `lake`."""

    endpoint: str

    @property
    def client(self) -> Any:
        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=ID, aws_secret_access_key=SECRET, region_name=REGION
        )

    @property
    def spark(self) -> dict[str, str]:
        """What S3A is told."""
        settings = {
            "endpoint": self.endpoint, "endpoint.region": REGION, "path.style.access": "true",
            "connection.ssl.enabled": "false", "attempts.maximum": "2",
        }  # fmt: skip
        return {f"spark.hadoop.fs.s3a.{name}": value for name, value in settings.items()}

    def upload(self, raw: Path) -> None:
        """Put every file below a folder into the bucket `raw`."""
        client = self.client
        for file in sorted(raw.rglob("*")):
            if file.is_file():
                client.upload_file(str(file), "raw", file.relative_to(raw).as_posix())

    def objects(self) -> list[str]:
        """Of all objects in the bucket `lake`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="lake")
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def holding(self, content: str) -> list[str]:
        """Keys of the objects in the bucket `lake` that hold a text, or whose key does."""
        client, found = self.client, content.encode()
        return [
            key
            for key in self.objects()
            if content in key or found in client.get_object(Bucket="lake", Key=key)["Body"].read()
        ]

    def tables(self) -> dict[str, pa.Table]:
        """As `lakes.tables`, of the bucket `lake`."""
        options = {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION, "AWS_ALLOW_HTTP": "true",
        }  # fmt: skip
        found = {}
        for name in sorted({key.split("/_delta_log/")[0] for key in self.objects() if "/_delta_log/" in key}):
            table = DeltaTable(f"s3://lake/{name}", storage_options=options).to_pyarrow_table()
            found[name] = table.select([column for column in table.column_names if not column.startswith("_")])
        return found


@contextmanager
def object_store() -> Iterator[Store]:
    """A store that ends with the block."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        store = Store(f"http://{host}:{port}")
        # What moto holds is the process's, not the server's.
        urlopen(Request(f"{store.endpoint}/moto-api/reset", method="POST")).close()
        for bucket in ("raw", "lake"):
            store.client.create_bucket(Bucket=bucket)
        yield store
    finally:
        server.stop()
