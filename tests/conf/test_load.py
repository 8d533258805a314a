"""A pipeline file, an environment and `--set`: what they become, and what is said of what is wrong."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conf.errors import ConfigError
from conf.load import load
from conf.schema import Environment
from tests.conf.conftest import Complaints


def problems(**arguments: object) -> list[str]:
    """What loading shop.yaml says; it must say something."""
    with pytest.raises(ConfigError) as caught:
        load("shop.yaml", **arguments)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def test_short_forms_become_whole_ones(shop: Path) -> None:
    """`int!`, `[a]` for a mapping, durations, numbers without a point."""
    pipeline = load(shop).pipeline
    number = pipeline.sources["orders"].columns["number"]
    assert (number.type, number.required, number.header) == ("int", True, None)
    assert pipeline.features.joins[0].by == {"day": "day"}
    assert pipeline.features.joins[0].within is not None
    assert pipeline.features.joins[0].within.length == timedelta(days=2)
    assert pipeline.train.candidates["logistic"].grid == {"reg_param": (0.1, 1e-4)}


def test_two_loads_are_equal(shop: Path) -> None:
    """Whatever is hashed of a configuration depends on the text alone."""
    assert load(shop).pipeline.model_dump_json() == load(shop).pipeline.model_dump_json()


def test_positions_name_the_line_or_the_nearest_parent(shop: Path) -> None:
    """Keys, list entries, and paths that only the checked form has."""
    where = load("shop.yaml", settings=["train.seed=7"]).positions.where
    assert where(("features", "windows", 0, "take", "returns")) == "shop.yaml:41"
    assert where(("features", "joins", 0, "take", "level")) == "shop.yaml:38"
    assert where(("features", "joins", 0, "take", "level", "deeper")) == "shop.yaml:38"
    assert where(("train", "seed")) == "--set train.seed"
    assert where(("train", "impute")) == "shop.yaml:49"
    assert where(("evaluate",)) == "shop.yaml"


class TestSettings:
    """`--set PATH=VALUE`."""

    def test_the_path_mirrors_the_file(self, shop: Path) -> None:
        """Into blocks, lists by position, blocks that the file leaves out; a later setting wins; aliases are YAML's names."""
        pipeline = load(
            shop,
            settings=[
                "split.folds.count=4",
                "split.folds.count=5",
                "features.joins.0.within=3 hours",
                "evaluate.threshold.value=0.25",
                "evaluate.threshold.maximise=null",
                "split.test={from: 2020-03-01}",
                "train.candidates.more={estimator: boosted_trees, grid: {max_depth: [4]}}",
                ["sources.orders.rules.cheap=price < 100", " or so"][0],
            ],
        ).pipeline
        assert pipeline.split.folds.count == 5
        assert pipeline.features.joins[0].within is not None
        assert pipeline.features.joins[0].within.length == timedelta(hours=3)
        assert pipeline.evaluate.threshold.value == 0.25
        assert pipeline.split.test.start == date(2020, 3, 1)
        assert list(pipeline.train.candidates) == ["logistic", "more"]
        assert pipeline.sources["orders"].rules == {"priced": "price > 0", "cheap": "price < 100"}

    def test_the_environment_is_reached_by_its_name(self, shop: Path) -> None:
        """Its block need not be there before; names of Spark's settings hold dots, so they are set as a block."""
        found = load(shop, settings=["environment.lake=s3a://lake/", "environment.spark={spark.executor.cores: '4'}"])
        assert found.environment == Environment(lake="s3a://lake/", spark={"spark.executor.cores": "4"})

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            (
                "split.folds.kidn=time",
                "--set split.folds.kidn: split.folds.kidn is not a setting. Did you mean split.folds.kind?",
            ),
            ("trian.metric=f1", "--set trian.metric: trian is not a setting. Did you mean train?"),
            ("evalute.floor.f1=1.0", "--set evalute.floor.f1: evalute is not a setting. Did you mean evaluate?"),
            (
                "sources.order.files=x",
                "--set sources.order.files: sources.order is not a setting. Did you mean sources.orders?",
            ),
            (
                "features.joins.2.within=1 day",
                "--set features.joins.2.within: features.joins is a list of 2: expected a position from 0, found 2.",
            ),
            (
                "features.joins.first.within=1 day",
                "--set features.joins.first.within: features.joins is a list of 2: expected a position from 0, found first.",
            ),
            ("task.x=1", "--set task.x: task is 'binary', expected a block to hold x. Set task as a whole."),
            ("split.folds.count", "--set split.folds.count: expected PATH=VALUE, such as split.folds.count=5."),
            ("=5", "--set =5: expected PATH=VALUE, such as split.folds.count=5."),
            ("a..b=5", "--set a..b=5: expected PATH=VALUE, such as split.folds.count=5."),
            ("split.folds.count=1", "--set split.folds.count: expected a number of at least 2, found the number 1."),
            (
                "split.folds.count='5'",
                "--set split.folds.count: expected a whole number, found '5'. Remove the quotes.",
            ),
            (
                "lake=/tmp",
                "--set lake: lake belongs to the environment file (conf/env/NAME.yaml) or --set environment.lake=..., not to the pipeline file.",
            ),
            ("environment.lke=/tmp", "--set environment.lke: environment.lke is not a setting. Did you mean lake?"),
            (
                "environment.spork.x=1",
                "--set environment.spork.x: environment.spork is not a setting. Did you mean spark?",
            ),
            (
                "environment.metrics=metrics.txt",
                "--set environment.metrics: expected a file that ends in .prom, for the node exporter, or the http:// or https:// address"
                " of a push gateway, found 'metrics.txt'.",
            ),
            (
                "environment.metrics=s3a://bucket/millrace.prom",
                "--set environment.metrics: expected a file that ends in .prom, for the node exporter, or the http:// or https:// address"
                " of a push gateway, found 's3a://bucket/millrace.prom'.",
            ),
            (
                "environment.price_per_core_hour=-1",
                "--set environment.price_per_core_hour: expected a number of at least 0.0, found the number -1.",
            ),
            (
                "environment.price_per_core_hour=.inf",
                "--set environment.price_per_core_hour: expected a finite number, found the number inf.",
            ),
        ],
    )
    def test_a_setting_that_leads_nowhere(self, shop: Path, setting: str, message: str) -> None:
        """Named with the nearest setting there is."""
        assert problems(settings=[setting]) == [message]

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            ("{depth: 5}", ".space.depth: expected a list, found the number 5. Put it in brackets: [ ]."),
            ("{depth: []}", ".space.depth: expected at least 1 entry, found none."),
            ("{depth: {from: 3, to: 2}}", ".space.depth: expected `from` below `to`, found 3 and 2."),
            ("{depth: {from: a, to: 2}}", ".space.depth.from: expected a number, found 'a'."),
            ("{depth: {from: true, to: 2}}", ".space.depth.from: expected a number, found true."),
            ("{depth: {from: 1}}", ".space.depth.to is missing: expected a number."),
            (
                "{depth: {from: 1, to: 2, till: 3}}",
                ".space.depth.till is not a setting. Expected one of from, to, scale.",
            ),
            (
                "{depth: {from: 0, to: 2, scale: log}}",
                ".space.depth: a log scale has no zero: expected `from` above 0, found 0.",
            ),
            (
                "{depth: [1]}, grid: {depth: [2]}",
                ": a candidate has a grid or a space: move the values of the grid into the space, as lists.",
            ),
        ],
    )
    def test_a_space_that_nothing_can_be_drawn_from(self, shop: Path, space: str, message: str) -> None:
        """A range or values, told by what is written."""
        candidates = f"train.candidates={{trees: {{estimator: boosted_trees, space: {space}}}}}"
        assert problems(settings=[candidates]) == [f"--set train.candidates: train.candidates.trees{message}"]

    def test_a_search_without_a_space_is_refused(self, shop: Path) -> None:
        """It would do nothing."""
        assert problems(settings=["train.search={trials: 5}"]) == [
            "shop.yaml:49: train: `search` says how points are drawn from spaces, and no candidate has one: give one a `space`, or"
            " remove it."
        ]

    def test_a_stack_of_nothing_is_refused(self, shop: Path) -> None:
        """Of one candidate, and beside one of its name."""
        several = "train.candidates={stack: {estimator: boosted_trees}, other: {estimator: random_forest}}"
        assert problems(settings=["train.stack=true"]) == [
            "shop.yaml:49: train: `stack` learns from several candidates, and there is one: give it others, or remove it."
        ]
        assert problems(settings=["train.stack=true", several]) == [
            "shop.yaml:49: train: with `stack` no candidate can be named so, for trials go by names: rename it."
        ]
        assert load(shop, settings=["train.stack=true", "train.candidates=auto"]).pipeline.train.stack

    def test_candidates_that_the_data_choose(self, shop: Path) -> None:
        """With a budget or without; no other word stands for them."""
        for words in (["train.candidates=auto"], ["train.candidates=auto", "train.search={trials: 5}"]):
            assert load(shop, settings=words).pipeline.train.candidates == "auto"
        for wrong, message in {
            "automatic": "expected auto, found 'automatic'. Did you mean auto?",
            "{}": "expected at least 1 entry, found none.",
            "7": "expected a block of `name: value`, found the number 7.",
        }.items():
            assert problems(settings=[f"train.candidates={wrong}"]) == [f"--set train.candidates: {message}"]

    def test_all_of_them_are_named_at_once(self, shop: Path) -> None:
        """Each has its own sentence."""
        assert len(problems(settings=["a", "b.c=1", "task.x=2", "train.metric=f1"])) == 3

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.text(max_size=30), st.text(max_size=30))
    def test_any_text_is_taken_or_refused(self, shop: Path, name: str, value: str) -> None:
        """No other exception leaves, whatever stands on the command line."""
        try:
            load(shop, settings=[f"train.candidates.{name}={value}", f"{name}={value}", value])
        except ConfigError:
            pass
        else:
            raise AssertionError("a setting without a name cannot be taken")


