"""Metrics of predictions that one process holds, as MLlib's evaluators define them. No Spark.

A margin is a design of one column, and the model that says it as it is has the weight 1: so the kernels that judge linear models
judge any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.exact.driver import moments, regression_metrics
from models.exact.driver.areas import areas
from models.exact.driver.classification_metrics import binomial_confusions, multinomial_confusions
from models.exact.driver.passes import InProcess
from models.exact.worker.blocks import Blocks, Cell
from transforms.errors import ModelError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Measure:
    """What an evaluator measures, in plain values that can be sent to a worker.

    Attributes:
        kind: binary (areas), multiclass (of the predicted class) or regression.
        settings: the evaluator's `metricLabel`, `beta` and `eps`, or `throughOrigin`.
        weighted: whether rows count by their weight, or as 1.
    """

    kind: str
    metric: str
    weighted: bool
    settings: dict[str, float]

    def value(self, said: Array, label: Array, weight: Array) -> float:
        """The metric of n rows.

        Args:
            said: (n) margins of class 1 against 0, (n, K) margins of K classes, or (n) predicted values of a regression.
            label, weight: (n).

        Raises:
            ModelError: no row of a regression has a weight.
        """
        said = np.asarray(said, dtype=np.float64).reshape(len(label), -1)
        rows, width = said.shape
        nothing = np.empty((rows, 0), dtype=np.int32)
        cell = Cell(0, np.ascontiguousarray(said), nothing, label.astype(np.float64), weight.astype(np.float64))
        passes = InProcess([Blocks([cell])])
        identity = np.vstack([np.eye(width), np.zeros((1, width))])
        here = np.ones((1, 1), dtype=bool)
        if self.kind == "binary":
            found = areas(passes, identity, here, rows=rows, weighted=self.weighted)
            return float((found.roc if self.metric == "areaUnderROC" else found.pr)[0])
        if self.kind == "multiclass":
            shared: dict[str, Any] = {
                "labels": int(label.max()) + 1,
                "weighted": self.weighted,
                "eps": self.settings["eps"],
            }
            if width == 1:
                confusions = binomial_confusions(passes, identity, here, np.array([0.5]), **shared)
            else:
                confusions = multinomial_confusions(passes, identity[:, :, None], here, None, **shared)
            values = confusions.metric(self.metric, label=self.settings["metricLabel"], beta=self.settings["beta"])
            return float(values[0])
        return self._of_values(passes, identity, here)

    def _of_values(self, passes: InProcess, identity: Array, here: Array) -> float:
        """Of a regression's predictions."""
        found = moments.of_passes(passes, 1, weighted=self.weighted)[0]
        if found is None:
            raise ModelError("the validation rows have no weight: all of them have the weight 0")
        metric: Any = self.metric
        origin = bool(self.settings["throughOrigin"])
        if metric != "mae":
            value, sound = regression_metrics.from_moments(
                found, np.ones((1, 1)), np.zeros(1), metric, through_origin=origin
            )
            if sound[0]:
                return float(value[0])
        request = {"weights": identity, "validates": here, "weighted": self.weighted}
        return float(regression_metrics.scored(passes, [found], request, metric, through_origin=origin)[0])
