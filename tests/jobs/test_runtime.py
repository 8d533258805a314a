"""Exit codes, the summary line and the outcome file, without a job behind them where none is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from pyspark.sql import SparkSession

from jobs import runtime
from jobs.cli import cli
from jobs.runs import Outcome, Run, stage
from jobs.runtime import Arguments, execute
from tests.system import deliveries
from transforms.errors import ModelError, RefusedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline file, an environment and raw files."""
    (tmp_path / "parcels.yaml").write_text(deliveries.PIPELINE)
    deliveries.write(tmp_path / "raw", rows=300)
    deliveries.write_environment(tmp_path, "lake")
    return tmp_path


def arguments(folder: Path, **changes: Any) -> Arguments:
    return Arguments(**{"pipeline": str(folder / "parcels.yaml"), "environment": str(folder / "lake.yaml"), **changes})


def summary(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The last line on standard output."""
    return dict(json.loads(capsys.readouterr().out.strip().splitlines()[-1]))


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Run], Outcome]], None]:
    """Put a function in the place of a job: the wrapper is under test, and each way a job can end must be had at will."""

    def put(body: Callable[[Run], Outcome]) -> None:
        monkeypatch.setattr(runtime, "_job", lambda name: lambda run: [body(run)])

    return put


@pytest.mark.quick
def test_a_wrong_pipeline_file_exits_2_and_still_prints_the_summary(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No session is started for it."""
    (folder / "parcels.yaml").write_text(
        deliveries.PIPELINE.replace("metric: area_under_roc", "metrik: area_under_roc")
    )
    code = execute("train", arguments(folder))

    found = summary(capsys)
    assert code == 2
    assert (found["job"], found["exit_code"], found["outcome"]) == ("train", 2, "failed")
    assert "train.metrik is not a setting. Did you mean train.metric?" in found["error"]


def test_an_outcome_is_printed_and_kept(
    spark: SparkSession, folder: Path, capsys: pytest.CaptureFixture[str], job: Callable[..., None]
) -> None:
    """The summary line and the file under ops/outcomes are the same object."""
    job(lambda run: Outcome("features", 10, 9, outputs={"gold/parcels_features": 3}))
    code = execute("features", arguments(folder, run_dates=(runtime.date(2024, 4, 1),)))

    found = summary(capsys)
    kept = json.loads((folder / "lake/ops/outcomes/parcels/2024-04-01-features.json").read_text())
    assert code == 0
    assert found == kept
    assert {name: found[name] for name in ("outcome", "pipeline", "rows_in", "rows_out", "tables")} == {
        "outcome": "done",
        "pipeline": "parcels",
        "rows_in": 10,
        "rows_out": 9,
        "tables": {"gold/parcels_features": 3},
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelError("No candidate reaches the floor."), 4),
        (RefusedError("Another run holds it."), 5),
        (ZeroDivisionError("a bug"), 1),
    ],
)
def test_how_a_job_ends_decides_the_exit_code(
    spark: SparkSession,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    job: Callable[..., None],
    error: Exception,
    code: int,
) -> None:
    """The lease is given back whatever happened; only a bug is logged with its traceback. The outcome is kept under the date asked for."""

    def fail(run: Run) -> Outcome:
        raise error

    job(fail)
    assert execute("features", arguments(folder, run_dates=(runtime.date(2024, 4, 1),))) == code
    output = capsys.readouterr()
    found = json.loads(output.out.strip().splitlines()[-1])
    assert found == json.loads((folder / "lake/ops/outcomes/parcels/2024-04-01-features.json").read_text())
    assert (found["exit_code"], found["outcome"], found["run_date"]) == (code, "failed", "2024-04-01")
    assert found["application"] == spark.sparkContext.applicationId
    assert str(error) in found["error"]
    assert ("Traceback" in output.err) == (code == 1)
    assert [path for path in (folder / "lake/ops/leases").rglob("*") if path.is_file()] == []


