"""What a job would read and write, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Mapping

from jobs import features, ingest, maintain, uploads
from jobs.runs import Run

SILVER, QUARANTINE = "silver/{p}_{s}", "quarantine/{p}_{s}"

# job -> (tables read, tables written); {p} is the pipeline, {s} each of its sources
TABLES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ingest": (("ops/{p}_files",), (SILVER, QUARANTINE, "ops/{p}_files")),
    "features": ((SILVER,), ("gold/{p}_features_*", "gold/{p}_labels_*", "ops/{p}_membership_*")),
    "train": (
        ("gold/{p}_features_*", "gold/{p}_labels_*", "ops/{p}_membership_*"),
        ("ops/{p}_trials", "gold/{p}_out_of_fold_*", "MLflow: model {p}"),
    ),
    "evaluate": (
        ("gold/{p}_features_*", "gold/{p}_labels_*", "ops/{p}_membership_*", "MLflow: model {p}"),
        ("ops/{p}_metrics", "ops/{p}_curves"),
    ),
    "promote": (("ops/{p}_metrics",), ("ops/{p}_releases", "MLflow: alias champion of {p}")),
    "score": (("gold/{p}_features_*", "MLflow: champion of {p}"), ("gold/{p}_predictions",)),
    "maintain": (("ops/{p}_releases",), ("every table of {p}",)),
    "check": ((), ()),
}
ORDER = ("ingest", "features", "train", "evaluate", "promote", "score")


def describe(run: Run, job: str) -> str:
    """A text with one paragraph a job: raw files by source (ingest alone lists them), tables read, tables written."""
    paragraphs = []
    for name in ORDER if job == "run" else (job,):
        lines = [name]
        if name == "ingest":
            for source, files in ingest.new_files(run).items():
                lines.append(
                    f"  would read {len(files)} new file(s) of {source}" + "".join(f"\n    {file}" for file in files)
                )
        if name == "features":
            lines.append(f"  would compute {features.preview(run)}")
        if name == "maintain":
            for table, found in maintain.preview(run).items():
                lines.append(f"  would remove at most {found.removed} file(s), {found.bytes} bytes, of {table}")
            unfinished = uploads.stale(run.spark, run.lake.root)
            if unfinished:
                lines.append(f"  would abort {unfinished} upload(s) that nobody finished")
        reads, writes = TABLES[name]
        lines += [f"  reads   {table}" for pattern in reads for table in _tables(run, pattern)]
        lines += [f"  writes  {table}" for pattern in writes for table in _tables(run, pattern)]
        paragraphs.append("\n".join(lines))
    return "\n".join(paragraphs)


def _tables(run: Run, pattern: str) -> list[str]:
    pipeline = run.pipeline.pipeline
    if "{s}" in pattern:
        return [pattern.format(p=pipeline, s=source) for source in run.pipeline.sources]
    return [pattern.format(p=pipeline)]
