"""Names that refer to nothing, times that are missing, names that collide: all at once, each with line and cure."""

from __future__ import annotations

import pytest

from conf.load import load
from tests.conf.conftest import Complaints

COLUMNS = "number, buyer, placed_at, price, sent_at, returned, days"
SPINE = "a column of the spine or of what stands before"


def test_the_file_itself_has_no_problem(complaints: Complaints) -> None:
    """What the others spoil is sound."""
    assert complaints() == []


@pytest.mark.parametrize("name", ["flights"])
def test_the_pipelines_in_the_repository_are_sound(name: str) -> None:
    """From any working directory, by name."""
    assert load(name).pipeline.pipeline == name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "Europe/Berlin",
            "Europe/Berlinn",
            "shop.yaml:3: timezone: 'Europe/Berlinn' is not a time zone. Did you mean Europe/Berlin?",
        ),
        (
            "Europe/Berlin",
            "../../etc/passwd",
            "shop.yaml:3: timezone: '../../etc/passwd' is not a time zone. Expected a name such as Europe/Berlin.",
        ),
        (
            "task: binary",
            "task: binary\nclasses: [a, b]",
            "shop.yaml:3: classes belong to a multiclass task, found the task binary. Remove them.",
        ),
        (
            "key: [number]",
            "key: [numbr]",
            "shop.yaml:10: sources.orders.key.0: numbr is not a column of orders. Did you mean number?",
        ),
        (
            "{columns: [sent_at], ",
            "{columns: [sent], ",
            "shop.yaml:13: sources.orders.outcomes.0.columns: sent is not a column of orders. Did you mean sent_at?",
        ),
        (
            "{columns: [sent_at], ",
            "{columns: [sent_at, returned], ",
            "shop.yaml:14: sources.orders.outcomes.1.columns: returned is an outcome twice."
            " Keep the entry with the right known_at.",
        ),
        (
            "key: [number]",
            "key: [number, sent_at]",
            "shop.yaml:13: sources.orders.outcomes.0.columns: sent_at is part of the key of orders, so it is known from"
            " the start. Remove it here or there.",
        ),
        (
            "weight: double",
            "Order: double",
            "shop.yaml:28: sources.items.columns.Order has the name of sources.items.columns.order; upper and lower case"
            " are the same to Spark. Choose another name.",
        ),
        (
            "days: datediff",
            "event_date: datediff",
            "shop.yaml:9: sources.orders.derive.event_date: event_date is a column that every table of rows has already."
            " Choose another name (`from` names the header).",
        ),
        (
            "    static: true\n",
            "    static: true\n    at: now\n",
            "shop.yaml:24: sources.buyers is static, so it has no time: remove `at` or `static: true`.",
        ),
        (
            "    static: true\n",
            "    static: true\n    partition_by: event_date\n",
            "shop.yaml:24: sources.buyers is static, so it has no time: remove `partition_by` or `static: true`.",
        ),
        (
            "rules: {priced: price > 0}",
            "expect: [{expect_column_mean_to_be_between: {column: prize}}]",
            "shop.yaml:15: sources.orders.expect.0.expect_column_mean_to_be_between.column: prize is not a column of"
            " orders. Did you mean price?",
        ),
        (
            "rules: {priced: price > 0}",
            "expect_table: [{row_count: {}}]",
            "shop.yaml:15: sources.orders.expect_table.0: row_count is not an expectation: Great Expectations' names"
            " begin with expect_.",
        ),
        (
            "rules: {priced: price > 0}",
            "expect: [{expect_a: {}, expect_b: {}}]",
            "shop.yaml:15: sources.orders.expect.0: expected one expectation an entry, found 2."
            " Write one a line, each behind a dash.",
        ),
        (
            "label: {name: is_returned, value: CAST(returned AS DOUBLE)}",
            "label: {name: number, value: CAST(returned AS DOUBLE)}",
            "shop.yaml:34: features.label.name: number is a column of the spine with another meaning."
            " Choose another name.",
        ),
        (
            "source: prices",
            "source: price",
            "shop.yaml:38: features.joins.0.source: price is not a source. Did you mean prices?",
        ),
        (
            "source: prices, by: [day], within: 2 days",
            "source: prices, by: [day]",
            "shop.yaml:38: features.joins.0: the join with prices needs `within`, how old its row may be, such as 3"
            " hours. If prices never changes, write sources.prices.static: true.",
        ),
        (
            "source: buyers, by: {buyer: id}",
            "source: buyers, by: {buyer: id}, within: 1 day",
            "shop.yaml:39: features.joins.1.within: buyers is static, so no row of it is too old. Remove the line.",
        ),
        (
            "by: {buyer: id}",
            "by: {buyr: id}",
            f"shop.yaml:39: features.joins.1.by.buyr: buyr is not {SPINE}. Did you mean buyer?",
        ),
        (
            "by: {buyer: id}",
            "by: {buyer: ident}",
            "shop.yaml:39: features.joins.1.by.buyer: ident is not a column of buyers. Expected one of id, land.",
        ),
        (
            "take: [land]}",
            "take: {land: country}}",
            "shop.yaml:39: features.joins.1.take.land: country is not a column of buyers. Expected one of id, land.",
        ),
        (
            "take: [land]}",
            "take: {land: land, price: land}}",
            "shop.yaml:39: features.joins.1.take.price: the name price is taken by a column of the spine. Choose another.",
        ),
        (
            "take: [land]}",
            "take: {land: land, LEVEL: land}}",
            "shop.yaml:39: features.joins.1.take.LEVEL: the name LEVEL is taken by features.joins.0.take.level."
            " Choose another.",
        ),
        (
            "take: [land]}",
            "take: {land: land, label: land}}",
            "shop.yaml:39: features.joins.1.take.label: label is a column that every feature table or model has already."
            " Choose another name.",
        ),
        (
            "of: items, by: {number: order}",
            "of: item, by: {number: order}",
            "shop.yaml:43: features.children.0.of: item is not a source. Did you mean items?",
        ),
        (
            "numeric: [price, ",
            "numeric: [prise, ",
            "shop.yaml:44: features.numeric.0: prise is not made by columns, joins, windows or children, nor a column of"
            " the spine. Did you mean price?",
        ),
        (
            "categorical: [land]",
            "categorical: [land, price]",
            "shop.yaml:45: features.categorical.1: price is listed twice under numeric and categorical. Keep one.",
        ),
        (
            "last: 60 days",
            "share: 0.2, by: [buyr]",
            "shop.yaml:47: split.test.by.0: buyr is not a column of the feature frame. Did you mean buyer?",
        ),
        (
            "metric: area_under_roc",
            "metric: rmse",
            "shop.yaml:50: train.metric: rmse is not a metric of a binary task."
            " Expected one of area_under_roc, area_under_pr, log_loss, accuracy, f1.",
        ),
        (
            "estimator: logistic_regression",
            "estimator: logistic_regresion",
            "shop.yaml:52: train.candidates.logistic.estimator: logistic_regresion is not an estimator."
            " Did you mean logistic_regression?",
        ),
        (
            "score: {rows: unlabelled}",
            "evaluate: {slices: [buyer]}",
            "shop.yaml:53: evaluate.slices.0: buyer is not a feature or a key column of the spine."
            " Expected one of number, price, level, earlier_1_day, earlier_30_days, returns_30_days, weight, land.",
        ),
        (
            "score: {rows: unlabelled}",
            "evaluate: {floor: {rmse: 1.0}}",
            "shop.yaml:53: evaluate.floor.rmse: rmse is not a metric of a binary task."
            " Expected one of area_under_roc, area_under_pr, log_loss, accuracy, f1.",
        ),
        (
            "score: {rows: unlabelled}",
            "evaluate: {floor: {f1: .inf}}",
            "shop.yaml:53: evaluate.floor.f1: expected a finite number, found inf.",
        ),
    ],
)
def test_one_problem_one_sentence(complaints: Complaints, old: str, new: str, message: str) -> None:
    """Line, setting, what it refers to in vain, and the nearest name or the cure."""
    assert complaints((old, new)) == [message]


