"""The command: a run in a folder of its own, with the plugin in its explain-only mode."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from conf.load import load
from conf.schema import Environment, Evaluate, Pipeline
from jobs import rapids, runtime, session
from jobs.doctor import is_local
from jobs.gpu_plan import explained, operators, page, stored
from jobs.gpu_plan.page import Stage
from jobs.lake import Lake
from jobs.progress import for_console, print_problems
from jobs.runs import Ledger, Run
from jobs.status_store import StatusStore
from transforms.errors import ConfigError, MillraceError

JOBS = tuple(job for job in runtime.JOBS if job != "maintain")
SAID = "explained.txt"
# Figures of a Spark stage, in bytes.
MOVED = ("inputBytes", "outputBytes", "shuffleReadBytes", "shuffleWriteBytes")
_APPENDER = """
appender.plugin.type = File
appender.plugin.name = plugin
appender.plugin.fileName = {file}
appender.plugin.layout.type = PatternLayout
appender.plugin.layout.pattern = %m%n
logger.plugin.name = com.nvidia.spark.rapids
logger.plugin.level = warn
logger.plugin.additivity = false
logger.plugin.appenderRef.plugin.ref = plugin
"""


def execute(pipeline: str, environment: str, settings: Sequence[str] = ()) -> int:
    """Run a pipeline under the plugin's eyes, print a table and a line of JSON, kept for the report; returns the exit code."""
    console = Console(stderr=True)
    try:
        loaded = load(pipeline, environment=environment, settings=settings)
        with tempfile.TemporaryDirectory() as name, for_console(console) as progress:
            folder = Path(name)
            place = watched(loaded.environment, folder)
            spark = session.build(place, app=f"millrace gpu-plan {loaded.pipeline.pipeline}")
            lake = Lake(spark, place.lake)
            spec = _without_floor(loaded.pipeline)
            stages = watch(Run(spark, spec, place, lake, Ledger(lake, spec.pipeline), progress=progress), folder / SAID)
            summaries = [stage.summary() for stage in stages]
            stored.keep(spark, loaded.environment.lake, loaded.pipeline, summaries)
            spark.stop()
        page.show(stages, console)
        sys.stdout.write(json.dumps({"stages": summaries}) + "\n")
    except MillraceError as error:
        print_problems(error, console)
        return error.exit_code
    return 0


def watched(environment: Environment, folder: Path) -> Environment:
    """The environment with a lake in the folder, and the plugin, which writes there what it says.

    Raises:
        ConfigError: it is no local one (a cluster's executors would need the plugin's gigabyte, too), or the plugin is for another Spark.
        JarError: the plugin cannot be had.
    """
    if not is_local(environment):
        raise ConfigError(
            f"gpu-plan: expected a local master, found {environment.master} in environment {environment.name}. Whether a GPU can run an"
            " operator does not depend on the machines: use a local environment and a part of the raw files."
        )
    logging = folder / "log4j2.properties"
    logging.write_text(session.LOG4J.read_text() + _APPENDER.format(file=folder / SAID))
    spark = {
        rapids.PLUGINS: rapids.PLUGIN,
        rapids.MODE: rapids.EXPLAINS,
        "spark.rapids.sql.explain": "ALL",
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={logging.as_uri()}",
        # Plans that change while they run are explained in pieces, and what the pieces do to each other is not.
        "spark.sql.adaptive.enabled": "false",
        # Everything is looked at when a job has ended.
        "spark.sql.ui.retainedExecutions": "1000000",
        "spark.ui.retainedStages": "1000000",
        "spark.sql.maxMetadataStringLength": "1000",
    }
    return environment.model_copy(
        update={
            "lake": str(folder / "lake"),
            "mlflow": "",
            "metrics": "",
            "gpu": "never",
            "spark": {**environment.spark, **spark},
        }
    )


def watch(run: Run, said: Path) -> list[Stage]:
    """Run the jobs one after the other; what each did, and what the plugin said of it meanwhile."""
    store, stages = StatusStore(run.spark), []
    for job in JOBS:
        query, stage, seen = store.newest_query(), store.newest_stage(), said.stat().st_size
        importlib.import_module(f"jobs.{job}").run(run)
        if job == "ingest":
            run = replace(run, asked_run_date=run.run_date)
        figures = store.stages_after(stage)
        seconds = {each["stageId"]: each["executorRunTime"] / 1e3 for each in figures}
        ran = [
            operator
            for query_data, graph in store.queries_after(query)
            for operator in operators.of(
                query_data, graph, sum(seconds.get(each, 0.0) for each in query_data["stages"])
            )
        ]
        moved = sum(each[kind] for each in figures for kind in MOVED)
        found = Stage(job, run.spark.sparkContext.defaultParallelism, moved)
        with said.open(errors="replace") as lines:
            lines.seek(seen)
            page.add_up(found, ran, explained.parse(lines))
        stages.append(found)
    return stages


def _without_floor(pipeline: Pipeline) -> Pipeline:
    """Whatever the model is like, `score` is to have one."""
    evaluate: Evaluate = pipeline.evaluate.model_copy(update={"floor": {}})
    return pipeline.model_copy(update={"evaluate": evaluate})
