"""A small lake of a shop in the state that `train` and `evaluate` leave it in, for the tests of the jobs after them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession

from conf.schema import Environment, Pipeline
from jobs.lake import Lake, Transaction
from jobs.runs import Ledger, Run, Stage
from models.registry import Registry
from transforms import contracts, features
from transforms.features import Tables

RUN_DATE = date(2024, 2, 1)

# order, as_of, size, kind, label
Row = tuple[int, datetime | None, float | None, str | None, float | None]


def pipeline(name: str, **changes: Any) -> Pipeline:
    """Orders of a shop in New York, with one number and one category."""
    spec: dict[str, Any] = {
        "pipeline": name,
        "task": "binary",
        "timezone": "America/New_York",
        "sources": {
            "orders": {
                "files": "orders.csv",
                "columns": {
                    "order": "int!",
                    "placed_at": "timestamp",
                    "size": "double",
                    "kind": "string",
                    "late": "double",
                },
                "key": ["order"],
                "at": "placed_at",
            }
        },
        "features": {
            "spine": "orders",
            "as_of": "placed_at",
            "label": {"name": "is_late", "value": "late"},
            "columns": {"size": "size", "kind": "kind"},
            "numeric": ["size"],
            "categorical": ["kind"],
        },
        "split": {"test": {"share": 0.5}},
        "train": {"metric": "area_under_roc", "candidates": {"l": {"estimator": "logistic_regression"}}},
        "evaluate": {"floor": {"area_under_roc": 0.6}},
    }
    return Pipeline.model_validate({**spec, **changes})


@dataclass(frozen=True)
class Shop:
    """A run on a lake, and the registry of its models."""

    run: Run
    registry: Registry
    tables: Tables

    def restarted(self, **changes: Any) -> Run:
        """The run as another process would build it: the ledger is read again."""
        name = self.run.pipeline.pipeline
        given = {"pipeline": self.run.pipeline, "asked_run_date": self.run.run_date, "force": False, **changes}
        return Run(
            spark=self.run.spark,
            environment=self.run.environment,
            lake=self.run.lake,
            ledger=Ledger(self.run.lake, name),
            **given,
        )

    def record(
        self,
        job: str,
        *,
        inputs: dict[str, int],
        outputs: dict[str, int],
        details: dict[str, Any],
        day: date = RUN_DATE,
    ) -> None:
        """A row of the ledger."""
        stamp = datetime.now(UTC).replace(tzinfo=None)
        number = len(self.run.ledger.stages())
        self.run.ledger.record(
            Stage(job, day, f"{job}{number}", 1, inputs, outputs, None, None, 1.0, details, "c0de", recorded_at=stamp)
        )

    def build(self, rows: list[Row], day: date = RUN_DATE) -> dict[str, int]:
        """Write features and labels as the job `features` does, and its ledger row; returns the versions."""
        name, lake, spark = self.run.pipeline.pipeline, self.run.lake, self.run.spark
        frame = spark.createDataFrame(
            rows, "order int, as_of timestamp, size double, kind string, label double"
        ).repartition(2)
        known = frame.selectExpr("order", "as_of", "label", "as_of AS label_known_at")
        outputs = {}
        for contract, content in ((self.tables.features, frame), (self.tables.labels, known)):
            outputs[contract.table] = lake.replace(content, contract, Transaction(f"{contract.table}:{day}", 1)).version
        self.record("features", inputs={f"silver/{name}_orders": 5}, outputs=outputs, details={}, day=day)
        return outputs

    def trained(self, model: PipelineModel, inputs: dict[str, int], *, threshold: float | None = None) -> int:
        """Log a model as the job `train` does, and its ledger row; returns the model's version."""
        name, spark = self.run.pipeline.pipeline, self.run.spark
        version = self.registry.log(
            model,
            name=name,
            identity=f"i{len(self.run.ledger.stages())}",
            parameters={},
            metrics={},
            tables=inputs,
            tags={},
            sample=spark.createDataFrame([], "size double, kind string"),
        ).version
        outputs = {contracts.trials(name).table: version}
        self.record("train", inputs=inputs, outputs=outputs, details={"model_version": version, "threshold": threshold})
        return version

    def evaluated(
        self,
        version: int,
        metrics: dict[str, float],
        champion: int | None = None,
        standing: dict[str, float] | None = None,
    ) -> None:
        """The ledger row that the job `evaluate` leaves."""
        details = {
            "model_version": version,
            "evaluation": f"e{version}",
            "metrics": metrics,
            "champion_version": champion,
        }
        outputs = {contracts.metrics(self.run.pipeline.pipeline).table: version}
        self.record("evaluate", inputs={}, outputs=outputs, details={**details, "champion_metrics": standing})

    def promoted(self, version: int) -> None:
        """The alias and the ledger row that a promotion leaves."""
        self.registry.set_champion(self.run.pipeline.pipeline, version)
        self.record("promote", inputs={}, outputs={}, details={"promoted": True, "champion": version, "reason": "r"})


def open_shop(spark: SparkSession, lake_root: str, tracking_uri: str, spec: Pipeline) -> Shop:
    """An empty lake. The registry may be shared by tests, since a new database takes seconds: models go by the pipeline's name."""
    environment = Environment(lake=lake_root, mlflow=tracking_uri)
    lake = Lake(spark, lake_root)
    run = Run(
        spark=spark,
        pipeline=spec,
        environment=environment,
        lake=lake,
        ledger=Ledger(lake, spec.pipeline),
        asked_run_date=RUN_DATE,
    )
    return Shop(run, Registry(tracking_uri, f"{lake_root}/models"), features.tables(spark, spec))