class TestBlocks:
    """Types, ranges and names of one block."""

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("kind: time", "kidn: time", "shop.yaml:48: split.folds.kidn is not a setting. Did you mean split.folds.kind?"),
            ("task: binary\n", "task: binry\n", "shop.yaml:2: task: expected one of binary, multiclass, regression, found 'binry'. Did you mean binary?"),
            ("count: 3", "count: three", "shop.yaml:48: split.folds.count: expected a whole number, found 'three'."),
            ("count: 3", "count: 3.5", "shop.yaml:48: split.folds.count: expected a whole number, found the number 3.5."),
            ("count: 3", "count: true", "shop.yaml:48: split.folds.count: expected a whole number, found true."),
            ("count: 3", "count: 51", "shop.yaml:48: split.folds.count: expected a number of at most 50, found the number 51."),
            ("gap: 1 day", "gap: 1 fortnight", "shop.yaml:48: split.folds.gap: '1 fortnight' is not a duration: expected a positive number and second, minute, hour, day or week, such as 3 hours."),
            ("gap: 1 day", "gap: 1", "shop.yaml:48: split.folds.gap: expected a duration such as 3 hours, found the number 1."),
            ("last: 60 days", "share: 1", "shop.yaml:47: split.test.share: expected a number below 1.0, found the number 1."),
            ("last: 60 days", "from: May", "shop.yaml:47: split.test.from: expected a date such as 2013-11-01, found 'May'."),
            ("last: 60 days", "from: '2020-01-01'", "shop.yaml:47: split.test.from: expected a date such as 2013-11-01, found '2020-01-01'. Remove the quotes."),
            ("last: 60 days", "last: 60 days, share: 0.5", "shop.yaml:47: split.test: expected exactly one of `from`, `last`, `share`."),
            ("pipeline: shop", "pipeline: my shop", "shop.yaml:1: pipeline: 'my shop' is not a name: expected a letter, then letters, digits and underscores, at most 64."),
            ("pipeline: shop", "pipeline: ../shop", "shop.yaml:1: pipeline: '../shop' is not a name: expected a letter, then letters, digits and underscores, at most 64."),
            ("price: double", "price: dubble", "shop.yaml:7: sources.orders.columns.price: 'dubble' is not a column type: expected one of string, int, long, float, double, boolean, date, timestamp, decimal(precision,scale)."),
            ("price: double", "a-b: double", "shop.yaml:7: sources.orders.columns.a-b: 'a-b' is not a name: expected a letter, then letters, digits and underscores, at most 64."),
            ("price: double", "price: 3", "shop.yaml:7: sources.orders.columns.price: expected a block of settings, found the number 3."),
            ("files: prices.csv", "files:", "shop.yaml:17: sources.prices.files: expected text, found nothing. Write a value or remove the line."),
            ("files: prices.csv", "files: 2020", "shop.yaml:17: sources.prices.files: expected text, found the number 2020. Put quotes around it: '2020'."),
            ("files: prices.csv", "files: [a, b]", "shop.yaml:17: sources.prices.files: expected text, found a list."),
            ("files: prices.csv", "files: ''", "shop.yaml:17: sources.prices.files: expected text, found an empty one. Write a value or remove the line."),
            ("files: prices.csv", "files: p.csv\n    nulls: NA", "shop.yaml:18: sources.prices.nulls: expected a list, found 'NA'. Put it in brackets: [ ]."),
            ("files: prices.csv", "files: p.csv\n    delimiter: ';;'", "shop.yaml:18: sources.prices.delimiter: expected 1 character, found ';;'."),
            ("rules: {priced: price > 0}", "rules: price > 0", "shop.yaml:15: sources.orders.rules: expected a block of `name: value`, found 'price > 0'."),
            ("rules: {priced: price > 0}", "rules: {positive: true}", "shop.yaml:15: sources.orders.rules.positive: expected text, found true. Put quotes around it: 'true'."),
            ("spine: orders\n", "spine: 3\n", "shop.yaml:32: features.spine: 3 is not a name: expected a letter, then letters, digits and underscores, at most 64."),
            ("spine: orders\n", "spine: {entities: orders, every: 1 month}\n", "shop.yaml:32: features.spine.from is missing: expected a date such as 2013-11-01."),
            ("spine: orders\n", "spine: {entities: orders, every: monthly, from: 2020-01-01}\n", "shop.yaml:32: features.spine.every: 'monthly' is not a period: expected a positive number and hour, day, week, month or year, such as 1 month."),
            ("take: {weight: sum(weight)}", "take: {}", "shop.yaml:43: features.children.0.take: expected at least 1 entry, found none."),
            ("score: {rows: unlabelled}", "score: unlabelled", "shop.yaml:53: score: expected a block of settings, found 'unlabelled'."),
            ("score: {rows: unlabelled}", "lake: x", "shop.yaml:53: lake belongs to the environment file (conf/env/NAME.yaml) or --set environment.lake=..., not to the pipeline file."),
            ("score: {rows: unlabelled}", "environment: {lake: x}", "shop.yaml:53: environment does not belong to a pipeline file. Write a file conf/env/NAME.yaml and name it with --env."),
            ("label: {name: is_returned, value: CAST(returned AS DOUBLE)}", "label: {name: l, of: items, value: count(*)}", "shop.yaml:34: features.label: a label from another table's future needs all of `of`, `by` and `within`; a label of the spine's own columns none of them."),
        ],
    )  # fmt: skip
    def test_one_problem_one_sentence(self, complaints: Complaints, old: str, new: str, message: str) -> None:
        """Line, setting, what was expected, what was found, the cure."""
        assert complaints((old, new)) == [message]

    def test_a_misspelt_required_setting_is_unknown_and_missing(self, complaints: Complaints) -> None:
        """The nearest name says that the two are one."""
        assert complaints(("files: prices.csv", "file: prices.csv")) == [
            "shop.yaml:16: sources.prices.files is missing: expected text.",
            "shop.yaml:17: sources.prices.file is not a setting. Did you mean sources.prices.files?",
        ]

    def test_everything_is_said_at_once(self, complaints: Complaints) -> None:
        """Unknown keys, types and ranges of all blocks."""
        found = complaints(("kind: time", "kidn: time"), ("key: [day]", "key: day"), ("task: binary\n", ""))
        assert found == [
            "shop.yaml: task is missing: expected text.",
            "shop.yaml:18: sources.prices.key: expected a list, found 'day'. Put it in brackets: [ ].",
            "shop.yaml:47: split.folds.kidn is not a setting. Did you mean split.folds.kind?",
        ]

    def test_syntax_comes_first(self, complaints: Complaints) -> None:
        """An expression with a comma, unquoted inside braces."""
        (found,) = complaints(("rules: {priced: price > 0}", "rules: {known: buyer IN ('a', 'b')}"))
        assert found == (
            "shop.yaml:15: a value is cut at column 38. Inside { } or [ ], put quotes around a value with a comma, colon,"
            " quote or bracket, or write the block one key a line."
        )


