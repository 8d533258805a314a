"""The report of a run: what is on the page, where it lies, and when it is made."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.load import load
from jobs import report, runtime
from jobs.gpu_plan import stored
from jobs.gpu_plan.page import Stage as OfJob
from jobs.report import configuration, drawing, gather, page
from jobs.report.facts import Facts, Measured
from jobs.runs import Run, Stage
from tests.jobs import reported
from tests.jobs.reported import HOSTILE
from transforms.errors import ContractError


class Sections(HTMLParser):
    """The text of a page: section -> its table rows as lists of cell texts, and all its words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.words: dict[str, str] = {}
        self._section, self._skip, self._in_cell = "", 0, False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self._section = str(dict(attrs)["id"])
            self.rows[self._section], self.words[self._section] = [], ""
        elif tag == "tr":
            self.rows[self._section].append([])
        elif tag in ("td", "th"):
            self.rows[self._section][-1].append("")
            self._in_cell = True
        elif tag in ("svg", "style"):
            self._skip += 1

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("svg", "style")
        if tag in ("td", "th"):
            self._in_cell = False
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._section and not self._skip:
            words = " ".join(data.split())
            self.words[self._section] += f" {words}" if words else ""
            rows = self.rows[self._section]
            if words and self._in_cell:
                rows[-1][-1] = f"{rows[-1][-1]} {words}".strip()