def test_everything_is_said_at_once(complaints: Complaints) -> None:
    """Problems of different blocks come in one list, in the order of the blocks."""
    found = complaints(
        ("key: [number]", "key: [x]"), ("take: [level]", "take: [levl]"), ("metric: area_under_roc", "metric: auc")
    )
    assert found == [
        f"shop.yaml:10: sources.orders.key.0: x is not a column of orders. Expected one of {COLUMNS}.",
        "shop.yaml:38: features.joins.0.take.levl: levl is not a column of prices. Did you mean level?",
        "shop.yaml:44: features.numeric.1: level is not made by columns, joins, windows or children, nor a column of the"
        " spine. Did you mean levl?",
        "shop.yaml:50: train.metric: auc is not a metric of a binary task."
        " Expected one of area_under_roc, area_under_pr, log_loss, accuracy, f1.",
    ]


def test_a_spine_without_time_has_nothing_matched_by_time(complaints: Complaints) -> None:
    """No moment of decision: no as-of joins, windows, time splits or scoring since a date."""
    found = complaints(("  as_of: placed_at\n", ""), ("score: {rows: unlabelled}", "score: {since: 2020-01-01}"))
    assert found == [
        "shop.yaml:37: features.joins.0 is matched by time, and the spine has none. Write features.as_of.",
        "shop.yaml:40: features.windows.0 is matched by time, and the spine has none. Write features.as_of.",
        "shop.yaml:46: split.test goes by time, and the spine has none. Write features.as_of.",
        "shop.yaml:47: split.folds goes by time, and the spine has none. Write features.as_of.",
        "shop.yaml:52: score.since goes by time, and the spine has none. Write features.as_of.",
    ]


