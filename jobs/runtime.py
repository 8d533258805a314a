"""The only main wrapper: arguments -> configuration -> session -> job -> one summary -> exit code.

Nothing else catches `Exception`, configures logging or ends the process. The last line on standard output is one JSON object;
the same object is written under `ops/outcomes/`, because YARN and Kubernetes lose exit codes. Whoever started the job finds it by
the run date asked for, and tells it from an earlier one by the name that the cluster gave the application.
"""

from __future__ import annotations

import importlib
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from rich.console import Console

from conf.load import Loaded, load
from jobs import check, lease, outages, session
from jobs.lake import Lake
from jobs.progress import for_console, print_problems
from jobs.runs import Ledger, Outcome, Run
from jobs.storage import Storage
from transforms.errors import MillraceError

JOBS = ("ingest", "features", "train", "evaluate", "promote", "score", "maintain")
# Started alone, these write the report anew; `run` writes it once, at its end.
REPORTED = ("evaluate", "promote", "score")
WITH_MODELS = ("run", "train", *REPORTED)
# Nobody should read all files before the name of a parameter turns out to be wrong.
TRAINING = ("check", "run", "train")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arguments:
    """What every job is started with."""

    pipeline: str
    environment: str = "local"
    run_dates: Sequence[date] = ()  # in order; none: it is left to the data
    settings: Sequence[str] = ()
    force: bool = False
    dry_run: bool = False