@pytest.fixture(scope="module")
def binary(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that asks for a class of two."""
    return reported.finished(spark, str(tmp_path_factory.mktemp("binary")), "binary")


@pytest.fixture(scope="module")
def facts(binary: Run) -> Facts:
    return gather.gather(binary)


@pytest.fixture(scope="module")
def sections(facts: Facts) -> Sections:
    return Sections(page.render(facts))


def test_every_section_is_there_in_order(sections: Sections) -> None:
    """From the verdict to how to reproduce it."""
    assert list(sections.rows) == [
        *(
            "verdict",
            "rows",
            "expectations",
            "trials",
            "quality",
            "slices",
            "importances",
            "time",
            "versions",
            "reproduce",
        )
    ]


def test_rows_of_each_source_add_up(sections: Sections) -> None:
    """All deliveries taken so far; neither refused nor replaced ones."""
    assert sections.rows["rows"] == [
        ["source", "files", "read", "good", "quarantined", "duplicate", "good quarantined duplicate", "adds up"],
        ["orders", "2", "100,000", "98,990", "710", "300", "", "yes"],
        ["shops", "1", "12", "12", "0", "0", "", "yes"],
    ]


def test_counts_that_do_not_add_up_are_shown(facts: Facts) -> None:
    """The page does not hide what ingest should have refused."""
    spoilt = dataclasses.replace(facts.sources[0], good=98_989)
    rows = Sections(page.render(dataclasses.replace(facts, sources=[spoilt]))).rows["rows"]
    assert rows[1][-1] == "no"


def test_reasons_are_counted_without_the_values_they_quote(facts: Facts) -> None:
    """Bad rows of deliveries that were taken, most frequent reason first."""
    assert facts.sources[0].reasons == [
        ("price: is not a double", 7),
        ("number: required but null", 3),
        (f"rule cheap: {HOSTILE} is false or null", 3),
    ]


def test_the_way_from_rows_to_predictions(sections: Sections) -> None:
    """Features, labels, parts, scores; lookups without time; columns that nobody declared."""
    words = sections.words["rows"]
    assert "98,990 feature rows 98,000 labelled, 22.1 % is_returned 71,000 for training 7,000 purged" in words
    assert "20,000 for testing, from 2013-11-02 00:00 UTC 986 scored by version 2, 4 refused" in words
    assert "Looked up as never changing ( static ): shops." in words
    assert f"that the pipeline file does not name: {HOSTILE}, note." in words


def test_expectations_with_what_was_observed(sections: Sections) -> None:
    """Met, failed, or nothing to judge."""
    assert sections.rows["expectations"][1:] == [
        ["met", "orders", "column mean to be between", "column price, max_value 90.5, min_value 10", "41.25"],
        ["no rows", "orders", "column values to be unique", "column number", ""],
        ["met", "orders", "column values to not be null", "column number", "12 of 1,000 unexpected"],
    ]


def test_trials_best_first_and_failed_last(sections: Sections) -> None:
    """Only those of this search; each fold, its cost, and why it failed. One that was stopped stands behind those that were not, however good."""
    header, *rows = sections.rows["trials"]
    assert header == ["candidate", "parameters", "mean", "folds", "1", "2", "3", "time", "solver"]
    assert rows == [
        ["logistic", "reg_param 0.1", "0.7240", "", "0.7200", "0.7240", "0.7280", "10 s", "stock"],
        ["logistic", "reg_param 0.01", "0.7140", "", "0.7100", "0.7140", "0.7180", "10 s", "stock"],
        ["logistic", "reg_param 0.001", "0.7040", "", "0.7000", "0.7040", "0.7080", "10 s", "stock"],
        [
            "trees",
            "max_depth 4",
            "0.7240",
            "",
            "0.7200",
            "0.7240",
            "0.7280",
            "10 s",
            "stock, stopped after 25 % of its rounds",
        ],
        ["trees", "max_depth 6", "n/a", "", "n/a", "n/a", "n/a", "10 s", "stock Out of memory."],
    ]


def test_the_trial_that_became_the_model_stands_out(facts: Facts) -> None:
    """By candidate and parameters."""
    assert [(trial.candidate, trial.parameters) for trial in facts.trials if trial.chosen] == [
        ("logistic", "reg_param 0.01")
    ]


def test_metrics_with_intervals_beside_the_champions(sections: Sections) -> None:
    """Those to choose by come first; both models on the same rows."""
    assert sections.rows["quality"] == [
        ["metric", "version 2, with 95 % interval", "champion, version 1"],
        ["area under ROC", "0.7712 0.7612 to 0.7832", "0.7612 0.7512 to 0.7732"],
        ["average precision", "0.5200 0.5100 to 0.5320", "0.5100 0.5000 to 0.5220"],
        ["log loss", "0.4300 0.4200 to 0.4420", "0.4200 0.4100 to 0.4320"],
        ["accuracy", "0.7900 0.7800 to 0.8020", "0.7800 0.7700 to 0.7920"],
        ["F1", "0.5100 0.5000 to 0.5220", "0.5000 0.4900 to 0.5120"],
        ["Brier score", "0.1400 0.1300 to 0.1520", "0.1300 0.1200 to 0.1420"],
        ["event rate", "0.2200 0.2100 to 0.2320", "0.2100 0.2000 to 0.2220"],
    ]


def test_slices_with_counts_and_rates(sections: Sections) -> None:
    """Most rows first; a slice of one class has no such metric, and says how many rows it has."""
    assert sections.rows["slices"][1:] == [
        [HOSTILE, "5,000", "0.3000", "0.7400", "0.7300 to 0.7520", ""],
        ["Berlin", "5,000", "0.2000", "0.7900", "0.7800 to 0.8020", ""],
        ["Mainz", "5,000", "0.2500", "0.7600", "0.7500 to 0.7720", ""],
        ["Ulm", "5,000", "0.2100", "0.7700", "0.7600 to 0.7820", ""],
        ["tiny", "3", "n/a", "n/a", "", ""],
    ]


def test_importances_time_and_versions(sections: Sections, facts: Facts) -> None:
    """Columns by share, stages by time, exact versions of tables."""
    assert [[row[0], row[2]] for row in sections.rows["importances"]] == [
        ["rate_28_days", "41.0 %"],
        ["price", "27.0 %"],
        ["shop", "17.0 %"],
        ["size", "10.0 %"],
        ["rate_7_days", "5.0 %"],
    ]
    assert sections.rows["time"][4] == ["train", "2 min 8 s", "", "100,000", "98,990", "2014-01-02 06:03:00"]
    assert "gold/orders_binary_features_0a1b2c3d version 1 features" in sections.words["versions"]
    assert facts.code in sections.words["versions"]
    assert "pyspark 4.2.0" in sections.words["versions"]


def test_what_stages_took(sections: Sections) -> None:
    """Only of stages that were measured; what is missing from the sums is said."""
    assert sections.rows["time"][8:] == [
        ["stage", "tasks", "cores busy", "cpu", "gc", "read", "written", "shuffled", "spilled", "peak memory", "cost"],
        ["ingest.orders", "24", "75 %", "14 s", "0.3 s", "31 MB", "4.6 kB", "120 MB", "none", "67 MB", "0.0004"],
        ["features", "24", "75 %", "31 s", "0.6 s", "31 MB", "4.6 kB", "120 MB", "none", "67 MB", "0.0009"],
        ["train", "1,234 3 failed", "75 %", "2 min 8 s", "2.6 s", "31 MB", "4.6 kB", "120 MB", "2.5 GB", "67 MB", "0.0036"],
        ["evaluate", "24", "75 %", "22 s", "0.5 s", "31 MB", "4.6 kB", "120 MB", "none", "67 MB", "0.0006"],
        ["promote", "24", "75 %", "3.1 s", "0.1 s", "31 MB", "4.6 kB", "120 MB", "none", "67 MB", "0.0001"],
        ["score", "24", "75 %", "6.4 s", "0.1 s", "31 MB", "4.6 kB", "120 MB", "none", "67 MB", "0.0002"],
    ]  # fmt: skip
    assert sections.words["time"].endswith(
        "Sums over Spark's tasks. Cores busy: share of the time that cores were held in which tasks ran. Cpu: in Java, without Python"
        " workers. Peak memory: the most that one task held. Cost: an estimate from cores held, the time that they were held, and"
        " the environment's price of a core-hour. Mind: Spark had dropped the figures of 200 more tasks of train, which took more than"
        " stands here."
    )


def test_what_a_gpu_would_take_over(binary: Run, facts: Facts) -> None:
    """As `gpu-plan` left it in the lake, for this pipeline file alone; without it there is no such section."""
    stage = OfJob("features", cores=2, moved=4_000_000_000, accepted=30.0, python=6.0, of_log=1.5)
    stage.refused[f"Filter{HOSTILE}Exec", "RLike: not supported"] = 2.5
    stages = [stage.summary(), OfJob("score", accepted=0.5).summary()]
    other = binary.pipeline.model_copy(update={"question": "Another?"})

    stored.keep(binary.spark, binary.lake.root, other, stages)
    assert stored.find(binary) == []
    stored.keep(binary.spark, binary.lake.root, binary.pipeline, stages)
    sections = Sections(page.render(dataclasses.replace(facts, gpu_plan=stored.find(binary))))

    assert sections.rows["gpu"] == [
        ["job", "on a GPU", "Python between", "stays", "Delta's log", "at best"],
        ["features", "30 s", "6.0 s", "2.5 s", "1.5 s", "3.85 times as fast"],
        ["score", "0.5 s", "0.0 s", "0.0 s", "0.0 s", "1.0 times as fast"],
    ]
    assert sections.words["gpu"].endswith(f"features stays most for Filter{HOSTILE}Exec: RLike: not supported (2.5 s).")
    assert list(sections.rows)[-3:] == ["gpu", "versions", "reproduce"]


def test_a_ledger_from_before_usage_was_measured(facts: Facts) -> None:
    """Its page says what it knows, and has no cost where there was no price."""
    before = dataclasses.replace(facts, stages=[dataclasses.replace(stage, usage=None) for stage in facts.stages])
    assert len(Sections(page.render(before)).rows["time"]) == 8
    unpriced = [
        dataclasses.replace(stage, usage=stage.usage and dataclasses.replace(stage.usage, cost=None))
        for stage in facts.stages
    ]
    rows = Sections(page.render(dataclasses.replace(facts, stages=unpriced))).rows["time"][8:]
    assert rows[0][-1] == "peak memory"
    assert {len(row) for row in rows} == {10}


def test_the_page_needs_nothing_but_itself(facts: Facts) -> None:
    """No script, no address, nothing to fetch; texts from data and configuration are escaped."""
    html = page.render(facts)
    assert re.findall(r"<script|\b(?:src|srcset)=|@import|url\(|https?:", html) == []
    assert "&lt;script&gt;" in html
    assert "asked when it is placed, &lt;before&gt;" in html.lower()


def test_the_page_lies_in_the_lake_once_for_each_identity(binary: Run) -> None:
    """Nothing is written when nothing has changed; a new stage makes a new page and `latest.html` follows."""
    path = Path(report.write(binary))
    assert re.fullmatch(r"2014-01-01-[0-9a-f]{8}\.html", path.name)
    assert path.parent == Path(binary.lake.root) / "reports" / "orders_binary"
    assert path.with_name("latest.html").read_text() == path.read_text()
    written = path.stat().st_mtime_ns
    assert report.write(binary) == str(path)
    assert path.stat().st_mtime_ns == written

    score = binary.ledger.require("score")
    binary.ledger.record(dataclasses.replace(score, attempt=2, recorded_at=datetime.now(UTC).replace(tzinfo=None)))
    again = Path(report.write(binary))
    assert again != path
    assert path.with_name("latest.html").read_text() == again.read_text()


def test_without_an_evaluation_there_is_no_report(binary: Run) -> None:
    """The sentence says what to run."""
    with pytest.raises(ContractError, match="The ledger has no `features` for run date 2020-01-01"):
        report.write(dataclasses.replace(binary, asked_run_date=date(2020, 1, 1)))


def test_a_job_started_alone_refreshes_the_page_where_there_is_an_evaluation(binary: Run) -> None:
    """`runtime` does so after evaluate, promote and score; a day that only scores has no page and is no failure."""
    assert [outcome.details for outcome in runtime._reported(binary, unchanged=False)] == [
        {"page": report.write(binary)}
    ]
    assert runtime._reported(dataclasses.replace(binary, asked_run_date=date(2020, 1, 1)), unchanged=False) == []


def decided(facts: Facts, **details: object) -> Facts:
    """The facts after another decision."""
    assert facts.promote is not None
    return dataclasses.replace(facts, promote=dataclasses.replace(facts.promote, details=details))


def test_the_verdict_in_words(facts: Facts) -> None:
    """Promoted, kept, or nobody has decided yet."""
    assert page.verdict(facts).headline == "Version 2 is champion"
    kept = page.verdict(decided(facts, promoted=False, champion=1, reason="Not better."))
    assert kept == page.Verdict("kept", "Version 1 stays champion", "Not better.")
    assert page.verdict(dataclasses.replace(facts, promote=None)) == page.Verdict(
        "open", "Version 2 is evaluated", "Nobody has decided on it yet: run `millrace promote`."
    )


def test_a_decision_about_an_earlier_evaluation_is_not_shown(binary: Run) -> None:
    """Evaluated again and not promoted yet: the old sentence would speak of other numbers."""
    evaluate = binary.ledger.require("evaluate")
    newer = dataclasses.replace(
        evaluate, attempt=2, outputs={"ops/orders_binary_metrics": 7}, recorded_at=datetime(2014, 1, 3)
    )
    stages: list[Stage] = binary.ledger.stages()
    stages.append(newer)
    try:
        assert gather.gather(binary).promote is None
    finally:
        stages.remove(newer)


@pytest.mark.parametrize(
    ("task", "figures"),
    [("multiclass", ["calibration"]), ("regression", ["deciles", "residuals"])],
)
def test_other_tasks_have_their_own_figures(spark: SparkSession, tmp_path: Path, task: str, figures: list[str]) -> None:
    """Classes have a confusion matrix and a table of their own; numbers have errors."""
    facts = gather.gather(reported.finished(spark, str(tmp_path), task))
    html = page.render(facts)
    assert re.findall(r'<figure id="figure-(\w+)"', html) == (["confusion"] if task == "multiclass" else []) + figures
    found = Sections(html)
    if task == "multiclass":
        assert [row[0] for row in found.rows["quality"][-4:]] == ["class", *reported.CLASSES]
        assert "Labels: kept 30,000, returned 30,000, exchanged 30,000." in found.words["rows"]
    else:
        assert found.rows["quality"][1] == ["RMSE", "41.20 41.19 to 41.21", "41.19 41.18 to 41.20"]
        assert "(smaller is better)" in found.words["verdict"]
        assert [trial.mean for trial in facts.trials] == sorted(trial.mean or 0.0 for trial in facts.trials)


@pytest.mark.parametrize("name", ["flights"])
def test_the_configuration_on_the_page_loads_to_the_same_pipeline(name: str, tmp_path: Path) -> None:
    """With every `--set` in place."""
    pipeline = load(name, settings=["train.seed=7", "split.folds.gap=36 hours"]).pipeline
    (tmp_path / "again.yaml").write_text(configuration.as_yaml(pipeline))
    assert load(tmp_path / "again.yaml").pipeline == pipeline


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_configurations_of_every_task_load_again(task: str, tmp_path: Path) -> None:
    """Short forms come back as they were meant."""
    pipeline = reported.pipeline(task)
    (tmp_path / "again.yaml").write_text(configuration.as_yaml(pipeline))
    assert load(tmp_path / "again.yaml").pipeline == pipeline


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.0, 3.0, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]),
        (0.0, 0.07, [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]),
        (0.0, 123_456.0, [0.0, 25_000.0, 50_000.0, 75_000.0, 100_000.0]),
        (5.0, 5.0, [5.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    """About five, within the domain."""
    assert drawing.Scale(low, high, 0, 100).ticks() == ticks


def test_domains_leave_a_margin() -> None:
    """Also of one value, of none, and of values that are not finite."""
    assert drawing.domain([1.0, 2.0]) == pytest.approx((0.96, 2.04))
    assert drawing.domain([5.0]) == pytest.approx((4.8, 5.2))
    assert drawing.domain([0.0]) == (-1.0, 1.0)
    assert drawing.domain([]) == pytest.approx((-0.04, 1.04))
    assert drawing.domain([float("nan"), 1.0, 2.0]) == pytest.approx((0.96, 2.04))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (59.7, "1 min 0 s"), (185.0, "3 min 5 s")]
)
def test_durations(seconds: float, text: str) -> None:
    """No more digits than matter."""
    assert page.duration(seconds) == text


def test_metrics_that_are_not_defined() -> None:
    """Said, not left out."""
    assert page.metric(None) == "n/a"
    assert page.metric(Measured(0.5, None, None, 3).value) == "0.5000"
