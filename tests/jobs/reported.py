"""Lakes in the state that a finished run leaves them in, as far as the report reads them: made-up numbers in tables of the right contracts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from conf.schema import Environment, Pipeline
from jobs.lake import Lake, Transaction
from jobs.runs import Ledger, Run, Stage
from jobs.usage import Usage
from transforms import contracts
from transforms.contracts import Contract

RUN_DATE = date(2014, 1, 1)

ORDERS: dict[str, Any] = {
    "pipeline": "orders",
    "question": "Will this order be returned? Asked when it is placed, <before> it is sent & paid.",
    "task": "binary",
    "timezone": "Europe/Berlin",
    "sources": {
        "orders": {
            "files": "orders/*.csv",
            "columns": {
                "number": "int!",
                "placed_at": "timestamp",
                "shop": "string",
                "price": "double",
                "returned": "double",
            },
            "key": ["number"],
            "at": "placed_at",
            "outcomes": [{"columns": ["returned"], "known_at": "placed_at + INTERVAL 30 DAYS"}],
        },
        "shops": {
            "files": "shops.csv",
            "static": True,
            "key": ["shop"],
            "columns": {"shop": "string!", "size": "double"},
        },
    },
    "features": {
        "spine": "orders",
        "as_of": "placed_at",
        "label": {"name": "is_returned", "value": "returned"},
        "joins": [{"source": "shops", "by": ["shop"], "take": ["size"]}],
        "windows": [
            {"of": "orders", "by": ["shop"], "over": ["7 days", "28 days"], "take": {"rate": "avg(is_returned)"}}
        ],
        "numeric": ["price", "size", "rate_7_days", "rate_28_days"],
        "categorical": ["shop"],
    },
    "split": {"test": {"last": "60 days"}, "folds": {"kind": "time", "count": 3, "gap": "1 day"}},
    "train": {
        "metric": "area_under_roc",
        "candidates": {
            "logistic": {"estimator": "logistic_regression", "grid": {"reg_param": [0.001, 0.01, 0.1]}},
            "trees": {"estimator": "boosted_trees", "grid": {"max_depth": [4, 6]}},
        },
    },
    "evaluate": {"slices": ["shop"]},
}
CLASSES = ["kept", "returned", "exchanged"]
HOSTILE = "<script>alert('x')</script>"


def pipeline(task: str) -> Pipeline:
    """The orders, asked for a class of two, of three, or for a number."""
    spec = {**ORDERS, "pipeline": f"orders_{task}", "task": task}
    if task == "multiclass":
        spec |= {"classes": CLASSES, "train": {**ORDERS["train"], "metric": "accuracy"}}
    if task == "regression":
        linear = {"linear": {"estimator": "linear_regression", "grid": {"reg_param": [0.001, 0.01]}}}
        spec |= {"train": {"metric": "rmse", "candidates": linear}}
    return Pipeline.model_validate(spec)


def finished(spark: SparkSession, root: str, task: str) -> Run:
    """A run of all jobs but `report`."""
    spec = pipeline(task)
    lake = Lake(spark, root)
    run = Run(
        spark, spec, Environment(name="test", lake=root), lake, Ledger(lake, spec.pipeline), asked_run_date=RUN_DATE
    )
    _ingested(run)
    _searched(run)
    _evaluated(run)
    _recorded(run)
    return run


def _append(run: Run, contract: Contract, rows: Iterable[dict[str, Any]]) -> None:
    names = contract.columns
    values = [tuple(row.get(name) for name in names) for row in rows]
    frame = run.spark.createDataFrame(values, contract.schema).repartition(2)
    run.lake.append(frame, contract, Transaction(f"test:{contract.table}", 1))


def _ingested(run: Run) -> None:
    """Manifests taken, one refused and one replaced by a later reading of the same file: their counts must not show."""
    name = run.pipeline.pipeline
    file = {
        "etag": "e",
        "size_bytes": 10,
        "status": "taken",
        "attempt": 1,
        "run_date": RUN_DATE,
        "recorded_at": datetime(2014, 1, 1),
    }

    def rows(read: int, good: int, bad: int, duplicate: int) -> dict[str, int]:
        return {
            "rows_read": read,
            "rows_good": good,
            "rows_quarantined": bad,
            "rows_duplicate": duplicate,
            "silver_version": 1,
        }

    taken = [
        {**file, "source": "orders", "manifest": "m1", "path": "orders/1.csv", **rows(60_000, 59_000, 700, 300)},
        {
            **file,
            "source": "orders",
            "manifest": "m2",
            "attempt": 2,
            "path": "orders/2.csv",
            **rows(40_000, 39_990, 10, 0),
        },
        {
            **file,
            "source": "orders",
            "manifest": "m2",
            "path": "orders/2.csv",
            **rows(40_000, 0, 40_000, 0),
            "status": "refused",
        },
        {**file, "source": "orders", "manifest": "m1", "path": "orders/1.csv", "status": "planned"},
        {**file, "source": "shops", "manifest": "m0", "path": "shops.csv", **rows(11, 11, 0, 0)},
        {**file, "source": "shops", "manifest": "m0", "path": "shops.csv", **rows(11, 11, 0, 0), "status": "replaced"},
        {**file, "source": "shops", "manifest": "m3", "path": "shops.csv", **rows(12, 12, 0, 0)},
    ]
    _append(run, contracts.files(name), taken)
    bad = {"kind": "bad", "rules": "r", "raw": "{}", "_file": "orders/1.csv", "_delivery": "m1", "_attempt": 1}
    quarantined = [{**bad, "reasons": [f"price: '{number}' is not a double"]} for number in range(7)]
    quarantined += [{**bad, "reasons": ["number: required but null", f"rule cheap: {HOSTILE} is false or null"]}] * 3
    quarantined += [{**bad, "kind": "duplicate", "reasons": ["same key as another row"]}] * 3
    quarantined += [{**bad, "_delivery": "m2", "reasons": ["of the refused attempt"]}] * 9
    _append(run, contracts.quarantine(name, "orders"), quarantined)


def _searched(run: Run) -> None:
    spec = run.pipeline
    rows = []
    for candidate, of in spec.train.candidates.items():
        (parameter, values), *_ = of.grid.items()
        for point, value in enumerate(values):
            for fold in range(3):
                failed = candidate == "trees" and point == 1
                rows.append(
                    {
                        "search": "s1",
                        "candidate": candidate,
                        "point": point,
                        "fold": fold,
                        "parameters": json.dumps({parameter: value}),
                        "metric": spec.train.metric,
                        "value": None if failed else 0.70 + 0.01 * point + 0.004 * fold + 0.02 * (candidate == "trees"),
                        "seconds": 3.5,
                        "rounds": None,
                        "share": 0.25 if candidate == "trees" and point == 0 else 1.0,
                        "solver": "stock",
                        "error": "Out of memory." if failed else None,
                    }
                )
    rows.append({**rows[0], "search": "another", "value": 0.99})
    _append(run, contracts.trials(spec.pipeline), rows)


def _evaluated(run: Run) -> None:
    spec = run.pipeline
    made = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}[spec.task]()
    metrics, points = made
    rows = []
    for version, shift in ((2, 0.0), (1, -0.01)):
        for cut, value, name, klass, number in metrics:
            number = number + shift
            row = {
                "model_version": version,
                "evaluation": "e1",
                "slice": cut,
                "value_of_slice": value,
                "metric": name,
                "class": klass,
            }
            rows.append(
                {
                    **row,
                    "value": number,
                    "low": number - 0.01,
                    "high": number + 0.012,
                    "rows": 20_000 if not cut else 5_000,
                }
            )
    one_class = {
        "model_version": 2,
        "evaluation": "e1",
        "slice": "shop",
        "value_of_slice": "tiny",
        "metric": spec.train.metric,
    }
    rows.append({**one_class, "class": "", "value": None, "low": None, "high": None, "rows": 3})
    _append(run, contracts.metrics(spec.pipeline), rows)
    names = ("curve", "series", "ordinal", "x", "y", "rows")
    drawn = [
        {"model_version": 2, "evaluation": "e1", **dict(zip(names, point, strict=True))}
        for point in points + _importances()
    ]
    _append(run, contracts.curves(spec.pipeline), drawn)


Made = tuple[
    list[tuple[str, str, str, str, float]], list[tuple[str, str, int, float | None, float | None, float | None]]
]


def _slices(name: str, values: list[float]) -> list[tuple[str, str, str, str, float]]:
    return [
        ("shop", value, name, "", number)
        for value, number in zip(["Berlin", "Mainz", HOSTILE, "Ulm"], values, strict=True)
    ]


def _binary() -> Made:
    whole = {
        "area_under_roc": 0.7712,
        "area_under_pr": 0.52,
        "log_loss": 0.43,
        "brier": 0.14,
        "accuracy": 0.79,
        "f1": 0.51,
        "event_rate": 0.22,
    }
    metrics = [("", "", name, "", value) for name, value in whole.items()]
    metrics += _slices("area_under_roc", [0.79, 0.76, 0.74, 0.77]) + _slices("event_rate", [0.2, 0.25, 0.3, 0.21])
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.22
    scores = 1 / (1 + np.exp(-(rng.normal(-1.6, 0.9, 20_000) + 1.1 * labels)))
    order = np.argsort(-scores)
    hits, alarms = np.cumsum(labels[order]), np.cumsum(~labels[order])
    at = np.linspace(0, 19_999, 200).astype(int)
    points: list[Any] = [("roc", "roc", 0, 0.0, 0.0, 0.0), ("pr", "pr", 0, 0.0, 1.0, 0.0)]
    for i, j in enumerate(at):
        recall, precision = float(hits[j] / hits[-1]), float(hits[j] / (j + 1))
        points.append(("roc", "roc", i + 1, float(alarms[j] / alarms[-1]), recall, float(j + 1)))
        points.append(("pr", "pr", i + 1, recall, precision, float(j + 1)))
        f1 = 2 * precision * recall / (precision + recall)
        for name, y in (("precision", precision), ("recall", recall), ("f1", f1)):
            points.append(("threshold", name, i, float(scores[order][j]), y, float(j + 1)))
    points.append(("threshold", "chosen", 0, 0.27, 0.3, 6_000.0))
    for i, part in enumerate(np.array_split(order[::-1], 10)):
        points.append(
            ("calibration", "event", i, float(scores[part].mean()), float(labels[part].mean()), float(len(part)))
        )
    found = 0.0
    for i, part in enumerate(np.array_split(order, 20)):
        rate, found = float(labels[part].mean()), found + float(labels[part].sum())
        points.append(("lift", "lift", i, (i + 1) / 20, rate / float(labels.mean()), float(len(part))))
        points.append(("gain", "gain", i, (i + 1) / 20, found / float(labels.sum()), float(len(part))))
    for i, (name, x, y, rows) in enumerate(
        (("tn", 0, 0, 13_100), ("fp", 0, 1, 2_500), ("fn", 1, 0, 1_900), ("tp", 1, 1, 2_500))
    ):
        points.append(("confusion", name, i, float(x), float(y), float(rows)))
    return metrics, points


def _multiclass() -> Made:
    whole = {"accuracy": 0.81, "log_loss": 0.52, "weighted_precision": 0.8, "weighted_recall": 0.81, "f1": 0.8}
    metrics = [("", "", name, "", value) for name, value in whole.items()] + _slices(
        "accuracy", [0.8, 0.83, 0.79, 0.82]
    )
    metrics += [
        ("", "", name, klass, 0.7 + i / 20) for i, klass in enumerate(CLASSES) for name in ("precision", "recall", "f1")
    ]
    points: list[Any] = []
    for i in range(3):
        for j in range(3):
            points.append(
                (
                    "confusion",
                    f"{CLASSES[i]}|{CLASSES[j]}",
                    3 * i + j,
                    float(i),
                    float(j),
                    5_000.0 if i == j else 400.0 * (i + 1),
                )
            )
    points += [("calibration", "predicted class", i, 0.3 + 0.07 * i, 0.28 + 0.068 * i, 2_000.0) for i in range(10)]
    return metrics, points


def _regression() -> Made:
    whole = {
        "rmse": 41.2,
        "mae": 30.1,
        "mse": 1697.4,
        "r2": 0.83,
        "mean_error": -0.4,
        "error_p05": -66.0,
        "error_p50": -0.2,
        "error_p95": 67.0,
    }
    metrics = [("", "", name, "", value) for name, value in whole.items()] + _slices("rmse", [40.0, 42.0, 44.0, 41.0])
    shares = [i / 20 for i in range(21)]
    points: list[Any] = [
        ("residuals", "error", i, s, 140 * (s - 0.5) ** 3 * 4 + 60 * (s - 0.5), None) for i, s in enumerate(shares)
    ]
    points += [("deciles", "label", i, 100.0 + 30 * i, 97.0 + 31 * i, 2_000.0) for i in range(10)]
    return metrics, points


def _importances() -> list[Any]:
    shares = {"rate_28_days": 0.41, "price": 0.27, "shop": 0.17, "size": 0.1, "rate_7_days": 0.05}
    return [("importance", name, i, None, share, None) for i, (name, share) in enumerate(shares.items())]


def _recorded(run: Run) -> None:
    """The ledger's rows, as each job writes them."""
    spec, started = run.pipeline, datetime(2014, 1, 2, 6, tzinfo=UTC).replace(tzinfo=None)
    name, winner = spec.pipeline, next(iter(spec.train.candidates))
    evaluated = {f"ops/{name}_metrics": 0, f"ops/{name}_curves": 0}
    label: dict[str, Any] = {"name": "is_returned", "labelled": 98_000}
    label |= {
        "binary": {"rate": 0.2213},
        "multiclass": {"classes": dict.fromkeys(CLASSES, 30_000)},
        "regression": {"mean": 250.0},
    }[spec.task]
    verdicts = [
        {"id": "1", "type": "expect_column_mean_to_be_between", "kwargs": {"column": "price", "min_value": 10, "max_value": 90.5}, "success": True, "observed": 41.25},
        {"id": "2", "type": "expect_column_values_to_be_unique", "kwargs": {"column": "number"}, "success": None, "observed": None},
        {"id": "3", "type": "expect_column_values_to_not_be_null", "kwargs": {"column": "number"}, "success": True, "observed": {"element_count": 1000, "unexpected_count": 12, "unexpected_percent": 1.2}},
    ]  # fmt: skip
    trained = {
        "model_version": 2, "mlflow_run_id": "f00dbabe", "candidate": winner, "parameters": {"reg_param": 0.01}, "metric": spec.train.metric,
        "cross_validated": 0.7166, "threshold": 0.27 if spec.task == "binary" else None, "search": "s1",
    }  # fmt: skip
    judged = {
        "model_version": 2, "evaluation": "e1", "champion_version": 1, "champion_metrics": {}, "importances_missing": "",
        "champion_trained_on_test_rows": False, "champion_not_measured": "",
    }  # fmt: skip
    reason = (
        f"Version 2 is promoted: {spec.train.metric} on the test rows is better than that of the champion, version 1."
    )
    parts = {
        "rows": 98_990, "columns": [], "label": label, "static_lookups": ["shops"], "parts": {"train": 71_000, "test": 20_000, "purged": 7_000},
        "folds": [], "test_start": "2013-11-02T00:00:00+00:00",
    }  # fmt: skip
    stages: list[tuple[str, dict[str, int], dict[str, int], dict[str, Any], float]] = [
        (
            "ingest.orders",
            {},
            {f"silver/{name}_orders": 3},
            {"undeclared": ["note", HOSTILE], "expectations": verdicts},
            14.2,
        ),
        ("ingest.shops", {}, {f"silver/{name}_shops": 1}, {"undeclared": [], "expectations": []}, 2.0),
        (
            "features",
            {f"silver/{name}_orders": 3},
            {f"gold/{name}_features_0a1b2c3d": 1, f"gold/{name}_labels_0a1b2c3d": 1},
            parts,
            31.0,
        ),
        ("train", {f"gold/{name}_features_0a1b2c3d": 1}, {f"ops/{name}_trials": 2}, trained, 127.9),
        ("evaluate", {f"gold/{name}_features_0a1b2c3d": 1}, evaluated, judged, 22.5),
        ("promote", evaluated, {f"ops/{name}_releases": 1}, {"promoted": True, "champion": 2, "reason": reason}, 3.1),
        (
            "score",
            {},
            {f"gold/{name}_predictions": 1},
            {"model_version": 2, "asked": 990, "scored": 986, "refused": 4},
            6.4,
        ),
    ]
    for index, (job, inputs, outputs, details, seconds) in enumerate(stages):
        at = started + timedelta(minutes=index)
        stage = Stage(job, RUN_DATE, f"fp{index}", 1, inputs, outputs, 100_000, 98_990, seconds, details, "c0de", at)
        # One of them was recorded before usage was measured.
        run.ledger.record(stage if job == "ingest.shops" else replace(stage, usage=_usage(stage)))


def _usage(stage: Stage) -> Usage:
    """Two cores, busy most of the time; Spark has dropped some of what the search took."""
    cores, dropped = 2 * stage.seconds, 200 if stage.job == "train" else 0
    return Usage(
        spark_stages=1_000 if dropped else 12,
        dropped_tasks=dropped,
        tasks=1_234 if dropped else 24,
        failed_tasks=3 if dropped else 0,
        task_seconds=0.75 * cores,
        cpu_seconds=0.5 * cores,
        gc_seconds=0.01 * cores,
        bytes_read=31_000_000,
        bytes_written=4_560,
        shuffle_read_bytes=120_000_000,
        shuffle_written_bytes=120_000_000,
        spilled_bytes=2_500_000_000 if dropped else 0,
        peak_memory_bytes=67_108_864,
        core_seconds=cores,
        cost=cores / 3600 * 0.05,
    )