class TestFiles:
    """Where files are looked for, and what cannot be read."""

    def test_a_pipeline_that_is_not_there(self, shop: Path) -> None:
        """The places that were looked in, in order."""
        home = Path(__file__).parents[2] / "conf"
        with pytest.raises(ConfigError) as caught:
            load("shops")
        assert caught.value.problems == (
            f"expected the pipeline file shops, found none. Looked in: shops, conf/shops.yaml, {home}/shops.yaml.",
        )
        with pytest.raises(ConfigError) as caught:
            load("some/shop.yaml")
        assert caught.value.problems == (
            "expected the pipeline file some/shop.yaml, found none. Looked in: some/shop.yaml.",
        )

    def test_an_environment_by_name_or_path(self, shop: Path) -> None:
        """The working directory's own comes before millrace's."""
        Path("conf/env").mkdir(parents=True)
        Path("conf/env/local.yaml").write_text("name: mine\nlake: here\n")
        Path("other.yaml").write_text("name: other\nlake: there\n")
        assert load(shop, environment="local").environment == Environment(name="mine", lake="here")
        assert load(shop, environment="other.yaml").environment == Environment(name="other", lake="there")
        assert load(shop).environment == Environment()

    def test_relative_folders_start_at_the_working_directory(self, shop: Path) -> None:
        """Delta takes `lake/silver/orders` for a table's name."""
        found = load(
            shop, settings=["environment.raw=deliveries", "environment.mlflow=http://127.0.0.1:5000"]
        ).environment
        assert (found.raw, found.lake) == (f"{Path.cwd()}/deliveries", f"{Path.cwd()}/lake")
        found = load(shop, settings=["environment.raw=hdfs:///raw", "environment.lake=/srv/lake/"]).environment
        assert (found.raw, found.lake) == ("hdfs:///raw", "/srv/lake")

    def test_where_metrics_go_and_what_cores_cost(self, shop: Path) -> None:
        """Nowhere and nothing by default; a file starts at the working directory like any other."""
        assert (load(shop).environment.metrics, load(shop).environment.price_per_core_hour) == ("", None)
        Path("env.yaml").write_text("metrics: collected/millrace.prom\nprice_per_core_hour: 1\n")
        found = load(shop, environment="env.yaml").environment
        assert (found.metrics, found.price_per_core_hour) == (f"{Path.cwd()}/collected/millrace.prom", 1.0)
        found = load(shop, settings=["environment.metrics=https://push.example:9091"]).environment
        assert found.metrics == "https://push.example:9091"

    def test_problems_of_the_environment_name_its_file(self, shop: Path) -> None:
        """Together with those of the pipeline; each setting belongs to one of the two."""
        Path("env.yaml").write_text("name: test\ntrain: {seed: 1}\nspark: {a: 1}\ndriver_memry: 2g\n")
        assert problems(environment="env.yaml", settings=["train.sed=1"]) == [
            "--set train.sed: train.sed is not a setting. Did you mean train.seed?",
            "env.yaml:3: spark.a: expected text, found the number 1. Put quotes around it: '1'.",
            "env.yaml:2: train belongs to the pipeline file, not to the environment file: an environment never changes what is"
            " computed.",
            "env.yaml:4: driver_memry is not a setting. Did you mean driver_memory?",
        ]

    def test_what_is_no_text(self, tmp_path: Path) -> None:
        """Other encodings, and folders."""
        (tmp_path / "a.yaml").write_bytes("pipeline: Zürich\n".encode("latin-1"))
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / "a.yaml")
        assert caught.value.problems == (
            f"{tmp_path}/a.yaml: expected text in UTF-8, found the byte 0xfc at offset 11. Save it as UTF-8.",
        )
        with pytest.raises(ConfigError, match="found none"):
            load(tmp_path)


def test_a_lake_that_is_no_folder_needs_an_address_for_models() -> None:
    """A sqlite file can lie on this machine only; said before any job that keeps models starts."""
    for environment in (Environment(), Environment(lake="s3a://lake", mlflow="http://127.0.0.1:5000")):
        environment.require_tracking()
    with pytest.raises(ConfigError) as caught:
        Environment(name="store", lake="s3a://lake").require_tracking()
    assert str(caught.value) == (
        "Environment store: mlflow: expected the address of a server or of a database for a lake at s3a://lake, found none. The"
        " default, a sqlite file in the lake, needs a folder of this machine."
    )
