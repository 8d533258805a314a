"""What a lake on an object store rests on: files that one writer creates, leases, and uploads that nobody finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import deliveries, stores
from tests.system.stores import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store() -> Iterator[Store]:
    with stores.object_store() as running:
        yield running


def on_store(folder: Path, store: Store) -> Path:
    """An environment file whose raw files and lake are on the store."""
    return deliveries.write_environment(folder, "remote", store.spark, raw="s3a://raw", lake="s3a://lake")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that has the store's credentials in its environment."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONPATH": str(ROOT), **stores.CREDENTIALS},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.system
def test_one_writer_and_no_unfinished_uploads_on_an_object_store(tmp_path: Path, store: Store) -> None:
    """Of eight that create a file one does; a living lease is respected; uploads below the lake's root are aborted, others are not."""
    for key in ("shop/part-0", "shop/gold/part-1", "shopping/part-2"):
        store.client.create_multipart_upload(Bucket="lake", Key=key)

    found = json.loads(
        python("-m", "tests.system.store_probe", str(on_store(tmp_path, store)), "s3a://lake/shop").stdout
    )

    assert sorted(found["created"]) == [False] * 7 + [True]
    assert found["content"] == f"writer {found['created'].index(True)}"
    assert (found["absent"], found["names"]) == ([None, []], ["one.json"])
    assert found["refused"] == (
        "s3a://lake/shop/ops/leases/shop/1.json: process 17 on elsewhere is running pipeline shop. Expected no other run."
        " Wait for it to end."
    )
    assert (found["old"], found["young"], found["aborted"]) == (2, 0, 2)
    left = store.client.list_multipart_uploads(Bucket="lake")["Uploads"]
    assert [upload["Key"] for upload in left] == ["shopping/part-2"]
