"""A store on a bad day: the run ends with the tables of a good one, or with a sentence, and then the next run does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system import deliveries, lakes, stores
from tests.system.proxy import Fault, Proxy, in_front_of
from tests.system.stores import Store

ROOT = Path(__file__).resolve().parents[2]
JOBS = """
import sys
from jobs.runtime import Arguments, execute
sys.exit(max(execute(job, Arguments(sys.argv[1], sys.argv[2])) for job in ("ingest", "features")))
"""

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def first_try_at(paths: re.Pattern[str]) -> Callable[[str, str, int], bool]:
    """Whether a request is the first PUT of a path."""
    seen: set[str] = set()

    def applies(method: str, path: str, before: int) -> bool:
        is_first = method == "PUT" and paths.fullmatch(path) is not None and path not in seen
        if is_first:
            seen.add(path)
        return is_first

    return applies


FAULTS = {
    "500": Fault(lambda method, path, before: before % 11 == 10, status=500),
    "503": Fault(lambda method, path, before: before % 11 == 10, status=503),
    "slow": Fault(lambda method, path, before: before % 40 == 39, seconds=2),
    "reset": Fault(lambda method, path, before: before % 11 == 10, reset=True),
    # Every commit has landed at the first try, and nobody hears of it.
    "lost commits": Fault(first_try_at(re.compile(r"/lake/.*_delta_log/\d{20}\.json")), lost=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parcels")
    deliveries.write(folder / "raw", rows=600)
    (folder / "parcels.yaml").write_text(deliveries.PIPELINE)
    (folder / "two_jobs.py").write_text(JOBS)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, tuple[int, str]]:
    """Checksums of a run on this machine's disk."""
    assert run(folder, deliveries.write_environment(folder, "lake")).returncode == 0
    return checksums(lakes.tables(folder / "lake"))


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with stores.object_store() as running:
        running.upload(folder / "raw")
        yield running


@pytest.fixture
def proxy(store: Store) -> Iterator[Proxy]:
    with in_front_of(store.endpoint) as running:
        yield running


def environment(folder: Path, tmp_path: Path, endpoint: str, more: dict[str, str] | None = None) -> Path:
    """An environment file whose raw files and lake are at an address; requests are given up after seconds, not minutes."""
    spark = Store(endpoint).spark | {
        "spark.hadoop.fs.s3a.attempts.maximum": "3",
        "spark.hadoop.fs.s3a.retry.limit": "4",
        "spark.hadoop.fs.s3a.retry.throttle.limit": "4",
    }
    spark |= {"spark.hadoop.fs.s3a.connection.timeout": "5s", "spark.hadoop.fs.s3a.retry.interval": "100ms"}
    spark |= more or {}
    return deliveries.write_environment(tmp_path, "remote", spark, raw="s3a://raw", lake="s3a://lake")


def run(folder: Path, settings: Path, seconds: int = 400) -> subprocess.CompletedProcess[str]:
    """Ingest and features."""
    command = [sys.executable, str(folder / "two_jobs.py"), str(folder / "parcels.yaml"), str(settings)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=seconds,
        env={**os.environ, "PYTHONPATH": str(ROOT), **stores.CREDENTIALS},
    )  # fmt: skip


def checksums(tables: dict[str, object]) -> dict[str, tuple[int, str]]:
    return {name: lakes.checksum(table, lakes.APART) for name, table in tables.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAULTS)
def test_faults_that_pass_change_nothing(
    name: str, folder: Path, expected: dict[str, tuple[int, str]], store: Store, proxy: Proxy, tmp_path: Path
) -> None:
    """Requests are tried again, commits are not made twice: row for row the tables of a good day."""
    proxy.fault = FAULTS[name]

    done = run(folder, environment(folder, tmp_path, proxy.endpoint))

    assert len(proxy.hit) > 5
    assert done.returncode == 0, done.stderr
    assert checksums(store.tables()) == expected


def test_a_store_that_is_restarted(
    folder: Path, expected: dict[str, tuple[int, str]], store: Store, proxy: Proxy, tmp_path: Path
) -> None:
    """For two seconds in the middle of the run no connection is taken: S3A tries long enough, and the run does not notice."""
    back = [float("inf")]

    def is_away(method: str, path: str, before: int) -> bool:
        if before == 150:
            back[0] = time.monotonic() + 2
        return before >= 150 and time.monotonic() < back[0]

    proxy.fault = Fault(is_away, reset=True)
    retries = {"spark.hadoop.fs.s3a.attempts.maximum": "5", "spark.hadoop.fs.s3a.retry.limit": "8"}

    done = run(folder, environment(folder, tmp_path, proxy.endpoint, retries))

    assert len(proxy.hit) > 5
    assert done.returncode == 0, done.stderr
    assert checksums(store.tables()) == expected


def test_a_store_that_refuses_ends_the_run_with_a_sentence(
    folder: Path, expected: dict[str, tuple[int, str]], store: Store, proxy: Proxy, tmp_path: Path
) -> None:
    """403 on every data file, at once and not after minutes of trying; the next run finishes."""
    forbidden = re.compile(r"/lake/(silver|quarantine)/.*\.parquet")
    proxy.fault = Fault(lambda method, path, before: method == "PUT" and forbidden.match(path) is not None, status=403)
    settings = environment(folder, tmp_path, proxy.endpoint)

    refused = run(folder, settings, seconds=120)
    proxy.fault = None
    again = run(folder, settings)

    summary = json.loads(refused.stdout.splitlines()[0])
    # Features, which come next, find no ingest in the ledger: that is their exit code.
    assert (refused.returncode, summary["outcome"], again.returncode) == (3, "failed", 0), refused.stderr
    assert re.fullmatch(
        r"silver/\S+: the store refused access \(403\)\. Expected to read and write there\. Check the credentials of this"
        r" process and the bucket's policy\. The same command goes on from what was committed\.",
        summary["error"],
    ), summary["error"]
    assert "Traceback" not in refused.stderr
    assert stores.SECRET not in refused.stdout + refused.stderr
    assert checksums(store.tables()) == expected


def test_a_store_that_is_away_ends_the_run_within_bounds(
    folder: Path, expected: dict[str, tuple[int, str]], store: Store, proxy: Proxy, tmp_path: Path
) -> None:
    """From the middle of ingest on nothing answers: the run ends by itself, and the next one finishes."""
    proxy.fault = Fault(lambda method, path, before: before > 60, status=503)
    settings = environment(folder, tmp_path, proxy.endpoint)

    away = run(folder, settings, seconds=300)
    proxy.fault = replace(proxy.fault, applies=lambda method, path, before: False)
    again = run(folder, settings)

    assert (away.returncode, again.returncode) == (1, 0), away.stderr + again.stderr
    assert "Traceback" not in away.stderr
    assert checksums(store.tables()) == expected
