"""What runs cost and how they ended, for Prometheus: a file for the node exporter, or a push gateway.

Gauges of a job hold until it does work again. That they cannot be published is a warning, never the end of a run.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from http.client import HTTPException
from pathlib import Path

from prometheus_client import CollectorRegistry, pushadd_to_gateway, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from jobs.runs import Stage
from jobs.usage import Usage

LABELS = ("pipeline", "job")
SECONDS_TO_ANSWER = 10.0

# Gauge -> what it says. Those of stages are of the last time that the stage did work, not of runs that found nothing to do.
RUN = {
    "millrace_run_timestamp_seconds": "When the command ended last.",
    "millrace_last_exit_code": "Exit code of the command's last run: 0 when it was done or had nothing to do.",
}
STAGE: Mapping[str, tuple[str, Callable[[Stage], float | None]]] = {
    "millrace_stage_timestamp_seconds": (
        "When the stage was done.",
        lambda s: s.recorded_at.replace(tzinfo=UTC).timestamp(),
    ),
    "millrace_stage_seconds": ("Time on a wall clock.", lambda s: s.seconds),
    "millrace_stage_read_rows": ("Rows read.", lambda s: s.rows_in),
    "millrace_stage_written_rows": ("Rows written.", lambda s: s.rows_out),
}
USAGE: Mapping[str, tuple[str, Callable[[Usage], float | None]]] = {
    "millrace_stage_read_bytes": ("Read from storage by tasks.", lambda u: u.bytes_read),
    "millrace_stage_written_bytes": ("Written to storage by tasks.", lambda u: u.bytes_written),
    "millrace_stage_tasks": ("Tasks that succeeded.", lambda u: u.tasks),
    "millrace_stage_failed_tasks": ("Tries of tasks that failed.", lambda u: u.failed_tasks),
    "millrace_stage_task_seconds": ("Time on a wall clock, summed over tasks.", lambda u: u.task_seconds),
    "millrace_stage_cpu_seconds": ("Processor time of tasks in Java.", lambda u: u.cpu_seconds),
    "millrace_stage_gc_seconds": ("Garbage collection while tasks ran.", lambda u: u.gc_seconds),
    "millrace_stage_shuffle_read_bytes": ("Read from shuffles.", lambda u: u.shuffle_read_bytes),
    "millrace_stage_shuffle_written_bytes": ("Written to shuffles.", lambda u: u.shuffle_written_bytes),
    "millrace_stage_spilled_bytes": ("Written to disks for want of memory.", lambda u: u.spilled_bytes),
    "millrace_stage_peak_memory_bytes": ("Most execution memory of one task.", lambda u: u.peak_memory_bytes),
    "millrace_stage_core_seconds": ("Cores held times the time that they were held.", lambda u: u.core_seconds),
    "millrace_stage_cost": ("Estimate: core seconds at the environment's price, in its currency.", lambda u: u.cost),
    "millrace_stage_dropped_tasks": ("Tasks that the figures lack.", lambda u: u.dropped_tasks),
}
HELP = RUN | {name: told for name, (told, _) in STAGE.items()} | {name: told for name, (told, _) in USAGE.items()}

# (pipeline, job) -> gauge -> value
Values = dict[tuple[str, str], dict[str, float]]

log = logging.getLogger(__name__)


def publish(
    target: str, pipeline: str, command: str, exit_code: int, stages: Iterable[Stage], *, ended_at: float
) -> None:
    """Give Prometheus the gauges of a run that has ended, and of the stages that it has done.

    Args:
        target: the environment's `metrics`. A file keeps the gauges of other pipelines and jobs; a gateway has a group for each
            pipeline and job, of which gauges by other names are kept.
        command: what was started: a job or `run`.
        ended_at: in seconds since 1970.
    """
    values: Values = {(pipeline, stage.job): _of_stage(stage) for stage in stages}
    ended = {"millrace_run_timestamp_seconds": ended_at, "millrace_last_exit_code": float(exit_code)}
    values[pipeline, command] = values.get((pipeline, command), {}) | ended
    is_gateway = target.startswith(("http://", "https://"))
    try:
        if is_gateway:
            _push(target, values)
        else:
            _write(target, values)
    except (OSError, HTTPException, ValueError) as error:
        cure = (
            "a push gateway answers there"
            if is_gateway
            else "its folder is there, can be written, and the file holds Prometheus' text alone"
        )
        log.warning(
            "metrics: %s did not take the gauges of this run: %s. The run itself is not affected. Check `metrics` of the environment,"
            " and that %s.",
            *(target, error, cure),
        )


def _of_stage(stage: Stage) -> dict[str, float]:
    found = {name: value(stage) for name, (_, value) in STAGE.items()}
    if stage.usage is not None:
        found |= {name: value(stage.usage) for name, (_, value) in USAGE.items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def _write(path: str, values: Values) -> None:
    """Put the gauges into the file beside what it has of other pipelines and jobs; readers see the old file or the new one."""
    with _alone(Path(path).parent):
        known = _read(path)
        for labels, of_job in values.items():
            known[labels] = known.get(labels, {}) | of_job
        write_to_textfile(path, _registry(known))


def _read(path: str) -> Values:
    """The gauges of a file, none where there is none.

    Raises:
        ValueError: it is not in Prometheus' text format.
    """
    found: Values = {}
    text = Path(path).read_text(encoding="utf-8") if os.path.exists(path) else ""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in HELP:
                found.setdefault((sample.labels["pipeline"], sample.labels["job"]), {})[sample.name] = sample.value
    return found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: of two that read the same file, the one that writes last would undo what the other has put in."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _push(address: str, values: Values) -> None:
    """A group each: a gateway gives all that is pushed together one label `job`."""
    for (pipeline, job), of_job in values.items():
        registry = _registry({(pipeline, job): of_job})
        pushadd_to_gateway(address, job, registry, grouping_key={"pipeline": pipeline}, timeout=SECONDS_TO_ANSWER)


def _registry(values: Values) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Known(values))
    return registry


class _Known(Collector):
    """Gauges with the values given, in a fixed order."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, told in HELP.items():
            family = GaugeMetricFamily(name, told, labels=LABELS)
            for labels, of_job in sorted(self._values.items()):
                if name in of_job:
                    family.add_metric(labels, of_job[name])
            if family.samples:
                yield family