def execute(job: str, arguments: Arguments) -> int:
    """Run one job, or `run` for all of them, and return the exit code; prints the summary."""
    started = time.monotonic()
    console = Console(stderr=True)
    _log_to_standard_error(live=console.is_terminal)
    asked = arguments.run_dates[-1] if arguments.run_dates else None
    summary: dict[str, Any] = {"job": job, "pipeline": None, "run_date": asked and str(asked)}
    storage: Storage | None = None
    loaded: Loaded | None = None
    run: Run | None = None
    folder = ""
    try:
        loaded = load(arguments.pipeline, environment=arguments.environment, settings=arguments.settings)
        summary["pipeline"] = loaded.pipeline.pipeline
        if job in WITH_MODELS:
            loaded.environment.require_tracking()
        with for_console(console) as progress:
            spark = session.build(loaded.environment, app=f"millrace {job} {loaded.pipeline.pipeline}")
            summary["application"] = spark.sparkContext.applicationId
            if job != "check":  # which writes nothing
                storage, folder = Storage(spark), f"{loaded.environment.lake}/ops/outcomes/{loaded.pipeline.pipeline}"
            check.analyse(spark, loaded, trains=job in TRAINING)
            if arguments.dry_run:
                from jobs import plan  # brings every job's libraries with it

                lake = Lake(spark, loaded.environment.lake)
                sys.stdout.write(plan.describe(_run(lake, loaded, arguments, progress), job) + "\n")
                summary.update(outcome="planned")
            elif job == "check":
                progress.message(f"{arguments.pipeline}: every name and every SQL expression is in order")
                summary.update(outcome="done")
            else:
                with (
                    lease.held(spark, loaded.environment.lake, loaded.pipeline.pipeline) as mine,
                    _ending_on_sigterm(spark),
                ):
                    lake = Lake(spark, loaded.environment.lake, may_commit=mine.require)
                    run = _run(lake, loaded, arguments, progress)
                    outcomes = list(_job(job)(run))
                    for day in arguments.run_dates[1:]:
                        run = replace(run, asked_run_date=day)
                        outcomes += _job(job)(run)
                summary.update(
                    _summary(outcomes, run), outcome="unchanged" if all(o.unchanged for o in outcomes) else "done"
                )
        code = 0
    except MillraceError as error:
        code = error.exit_code
        print_problems(error, console)
        summary.update(outcome="failed", error=str(error))
    except KeyboardInterrupt:
        code = 1
        summary.update(outcome="failed", error="interrupted")
    except _Terminated as error:
        code = 1
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        summary.update(outcome="failed", error=str(error))
    except (
        Exception
    ) as error:  # the one place that may: what is left and no outage is a bug, logged once with its traceback
        code, told = 1, outages.sentence(error)
        if told is None:
            log.exception("%s stopped", job)
        else:
            console.print(told, style="red", markup=False, highlight=False, soft_wrap=True)
        summary.update(outcome="failed", error=told or _first_line(error))
    summary.update(exit_code=code, seconds=round(time.monotonic() - started, 1))
    text = json.dumps(summary, sort_keys=True, default=str)
    if loaded is not None and loaded.environment.metrics and not arguments.dry_run and job != "check":
        from jobs import gauges  # few environments ask for it

        stages = run.ledger.recorded if run else []
        target, name = loaded.environment.metrics, loaded.pipeline.pipeline
        gauges.publish(target, name, job, code, stages, ended_at=time.time())
    if storage is not None and not arguments.dry_run:
        _keep(storage, f"{folder}/{summary['run_date'] or 'none'}-{job}.json", text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return code


def _keep(storage: Storage, path: str, text: str) -> None:
    """Write the outcome file; a lake that cannot be written to any more, or a JVM that is gone, does not hide what happened before."""
    try:
        storage.write(path, text)
    except (Py4JError, ConnectionError) as error:
        log.warning("%s: the outcome could not be written: %s", path, outages.sentence(error) or _first_line(error))


class _Terminated(Exception):
    """The process was asked to end, by a scheduler's timeout for example."""


@contextmanager
def _ending_on_sigterm(spark: SparkSession) -> Iterator[None]:
    """On SIGTERM Spark is stopped, so that whatever runs fails and nothing is committed any more; then the block ends.

    Raising from the handler would leave the JVM at work on a commit behind the back of whoever gives the lease away.

    Raises:
        _Terminated: that is why the block failed.
    """
    if threading.current_thread() is not threading.main_thread():  # no other thread is told of signals
        yield
        return
    asked: list[threading.Thread] = []

    def stop(_number: int, _frame: Any) -> None:
        if not asked:
            # In a thread of its own: this one may be waiting for the JVM's answer on its connection.
            asked.append(threading.Thread(target=spark.sparkContext.stop))
            asked[0].start()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Exception as error:
        if asked:
            raise _Terminated(
                "Ended by SIGTERM. What was committed stays; the same command goes on from there."
            ) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        for stopping in asked:
            stopping.join()


def main(job: str) -> None:
    """Entry of `spark-submit jobs/<job>.py PIPELINE [options]`: the same arguments as `millrace <job>`."""
    from jobs.cli import cli

    cli.main([job, *sys.argv[1:]], prog_name="millrace")


def _run(lake: Lake, loaded: Loaded, arguments: Arguments, progress: Any) -> Run:
    return Run(
        spark=lake.spark,
        pipeline=loaded.pipeline,
        environment=loaded.environment,
        lake=lake,
        ledger=Ledger(lake, loaded.pipeline.pipeline),
        asked_run_date=next(iter(arguments.run_dates), None),
        force=arguments.force,
        progress=progress,
    )


def _job(job: str) -> Callable[[Run], list[Outcome]]:
    """The job's function, imported only now: MLflow and Great Expectations take seconds that other jobs need not wait."""
    module = importlib.import_module("jobs.pipeline" if job == "run" else f"jobs.{job}")

    def outcomes(run: Run) -> list[Outcome]:
        result = module.run(run)
        found = result if isinstance(result, list) else [result]
        return [*found, *_reported(run, unchanged=found[-1].unchanged)] if job in REPORTED else found

    return outcomes


def _reported(run: Run, *, unchanged: bool) -> list[Outcome]:
    from jobs import report

    page = report.refresh(run)
    return [] if page is None else [Outcome("report", details={"page": page}, unchanged=unchanged)]


def _summary(outcomes: Sequence[Outcome], run: Run) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "run_date": str(run.run_date),
        "rows_in": sum(o.rows_in or 0 for o in outcomes),
        "rows_out": sum(o.rows_out or 0 for o in outcomes),
        "tables": {table: version for o in outcomes for table, version in o.outputs.items()},
    }
    for outcome in outcomes:
        if outcome.job in ("evaluate", "promote", "score", "report"):
            summary[outcome.job] = outcome.details
    return summary


def _first_line(error: BaseException) -> str:
    text = error.getCondition() if isinstance(error, PySparkException) else None
    return f"{type(error).__name__}: {(text or str(error)).strip().splitlines()[0] if (text or str(error)).strip() else ''}"


def _log_to_standard_error(*, live: bool) -> None:
    """Plain lines where nobody watches; on a terminal the live view speaks, and the log keeps to warnings."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING if live else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        force=True,
    )
    # Libraries may talk at INFO, and some set their own level when imported: what they say below a warning is not passed on.
    ours = ("conf", "transforms", "models", "jobs", "__main__")
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.split(".")[0] in ours)
    # Spark's query-context loggers print lines that carry row values, whatever the level.
    for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