def test_a_window_of_one_width_twice_makes_each_column_twice(complaints: Complaints) -> None:
    """The width is part of the name, so the names collide."""
    assert complaints(("over: [1 day, 30 days]", "over: [1 day, 30 days, 1 day]")) == [
        f"shop.yaml:41: features.windows.0.take.{name}: the name {name}_1_day is taken by features.windows.0.take.{name}."
        " Choose another."
        for name in ("earlier", "returns")
    ]


def test_times_of_rows_need_the_time_of_the_event(complaints: Complaints) -> None:
    """`known_at` and `partition_by` are no substitute for `at`."""
    found = complaints(
        ("key: [day]\n    at: day\n", "key: [day]\n    known_at: day\n    partition_by: event_date\n"),
        ("    - {source: prices, by: [day], within: 2 days, take: [level]}\n", ""),
        ("price, level,", "price,"),
    )
    assert found == [
        f"shop.yaml:{line}: sources.prices.{setting} needs `at`, the time of a row's event, found none."
        " Write sources.prices.at."
        for line, setting in ((20, "known_at"), (21, "partition_by"))
    ]


def test_a_source_without_time_is_matched_by_none(complaints: Complaints) -> None:
    """Neither the row that was last nor rows in a window can be told."""
    found = complaints(
        ("key: [day]\n    at: day\n", "key: [day]\n"), ("{of: orders, by: [buyer],", "{of: buyers, by: {buyer: id},")
    )
    assert found == [
        "shop.yaml:37: features.joins.0: prices has no time to match by. Write sources.prices.at.",
        "shop.yaml:40: features.windows.0: buyers is static, so there is no time to match by."
        " Write sources.buyers.at in place of static.",
    ]


def test_a_periodic_spine_steps_by_itself(complaints: Complaints) -> None:
    """Its steps are its moments of decision, and its entities need a key."""
    periodic = ("spine: orders\n", "spine: {entities: orders, every: 1 month, from: 2020-01-01}\n")
    assert complaints(periodic, ("    key: [number]\n", "")) == [
        "shop.yaml:32: features.as_of: the steps of a periodic spine are its as_of. Remove the line.",
        "shop.yaml:31: features.spine.entities: orders has no key, so its rows are no entities. Write sources.orders.key.",
    ]
    assert complaints(periodic, ("  as_of: placed_at\n", "")) == []


def test_a_label_of_the_future_needs_time_and_keys(complaints: Complaints) -> None:
    """The other table is looked up like any other."""
    label = "label: {name: back, of: item, by: {nummer: order}, within: 30 days, value: count(*) > 0}"
    found = complaints(
        ("label: {name: is_returned, value: CAST(returned AS DOUBLE)}", label), ("avg(is_returned)", "avg(price)")
    )
    assert found == [
        "shop.yaml:34: features.label.of: item is not a source. Did you mean items?",
        f"shop.yaml:34: features.label.by.nummer: nummer is not {SPINE}. Did you mean number?",
    ]


def test_a_multiclass_task_lists_its_classes(complaints: Complaints) -> None:
    """Twice the same class is none."""
    other = ("metric: area_under_roc", "metric: accuracy")
    assert complaints(("task: binary", "task: multiclass\nclasses: [a]"), other) == [
        "shop.yaml:3: classes: a multiclass task needs the list of its classes, at least two, found 1."
    ]
    assert complaints(("task: binary", "task: multiclass\nclasses: [a, b, a]"), other) == [
        "shop.yaml:3: classes: a is listed twice."
    ]


def test_a_regression_has_no_classes_to_stratify_or_threshold(complaints: Complaints) -> None:
    """Estimators, folds and thresholds follow the task."""
    found = complaints(
        ("task: binary", "task: regression"),
        ("kind: time, count: 3, gap: 1 day", "kind: stratified"),
        ("metric: area_under_roc", "metric: rmse"),
        ("score: {rows: unlabelled}", "evaluate: {threshold: {value: 0.5}}"),
    )
    assert found == [
        "shop.yaml:48: split.folds.kind: stratified folds need classes, found a regression."
        " Choose time, random or grouped.",
        "shop.yaml:52: train.candidates.logistic.estimator: logistic_regression does not fit a regression task."
        " Expected one of linear_regression, boosted_trees, random_forest.",
        "shop.yaml:53: evaluate.threshold belongs to a binary task, found the task regression. Remove it.",
    ]


def test_a_function_may_make_columns_that_nobody_foresees(complaints: Complaints) -> None:
    """Then features are looked up when it has run."""
    assert (
        complaints(("  joins:", "  function: shop.features.add\n  joins:"), ("numeric: [price", "numeric: [anything"))
        == []
    )


def test_nothing_to_learn_from(complaints: Complaints) -> None:
    """A feature table needs features."""
    numeric = "  numeric: [price, level, earlier_1_day, earlier_30_days, returns_30_days, weight]\n"
    assert complaints((numeric, ""), ("  categorical: [land]\n", "")) == [
        "shop.yaml:31: features: expected names under numeric or categorical, found none: there is nothing to learn from."
    ]
