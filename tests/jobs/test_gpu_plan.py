"""What the GPU plugin says of plans, and how long tasks were busy with what it says it of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from jobs.cli import cli
from jobs.gpu_plan import operators, page
from jobs.gpu_plan.explained import PYTHON, Explained, parse
from jobs.gpu_plan.operators import Operator

SAID = """
1795713340543
!Exec <FilterExec> cannot run on GPU because not all expressions can be replaced; unsupported data types in input: BinaryType [block#9, block#10]
  @Expression <And> (x#7 RLIKE a.*b AND (y#8L > 1)) could run on GPU
    !Expression <RLike> x#7 RLIKE a.*b cannot run on GPU because regular expression support is disabled. Set `spark.rapids.sql.regexp.enabled` to true
  *Exec <ProjectExec> will run on GPU
    *Expression <Alias> (z#5 + 1) AS y#8L will run on GPU
    ! <RDDScanExec> cannot run on GPU because GPU does not currently support the operator class org.apache.spark.sql.execution.RDDScanExec
      @Expression <AttributeReference> z#5 could run on GPU
      !Exec <MapInArrowExec> will partially run on GPU
"""


def node(name: str, description: str = "", **times: str) -> dict[str, Any]:
    metrics = [{"name": metric.replace("_", " "), "accumulatorId": key} for metric, key in times.items()]
    return {"node": {"name": name, "desc": description, "metrics": metrics}, "cluster": None}


@pytest.mark.quick
def test_what_is_said_of_operators() -> None:
    """Reasons are those of the expressions where these are why, without what names single columns."""
    assert parse(SAID.splitlines()) == [
        Explained(
            "FilterExec",
            "unsupported data types in input: BinaryType; RLike: regular expression support is disabled. Set"
            " `spark.rapids.sql.regexp.enabled` to true",
            frozenset({"7", "8"}),
        ),
        Explained("ProjectExec", None, frozenset({"5", "8"})),
        Explained("RDDScanExec", "not supported", frozenset({"5"})),
        Explained("MapInArrowExec", "Python stays on processors, its rows need not", frozenset()),
    ]


@pytest.mark.quick
def test_task_time_of_a_query_is_shared_out() -> None:
    """Measured times as they are, or scaled down to what the tasks took; the rest to operators that were not measured."""
    scan, sort = (
        node("Scan parquet ", "FileScan parquet [x#7]", scan_time="1"),
        node("Sort", "Sort [x#7]", sort_time="2"),
    )
    project = {"node": None, "cluster": {"nodes": [node("Project", "Project [x#7, y#8L]"), node("Filter")]}}
    graph = {"nodes": [node("AdaptiveSparkPlan"), project, sort, scan]}
    values = {"1": "500 ms", "2": "total (min, med, max (stageId: taskId))\n1.5 s (0 ms, 1 s, 1 s (stage 3.0: task 4))"}
    query = {"description": "count", "metricValues": values}

    found = {each.name: each for each in operators.of(query, graph, 6.0)}
    busy = {each.name: each.seconds for each in operators.of(query, graph, 1.0)}

    assert found["ProjectExec"] == Operator("ProjectExec", 2.0, frozenset({"7", "8"}), of_log=False)
    assert {name: each.seconds for name, each in found.items()} == {
        "ProjectExec": 2.0, "FilterExec": 2.0, "SortExec": 1.5, "FileSourceScanExec": 0.5,
    }  # fmt: skip
    assert busy == {"ProjectExec": 0.0, "FilterExec": 0.0, "SortExec": 0.75, "FileSourceScanExec": 0.25}
    assert [each.seconds for each in operators.of({**query, "metricValues": None}, {"nodes": [scan]}, 3.0)] == [3.0]
    assert [each.seconds for each in operators.of(query, {"nodes": [scan]}, 3.0)] == [3.0]
    assert operators.of(query, {"nodes": []}, 3.0) == []


@pytest.mark.quick
@pytest.mark.parametrize(
    ("description", "text"),
    [
        ("Delta: Filtering files for query", ""),
        ("count", "Scan ... lake/_delta_log"),
        ("count", "DeltaLogFileIndex(1 paths)"),
    ],
)
def test_queries_of_delta_itself_are_told_apart(description: str, text: str) -> None:
    """By what they call themselves, or by what they read."""
    query: dict[str, Any] = {"description": description, "metricValues": {}}
    assert [each.of_log for each in operators.of(query, {"nodes": [node("Scan json ", text)]}, 1.0)] == [True]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "expected"),
    [("675 ms", 0.675), ("1,234 ms", 1.234), ("2.5 m", 150.0), ("1.0 h", 3600.0), ("", 0.0), ("74.8 KiB", 0.0)],
)
def test_times_as_spark_shows_them(text: str, expected: float) -> None:
    """Sizes are no times."""
    assert operators.seconds(text) == pytest.approx(expected)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Scan csv ", "FileSourceScanExec"),
        ("Scan ExistingRDD Delta Table State #1 - file:/x", "RDDScanExec"),
        ("Exchange", "ShuffleExchangeExec"),
        ("BroadcastExchange", "BroadcastExchangeExec"),
        ("Execute SaveIntoDataSourceCommand", "ExecuteExec"),
        ("MapInArrow", "MapInArrowExec"),
    ],
)
def test_classes_of_operators(name: str, expected: str) -> None:
    """As Spark's pages name them, and as the plugin does."""
    assert operators.class_name(name) == expected


@pytest.mark.quick
def test_each_operator_has_the_verdict_on_its_own_columns() -> None:
    """Several that fit as well share its time; one that the plugin said nothing of stays."""
    ran = [
        Operator("ProjectExec", 4.0, frozenset({"1", "2"}), of_log=False),
        Operator("ProjectExec", 2.0, frozenset({"9"}), of_log=False),
        Operator("SortExec", 1.0, frozenset(), of_log=False),
        Operator("MapInArrowExec", 3.0, frozenset(), of_log=False),
        Operator("ProjectExec", 8.0, frozenset({"1"}), of_log=True),
    ]
    said = [
        Explained("ProjectExec", None, frozenset({"1", "2"})),
        Explained("ProjectExec", "no", frozenset({"2", "3"})),
        Explained("MapInArrowExec", PYTHON, frozenset()),
    ]
    stage = page.Stage("features", cores=4, moved=5_000_000_000)
    page.add_up(stage, ran, said)
    assert stage.summary() == {
        "job": "features",
        "accepted_seconds": 5.0,
        "python_seconds": 3.0,
        "delta_log_seconds": 8.0,
        "refused_seconds": 2.0,
        "share_on_gpu": 0.5,
        "share_with_python": 0.8,
        "at_best": 1.29,  # 18 s to 13 s and a second on each core for the bytes
        "refused": [
            {"operator": "ProjectExec", "reason": "no", "seconds": 1.0},
            {"operator": "SortExec", "reason": "not explained by the plugin", "seconds": 1.0},
        ],
    }
    nothing = page.Stage("score")
    assert (nothing.share(0.0), nothing.at_best) == (0.0, 1.0)


@pytest.mark.quick
def test_a_cluster_is_refused(tmp_path: Path) -> None:
    """In a sentence, before anything is fetched or run."""
    (tmp_path / "far.yaml").write_text("{name: far, master: yarn, lake: hdfs://x/lake, mlflow: 'http://127.0.0.1:1'}")
    done = CliRunner().invoke(cli, ["gpu-plan", "flights", "--env", str(tmp_path / "far.yaml")])
    assert done.exit_code == 2
    assert " ".join(done.stderr.split()) == (
        "gpu-plan: expected a local master, found yarn in environment far. Whether a GPU can run an operator does not depend on the"
        " machines: use a local environment and a part of the raw files."
    )


@pytest.mark.system
@pytest.mark.timeout(1200)
def test_a_pipeline_under_the_eyes_of_the_plugin(tmp_path: Path) -> None:
    """Real Spark, the real plugin: all jobs are told of, nothing but that is left behind, and sums and shares hold together."""
    from tests.system import places

    work = places.parcels(tmp_path / "parcels")
    place = {
        "name": "place",
        "raw": str(work.raw),
        "lake": str(tmp_path / "lake"),
        "driver_memory": "2g",
        "spark": dict(work.spark),
    }
    (tmp_path / "place.yaml").write_text(yaml.safe_dump(place))

    done = places.told(["gpu-plan", str(work.pipeline), "--env", str(tmp_path / "place.yaml")])

    stages = json.loads(done.splitlines()[-1])["stages"]
    assert [stage["job"] for stage in stages] == ["ingest", "features", "train", "evaluate", "promote", "score"]
    for stage in stages:
        listed = sum(each["seconds"] for each in stage["refused"])
        assert math.isclose(listed, stage["refused_seconds"], abs_tol=0.6)
    features = stages[1]
    assert features["accepted_seconds"] > 0
    assert features["python_seconds"] > 0
    assert not [each for each in features["refused"] if each["operator"] == "MapInArrowExec"]
    (kept,) = (file for file in (tmp_path / "lake").rglob("[!.]*") if file.is_file())
    assert json.loads(kept.read_text())["stages"] == stages
