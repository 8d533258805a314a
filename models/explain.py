"""How much each raw column weighs in a fitted model, through one-hot, indexing, missing flags and scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pyspark.ml import PipelineModel, Transformer
from pyspark.ml.stat import Summarizer
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from models.replicates import Doubles

# Stages that turn a vector into another one, slot by slot.
_SLOT_BY_SLOT = ("StandardScalerModel", "MinMaxScalerModel", "MaxAbsScalerModel", "RobustScalerModel")


@dataclass(frozen=True)
class Importances:
    """Share of each raw column that the model can use, all together 1; empty with the reason why there are none."""

    shares: dict[str, float] = field(default_factory=dict)
    reason: str = ""


def importances(model: PipelineModel, rows: DataFrame) -> Importances:
    """Shares by raw column.

    A stack: a member weighs the sum of its slots, which its own shares divide.

    Linear models: a slot of the assembled vector weighs |coefficient| * standard deviation of the slot over `rows` (the change of
    the linear predictor for a typical change of the slot); of several classes, the mean over the classes. MLlib's trees:
    `featureImportances`. XGBoost: total gain of the splits on the slot. A raw column weighs the sum of its slots: its value and
    its missing flag, or all its levels.

    Args:
        model: its last stage predicts; column names before it are `<raw>=<what was done>` or raw names (`models.preprocessing`).
        rows: raw feature columns; only linear models look at them.
    """
    predictor = model.stages[-1]
    prepared = PipelineModel(model.stages[:-1]).transform(rows)
    weights = _slot_weights(predictor, prepared)
    if weights is None:
        return Importances(reason=f"{type(predictor).__name__} has neither coefficients nor feature importances.")
    names = _slot_names(prepared, model.stages[:-1], predictor.getOrDefault("featuresCol"))
    if len(names) != len(weights):
        return Importances(
            reason=f"The {len(weights)} slots of the features cannot be traced to raw columns: {len(names)} of them have names."
        )
    raw = [name.partition("=")[0] for name in names]
    sums = dict.fromkeys(raw, 0.0)
    for name, weight in zip(raw, weights, strict=True):
        sums[name] += float(weight)
    total = sum(sums.values())
    if not total > 0:
        return Importances(reason="No column has any weight: the model predicts the same for every row.")
    shares = {name: weight / total for name, weight in sums.items()}
    members = [stage for stage in model.stages if isinstance(stage, PipelineModel)]
    return _of_stack(members, shares, rows) if members else Importances(shares)


def _of_stack(members: Sequence[PipelineModel], weights: Mapping[str, float], rows: DataFrame) -> Importances:
    """Shares by raw column of members in the order of their weights."""
    shares: dict[str, float] = {}
    for member, (name, weight) in zip(members, weights.items(), strict=True):
        found = importances(member, rows)
        if found.reason:
            return Importances(reason=f"Member '{name}' of the stack: {found.reason}")
        for raw, share in found.shares.items():
            shares[raw] = shares.get(raw, 0.0) + weight * share
    return Importances(shares)


def _slot_weights(predictor: Transformer, prepared: DataFrame) -> Doubles | None:
    """One weight per slot of the features, None for a model that has none."""
    if hasattr(predictor, "get_booster"):
        gains = predictor.get_booster().get_score(importance_type="total_gain")
        booster = predictor.get_booster()
        slots = booster.feature_names or [f"f{index}" for index in range(booster.num_features())]
        return np.array([float(gains.get(slot, 0.0)) for slot in slots])
    if hasattr(predictor, "featureImportances"):
        return _array(predictor.featureImportances.toArray())
    if hasattr(predictor, "coefficientMatrix"):
        size = np.abs(_array(predictor.coefficientMatrix.toArray())).mean(axis=0)
    elif hasattr(predictor, "coefficients"):
        size = np.abs(_array(predictor.coefficients.toArray()))
    else:
        return None
    features = F.col(predictor.getOrDefault("featuresCol"))
    deviations = prepared.agg(Summarizer.std(features).alias("std")).first()
    assert deviations is not None
    return _array(size * deviations["std"].toArray())


def _slot_names(prepared: DataFrame, stages: Sequence[Any], column: str) -> list[str]:
    """Name of each slot of a vector column; stages that leave no names behind are looked through."""
    makers = {stage.getOrDefault("outputCol"): stage for stage in stages if stage.hasParam("outputCol")}
    while column in makers and type(makers[column]).__name__ in _SLOT_BY_SLOT:
        column = makers[column].getOrDefault("inputCol")
    groups = prepared.schema[column].metadata.get("ml_attr", {}).get("attrs", {})
    slots = sorted((slot for group in groups.values() for slot in group), key=lambda slot: int(slot["idx"]))
    return [str(slot["name"]) for slot in slots if "name" in slot]


def _array(values: Any) -> Doubles:
    return np.asarray(values, dtype=np.float64)
