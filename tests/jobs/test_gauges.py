"""Gauges for Prometheus, read back with the parser of its own client, and as a push gateway receives them."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs import gauges
from jobs.runs import Stage
from tests.jobs.test_usage import USAGE

NOW = 1_700_000_000.0
AT = datetime(2014, 1, 2, 6, 0, 0)
TRAIN = Stage(
    "train", date(2014, 1, 1), "fp", 1, {}, {}, 100, None, 12.5, {}, "c0de", AT, USAGE
)  # it says nothing of rows written
FEATURES = Stage("features", date(2014, 1, 1), "fp", 1, {}, {}, 100, 98, 3.0, {}, "c0de", AT)  # without usage

OF_TRAIN = {
    "millrace_stage_timestamp_seconds": 1_388_642_400.0,
    "millrace_stage_seconds": 12.5,
    "millrace_stage_read_rows": 100.0,
    "millrace_stage_read_bytes": 31e6,
    "millrace_stage_written_bytes": 4_560.0,
    "millrace_stage_tasks": 24.0,
    "millrace_stage_failed_tasks": 0.0,
    "millrace_stage_task_seconds": 22.0,
    "millrace_stage_cpu_seconds": 20.14,
    "millrace_stage_gc_seconds": 0.36,
    "millrace_stage_shuffle_read_bytes": 119e6,
    "millrace_stage_shuffle_written_bytes": 120e6,
    "millrace_stage_spilled_bytes": 0.0,
    "millrace_stage_peak_memory_bytes": 67_108_864.0,
    "millrace_stage_core_seconds": 24.6,
    "millrace_stage_dropped_tasks": 0.0,
}
OF_FEATURES = {
    "millrace_stage_timestamp_seconds": 1_388_642_400.0,
    "millrace_stage_seconds": 3.0,
    "millrace_stage_read_rows": 100.0,
    "millrace_stage_written_rows": 98.0,
}

pytestmark = pytest.mark.quick


def ended(code: float) -> dict[str, float]:
    return {"millrace_run_timestamp_seconds": NOW, "millrace_last_exit_code": code}


def parsed(text: str) -> dict[tuple[str, str], dict[str, float]]:
    """(pipeline, job) -> gauge -> value. Every family is a gauge with a description."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        assert (family.type, family.documentation != "") == ("gauge", True)
        for sample in family.samples:
            assert sample.labels.keys() == {"pipeline", "job"}
            of_job = found.setdefault((sample.labels["pipeline"], sample.labels["job"]), {})
            assert sample.name not in of_job
            of_job[sample.name] = sample.value
    return found


def test_a_file_holds_the_last_of_each_pipeline_and_job(tmp_path: Path) -> None:
    """A run that fails or finds nothing to do leaves the gauges of stages as they are; other pipelines stay in the file."""
    file = tmp_path / "millrace.prom"
    gauges.publish(str(file), "shop", "run", 0, [FEATURES, TRAIN], ended_at=NOW)
    gauges.publish(str(file), "parcels", "train", 4, [], ended_at=NOW)
    gauges.publish(str(file), "shop", "train", 3, [], ended_at=NOW)

    assert parsed(file.read_text()) == {
        ("shop", "run"): ended(0),
        ("shop", "features"): OF_FEATURES,
        ("shop", "train"): OF_TRAIN | ended(3),
        ("parcels", "train"): ended(4),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["millrace.prom"]


def test_what_another_program_put_into_the_file_goes(tmp_path: Path) -> None:
    """The file is millrace's own: gauges of other names would never be brought up to date."""
    file = tmp_path / "millrace.prom"
    file.write_text("# TYPE other gauge\nother 1\n")
    gauges.publish(str(file), "shop", "run", 0, [], ended_at=NOW)
    assert parsed(file.read_text()) == {("shop", "run"): ended(0)}


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No folder is made: the node exporter would not look there."""
    file = tmp_path / "nowhere" / "millrace.prom"
    gauges.publish(str(file), "shop", "run", 0, [TRAIN], ended_at=NOW)
    assert caplog.record_tuples == [
        (
            "jobs.gauges",
            logging.WARNING,
            f"metrics: {file} did not take the gauges of this run: [Errno 2] No such file or directory: '{file.parent}'. The run"
            " itself is not affected. Check `metrics` of the environment, and that its folder is there, can be written, and the"
            " file holds Prometheus' text alone.",
        )
    ]


Received = list[tuple[str, str, dict[tuple[str, str], dict[str, float]]]]


@contextmanager
def gateway(answer: int = 200) -> Iterator[tuple[str, Received]]:
    """A push gateway of one thread: its address and what it was sent, as (method, path, gauges)."""
    received: Received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            received.append((self.command, self.path, parsed(body)))
            self.send_response(answer)
            self.end_headers()

        do_PUT = do_POST

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_gateway_gets_a_group_for_each_job(caplog: pytest.LogCaptureFixture) -> None:
    """POST, which leaves the other gauges of a group; PUT would take those of the last good run away."""
    with gateway() as (address, received):
        gauges.publish(f"{address}/prefix/", "shop", "run", 0, [FEATURES, TRAIN], ended_at=NOW)

    assert received == [
        ("POST", "/prefix/metrics/job/features/pipeline/shop", {("shop", "features"): OF_FEATURES}),
        ("POST", "/prefix/metrics/job/train/pipeline/shop", {("shop", "train"): OF_TRAIN}),
        ("POST", "/prefix/metrics/job/run/pipeline/shop", {("shop", "run"): ended(0)}),
    ]
    assert caplog.record_tuples == []


def test_a_gateway_that_is_not_there_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Said once, whatever the number of stages."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    gauges.publish(address, "shop", "run", 0, [FEATURES, TRAIN], ended_at=NOW)
    assert caplog.record_tuples == [
        (
            "jobs.gauges",
            logging.WARNING,
            f"metrics: {address} did not take the gauges of this run: <urlopen error [Errno 111] Connection refused>. The run itself"
            " is not affected. Check `metrics` of the environment, and that a push gateway answers there.",
        )
    ]


def test_a_gateway_that_refuses_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing more is sent to it."""
    with gateway(answer=400) as (address, received):
        gauges.publish(address, "shop", "run", 0, [FEATURES, TRAIN], ended_at=NOW)
    assert len(received) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"metrics: {address} did not take the gauges of this run: HTTP Error 400: Bad Request. The run itself is not affected. Check"
        " `metrics` of the environment, and that a push gateway answers there."
    ]