def test_wrong_sql_leaves_its_outcome_but_to_a_check(
    spark: SparkSession, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scheduler learns from it that the same would come out again; `check` writes nothing."""
    (folder / "parcels.yaml").write_text(deliveries.PIPELINE.replace("weight_kg < 1000", "weight < 1000"))
    assert execute("check", arguments(folder)) == 2
    assert not (folder / "lake").exists()

    assert execute("train", arguments(folder, run_dates=(runtime.date(2024, 4, 1),))) == 2
    kept = json.loads((folder / "lake/ops/outcomes/parcels/2024-04-01-train.json").read_text())
    assert (kept["exit_code"], kept["outcome"]) == (2, "failed")
    assert kept == summary(capsys)


def test_prometheus_is_told_how_a_command_ended(
    spark: SparkSession, folder: Path, capsys: pytest.CaptureFixture[str], job: Callable[..., None]
) -> None:
    """Of failures too; what cannot be told is no failure. `check` and dry runs are no runs."""

    def fail(run: Run) -> Outcome:
        raise ModelError("No candidate reaches the floor.")

    def work(run: Run) -> Outcome:
        return stage(run, "features", specs=[], inputs={}, body=lambda attempt: Outcome("features", 10, 9))

    def ended() -> set[tuple[str, str, str, float]]:
        families = text_string_to_metric_families((folder / "millrace.prom").read_text())
        samples = [sample for family in families for sample in family.samples]
        shown = ("millrace_last_exit_code", "millrace_stage_written_rows")
        return {(s.name, s.labels["pipeline"], s.labels["job"], s.value) for s in samples if s.name in shown}

    def told(target: str, **changes: Any) -> Arguments:
        changes = {"run_dates": (runtime.date(2024, 4, 1),), **changes}
        return arguments(folder, settings=[f"environment.metrics={target}"], **changes)

    to_file = told(f"{folder}/millrace.prom")
    job(work)
    assert execute("check", to_file) == 0
    assert execute("features", told(f"{folder}/millrace.prom", dry_run=True)) == 0
    assert not (folder / "millrace.prom").exists()
    assert execute("features", to_file) == 0
    done = ("millrace_stage_written_rows", "parcels", "features", 9.0)
    assert ended() == {done, ("millrace_last_exit_code", "parcels", "features", 0.0)}
    job(fail)
    assert execute("features", to_file) == 4
    assert ended() == {done, ("millrace_last_exit_code", "parcels", "features", 4.0)}

    job(work)
    capsys.readouterr()
    assert execute("features", told(f"{folder}/nowhere/millrace.prom")) == 0
    assert "nowhere/millrace.prom did not take the gauges of this run" in capsys.readouterr().err


def test_a_dry_run_names_files_and_tables_and_writes_nothing(
    spark: SparkSession, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = execute("ingest", arguments(folder, dry_run=True))

    output = capsys.readouterr().out
    assert code == 0
    assert not (folder / "lake").exists()
    assert output.splitlines()[:-1] == [
        "ingest",
        "  would read 3 new file(s) of parcels",
        "    parcels/2024-01.csv",
        "    parcels/2024-02.csv",
        "    parcels/2024-03.csv",
        "  would read 1 new file(s) of weather",
        "    weather.csv",
        "  would read 1 new file(s) of depots",
        "    depots.csv",
        "  reads   ops/parcels_files",
        "  writes  silver/parcels_parcels",
        "  writes  silver/parcels_weather",
        "  writes  silver/parcels_depots",
        "  writes  quarantine/parcels_parcels",
        "  writes  quarantine/parcels_weather",
        "  writes  quarantine/parcels_depots",
        "  writes  ops/parcels_files",
    ]


@pytest.mark.quick
@pytest.mark.parametrize("name", ["run", *runtime.JOBS, "check"])
def test_every_job_is_a_command_with_the_same_options(name: str) -> None:
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    for option in ("--env NAME", "--run-date", "--set PATH=VALUE", "--dry-run", "--force"):
        assert option in shown.output


@pytest.mark.quick
def test_an_unknown_option_exits_2() -> None:
    assert CliRunner().invoke(cli, ["run", "conf/flights.yaml", "--fast"]).exit_code == 2


def test_a_range_of_run_dates_is_replayed_in_order(
    spark: SparkSession, folder: Path, capsys: pytest.CaptureFixture[str], job: Callable[..., None]
) -> None:
    """The job runs once a day; the summary counts all of them and carries the last date."""
    seen = []

    def body(run: Run) -> Outcome:
        seen.append(str(run.run_date))
        return Outcome("features", 10, 9)

    job(body)
    given = [
        str(folder / "parcels.yaml"),
        "--env",
        str(folder / "lake.yaml"),
        "--from",
        "2024-02-28",
        "--to",
        "2024-03-01",
    ]

    code = CliRunner().invoke(cli, ["run", *given]).exit_code

    kept = json.loads((folder / "lake/ops/outcomes/parcels/2024-03-01-run.json").read_text())
    assert (code, seen) == (0, ["2024-02-28", "2024-02-29", "2024-03-01"])
    assert (kept["rows_in"], kept["rows_out"], kept["run_date"]) == (30, 27, "2024-03-01")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["--to", "2024-03-01"], "expected --run-date for one day, or --from and --to for a range of days."),
        (
            ["--from", "2024-03-01", "--run-date", "2024-03-01"],
            "expected --run-date for one day, or --from and --to for a range of days.",
        ),
        (
            ["--from", "2024-03-02", "--to", "2024-03-01"],
            "--to: expected 2024-03-02 or a later day, found 2024-03-01.",
        ),
    ],
)
def test_a_range_that_is_none_is_a_sentence(given: list[str], problem: str) -> None:
    """Before anything is read."""
    done = CliRunner().invoke(cli, ["run", "parcels", *given])

    assert (done.exit_code, done.output.splitlines()[-1]) == (2, f"Error: {problem}")
