"""What `gpu-plan` found, in the lake, where the report looks for it: `<lake>/ops/gpu_plan/<pipeline>.json`."""

from __future__ import annotations

import json
from typing import Any

from pyspark.sql import SparkSession

from conf.schema import Pipeline
from jobs.runs import Run, fingerprint
from jobs.storage import Storage


def keep(spark: SparkSession, lake: str, pipeline: Pipeline, stages: list[dict[str, Any]]) -> None:
    """Write the summaries of a pipeline's stages, in place of earlier ones."""
    found = {"configuration": fingerprint(pipeline), "stages": stages}
    Storage(spark).write(_path(lake, pipeline), json.dumps(found, indent=1))


def find(run: Run) -> list[dict[str, Any]]:
    """The summaries; none where nobody has asked since the pipeline file is as it is."""
    text = Storage(run.spark).read(_path(run.lake.root, run.pipeline))
    found = json.loads(text) if text else {}
    stages: list[dict[str, Any]] = found.get("stages", [])
    return stages if found.get("configuration") == fingerprint(run.pipeline) else []


def _path(lake: str, pipeline: Pipeline) -> str:
    return f"{lake}/ops/gpu_plan/{pipeline.pipeline}.json"
