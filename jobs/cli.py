"""The `millrace` command: one sub-command a job, all with the same options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import click

from jobs import runtime

HELP = {
    "run": "All jobs in order: raw files to scored, reviewed predictions.",
    "ingest": "Raw files into silver tables; what does not fit into quarantine.",
    "features": "Silver into the feature table, labels, parts and folds.",
    "train": "Search all candidates by cross-validation; log the winner.",
    "evaluate": "Measure the newest model, and the champion beside it, on the test rows; write the report.",
    "promote": "Make the newest model champion if it earns it.",
    "score": "Predict with the champion for the rows that the pipeline asks for.",
    "maintain": "Compact tables and remove old files, never a pinned version.",
    "check": "Check the pipeline file and every SQL expression in it; read nothing, write nothing.",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="millrace")
def cli() -> None:
    """From raw files to reviewed predictions, on Apache Spark.

    A run ends with exit code 0 (done, or nothing to do), 2 (configuration), 3 (data contract or quality gate),
    4 (model floor missed and no champion), 5 (another run holds the pipeline, or the request is unsafe) or 1 (anything
    else), and with one line of JSON on standard output.
    """


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in (
        click.option("--dry-run", is_flag=True, help="Print what would be read and written, and stop."),
        click.option("--force", is_flag=True, help="Make a new attempt though the same was done before."),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="PATH=VALUE",
            help="Override a setting of the file, such as split.folds.count=5.",
        ),
        click.option(
            "--run-date",
            type=click.DateTime(["%Y-%m-%d"]),
            help="The only clock that touches data; default: the day after the latest event.",
        ),
        click.option(
            "--env",
            "environment",
            default="local",
            show_default=True,
            metavar="NAME",
            help="conf/env/NAME.yaml, or a path: where, and with what machines.",
        ),
        click.argument("pipeline"),
    ):
        command = decorate(command)
    return command


def _range(command: Callable[..., None]) -> Callable[..., None]:
    day = click.DateTime(["%Y-%m-%d"])
    command = click.option("--to", "last", type=day, help="Its last day; default: its first.")(command)
    return click.option("--from", "first", type=day, help="Replay a range of run dates, day by day, from this one.")(
        command
    )


def _command(job: str) -> click.Command:
    def start(
        pipeline: str,
        environment: str,
        run_date: datetime | None,
        settings: tuple[str, ...],
        force: bool,
        dry_run: bool,
        first: datetime | None = None,
        last: datetime | None = None,
    ) -> None:
        arguments = runtime.Arguments(
            pipeline, environment, _run_dates(run_date, first, last), settings, force, dry_run
        )
        sys.exit(runtime.execute(job, arguments))

    options = _range(_options(start)) if job == "run" else _options(start)
    return click.command(name=job, help=HELP[job])(options)


def _run_dates(run_date: datetime | None, first: datetime | None, last: datetime | None) -> tuple[date, ...]:
    """The run dates asked for, none where it is left to the data.

    Raises:
        click.UsageError: a range that ends before it begins, or beside a single date.
    """
    if first is None and last is None:
        return (run_date.date(),) if run_date else ()
    if run_date is not None or first is None:
        raise click.UsageError("expected --run-date for one day, or --from and --to for a range of days.")
    days = ((last or first) - first).days
    if days < 0:
        raise click.UsageError(f"--to: expected {first.date()} or a later day, found {last:%Y-%m-%d}.")
    return tuple((first + timedelta(days=n)).date() for n in range(days + 1))


for _job in ("run", *runtime.JOBS, "check"):
    cli.add_command(_command(_job))


@cli.command()
@click.argument("pipeline", required=False)
@click.option("--env", "environment", default="local", show_default=True, metavar="NAME")
@click.option("--gpu", is_flag=True, help="Say what keeps this machine's GPUs from being used instead.")
def doctor(pipeline: str | None, environment: str, gpu: bool) -> None:
    """Say what is wrong with this installation, and the cure."""
    from jobs import doctor as installation
    from jobs import gpu_doctor

    sys.exit(installation.execute(pipeline, environment, gpu_doctor.checks if gpu else installation.checks))


@cli.command(name="gpu-parity")
@click.option("--env", "environment", default="local", show_default=True, metavar="NAME")
def gpu_parity(environment: str) -> None:
    """Run the same searches on processors and on a GPU, and say how far apart their answers are."""
    from jobs import gpu_parity as parity

    sys.exit(parity.execute(environment))


@cli.command(name="gpu-plan")
@click.argument("pipeline")
@click.option("--env", "environment", default="local", show_default=True, metavar="NAME")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Override a setting of the file.")
def gpu_plan(pipeline: str, environment: str, settings: tuple[str, ...]) -> None:
    """Run the pipeline once on processors, and say what of its SQL a GPU would do, and why not the rest."""
    from jobs.gpu_plan import command

    sys.exit(command.execute(pipeline, environment, settings))


def main(arguments: list[str] | None = None) -> Any:
    """Console entry point."""
    return cli.main(arguments, prog_name="millrace")


if __name__ == "__main__":
    main()
