"""A stack: a linear model that learns from what other models say of rows which they did not train on (Wolpert, "Stacked generalization", 1992;
van der Laan, Polley and Hubbard, "Super learner", 2007).

What the members say of a row comes from the models of the fold that held it out. On these rows the stack is cross-validated by the same folds
as its members: for each fold it learns from rows of folds that the fold trains on. Where there are none, as in the first fold in time, the
stack is its best member.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
from pyspark.ml import Model, Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.feature import SQLTransformer, VectorAssembler
from pyspark.ml.regression import LinearRegression
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from models import grid_search
from models.folds import Folds
from models.preprocessing import LABEL
from models.trials import Trial, TuningResult

NAME = "stack"
FEATURES = "stack=features"
# Members say nearly the same: without a penalty their weights would be large, of either sign.
PENALTIES = (0.0001, 0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Member:
    """The best point of a candidate.

    Attributes:
        described: the point, for people.
        values: its metric in each fold.
        of_fold: makes its model of a fold.
        fit: makes its model of rows.
    """

    name: str
    described: str
    values: Sequence[float]
    of_fold: Callable[[int], Model]
    fit: Callable[[DataFrame], Model]


@dataclass(frozen=True)
class Stack:
    """Members and the rows to learn from.

    Attributes:
        said: what the members say of rows that they did not train on, with label and fold columns.
        scale: standard deviation of the label of a regression, whose unit MLlib's penalty of it has; 1 for classes.
        best: the best of the members.
    """

    members: Sequence[Member]
    said: DataFrame
    folds: Folds
    task: str
    best: Member
    scale: float = 1.0

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """Of each grid point, as trials report them."""
        of = ", ".join(member.described for member in self.members)
        return [{"reg_param": float(f"{self.scale * each:.3g}"), "of": of} for each in PENALTIES]

    @cached_property
    def first(self) -> int:
        """The first fold that trains on rows which another fold held out; the number of folds where none does."""
        if self.folds.scheme == "others":
            return 0
        since = self.folds.train_from or self.folds.column
        earliest = self.said.agg(F.min(since)).collect()[0][0]
        return self.folds.count if earliest is None else int(earliest) + (0 if self.folds.train_from else 1)

    def tune(
        self,
        evaluator: Evaluator,
        metric: str,
        *,
        known: Sequence[Trial] = (),
        on_trial: Callable[[Trial], None] = lambda trial: None,
    ) -> TuningResult:
        """Cross-validate it, with the models of each fold; in folds before `first` the stack is its best member.

        Args:
            known, on_trial: as of `grid_search.tune`.
        """
        known = [trial for trial in known if trial.error is None and trial.parameters in self.parameters]
        done = {(trial.point, trial.fold) for trial in known}
        begun = [
            Trial(NAME, point, parameters, fold, metric, self.best.values[fold], 0.0, f"as {self.best.name}")
            for point, parameters in enumerate(self.parameters)
            for fold in range(self.first)
        ]
        for trial in begun:
            if (trial.point, trial.fold) not in done:
                on_trial(trial)
        estimator, grid = self._estimator()
        later = grid_search.Search(
            estimator,
            grid,
            evaluator,
            replace(self.folds, count=self.folds.count - self.first),
            NAME,
            metric,
            self.parameters,
        )
        found = grid_search.tune(
            later,
            self.said.withColumns(self._begun_later()),
            known=[_moved(trial, -self.first) for trial in known if trial.fold >= self.first],
            on_trial=lambda trial: on_trial(_moved(trial, self.first)),
            keep_models=True,
        )
        scores = np.array([[*self.best.values[: self.first], *row] for row in found.scores])
        trials = sorted(
            [*begun, *(_moved(trial, self.first) for trial in found.trials)], key=lambda t: (t.point, t.fold)
        )
        models = {(point, fold + self.first): model for (point, fold), model in found.models.items()}
        return TuningResult(tuple(trials), scores, found.larger_is_better, models)

    def fit(self, point: int, rows: DataFrame) -> PipelineModel:
        """The stack of a grid point, its members fitted to all rows."""
        estimator, grid = self._estimator()
        on_top = grid_search.fit(estimator, grid[point], self.said)
        return composed([(member.name, member.fit(rows)) for member in self.members], on_top, rows)

    def of_fold(self, result: TuningResult, point: int, rows: DataFrame, fold: int) -> Model:
        """The stack of a grid point and fold, as it was cross-validated.

        Args:
            rows: with the columns that the members read; none is read.
        """
        if fold < self.first:
            return self.best.of_fold(fold)
        if (point, fold) in result.models:
            on_top = result.models[point, fold]()
        else:
            estimator, grid = self._estimator()
            on_top = grid_search.fit(estimator, grid[point], self.said.where(self.folds.trains(fold)))
        return composed([(member.name, member.of_fold(fold)) for member in self.members], on_top, rows)

    def _estimator(self) -> tuple[Pipeline, list[dict[Any, Any]]]:
        kind = LinearRegression if self.task == "regression" else LogisticRegression
        last: Any = kind(featuresCol=FEATURES, labelCol=LABEL)
        gather = VectorAssembler(inputCols=[_said(member.name) for member in self.members], outputCol=FEATURES)
        grid = [{last.regParam: parameters["reg_param"]} for parameters in self.parameters]
        return Pipeline(stages=[gather, last]), grid

    def _begun_later(self) -> dict[str, Column]:
        """The fold columns of a cross-validation that begins at `first`."""
        if not self.first:
            return {}
        lowest = {self.folds.column: -1} | ({self.folds.train_from: 0} if self.folds.train_from else {})
        # `greatest` skips nulls, and a row without `train_from` never trains.
        return {
            name: F.when(F.col(name).isNotNull(), F.greatest(F.col(name) - self.first, F.lit(low)))
            for name, low in lowest.items()
        }


def _moved(trial: Trial, folds: int) -> Trial:
    return replace(trial, fold=trial.fold + folds)


def said(members: Sequence[Member], rows: DataFrame, folds: Folds) -> DataFrame:
    """What the members say of the rows that each fold holds out; `label` and the fold columns with it."""
    keeps = [LABEL, folds.column, *([folds.train_from] if folds.train_from else [])]

    def of(fold: int) -> DataFrame:
        held_out = rows.where(folds.validates(fold))
        for member in members:
            made = member.of_fold(fold).transform(held_out)
            held_out = made.select(*held_out.columns, _answer(made).alias(_said(member.name)))
        return held_out.select(*keeps, *(_said(member.name) for member in members))

    return reduce(DataFrame.unionByName, [of(fold) for fold in range(folds.count)])


def composed(members: Sequence[tuple[str, Model]], on_top: Model, rows: DataFrame) -> PipelineModel:
    """Stock stages: each member, whose columns are dropped but for what it says, then the model on top.

    Args:
        rows: with the columns that the members read; none is read.
    """
    stages: list[Any] = []
    for name, member in members:
        made = member.transform(rows)
        dropped = ", ".join(f"`{column}`" for column in made.columns if column not in rows.columns)
        answer = "probability" if "probability" in made.columns else "prediction"
        statement = f"SELECT * EXCEPT ({dropped}), `{answer}` AS `{_said(name)}` FROM __THIS__"
        stages += [member, SQLTransformer(statement=statement)]
    return PipelineModel([*stages, *on_top.stages])  # type: ignore[attr-defined]


def _said(name: str) -> str:
    return f"{name}=said"


def _answer(made: DataFrame) -> Column:
    return F.col("probability") if "probability" in made.columns else F.col("prediction").cast("double")
