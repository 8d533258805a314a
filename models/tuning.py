"""Cross-validation: a drop-in for `pyspark.ml.tuning.CrossValidator`, whose `plan` says which solver would fit what and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from pyspark import keyword_only
from pyspark.ml import Estimator, Model
from pyspark.ml import tuning as stock
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.tuning import CrossValidatorModel
from pyspark.ml.util import DefaultParamsReader, MLWriter
from pyspark.sql import DataFrame

from models import any_estimator, exact_estimator, gpus, rapids_ml, retuning, tree_division, tree_search, trees
from models.any_estimator import Route
from models.exact.driver.statistics import Statistics
from models.folds import Folds, with_hash_folds
from models.grid_search import Path, Search, fit, path, tune
from models.tree_division import Division
from transforms.errors import ConfigError

__all__ = ["CrossValidator", "CrossValidatorModel", "PlannedFit", "Search", "Statistics", "fit", "tune"]


@dataclass(frozen=True)
class PlannedFit:
    """What `CrossValidator.plan` says of one grid point.

    Attributes:
        point: index in the grid.
        parameters: what the grid sets there, by name.
        solver: which code will fit it.
        reason: why that one.
        passes: passes over the data for all folds together, None where the data or the estimator decide.
        bytes_per_worker: estimated size of the cached rows in each executor, from Spark's statistics of the dataset.
        device: CPU or GPU, and why.
    """

    point: int
    parameters: dict[str, Any]
    solver: str
    reason: str
    passes: int | None
    bytes_per_worker: int
    device: str


class CrossValidator(stock.CrossValidator):
    """`pyspark.ml.tuning.CrossValidator`, with folds that do not depend on partitioning, and folds in time.

    Parameters, persistence and result (a stock `CrossValidatorModel`) are those of the stock class. Five parameters more:

    - `foldScheme`: `others` (stock) or `earlier`: a fold trains on earlier rows only. Needs `foldCol`.
    - `trainFromCol`: with `earlier`, the first fold that may train on the row, null for none; without it a row trains all
      later folds.
    - `keyCol`: without `foldCol`, rows of one key share a fold. Without either, folds come from a hash of the row's content.
    - `halving`: boosted trees are judged after parts of their rounds, and one grid point in so many (2 or more) goes on with so many
      times its rounds. `avgMetrics` of the others are those of their last models.
    - `exact`: linear and logistic regressions are fitted to the optimum, whatever `maxIter` and `tol` say. By default they are
      unless `maxIter` below 100 or `tol` above 1e-6 was set: a fit that has not converged then keeps its meaning.

    `foldCol` may hold -1 for rows that no fold validates on.
    """

    foldScheme: Param[str] = Param(
        Params._dummy(),
        "foldScheme",
        "rows a fold trains on: others (all other folds) or earlier (time)",
        TypeConverters.toString,
    )
    trainFromCol: Param[str] = Param(
        Params._dummy(),
        "trainFromCol",
        "with foldScheme earlier: first fold that may train on the row",
        TypeConverters.toString,
    )
    keyCol: Param[str] = Param(
        Params._dummy(), "keyCol", "without foldCol: column whose hash decides the fold", TypeConverters.toString
    )
    exact: Param[bool] = Param(
        Params._dummy(),
        "exact",
        "find the optimum even where few iterations or a loose tolerance are set",
        TypeConverters.toBoolean,
    )

    halving: Param[int] = Param(
        Params._dummy(),
        "halving",
        "of boosted trees one grid point in so many goes on, with so many times its rounds",
        TypeConverters.toInt,
    )

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        estimator: Estimator[Any] | None = None,
        estimatorParamMaps: list[Any] | None = None,
        evaluator: Evaluator | None = None,
        numFolds: int = 3,
        seed: int | None = None,
        parallelism: int = 1,
        collectSubModels: bool = False,
        foldCol: str = "",
        foldScheme: str = "others",
        trainFromCol: str = "",
        keyCol: str = "",
        exact: bool = False,
        halving: int | None = None,
    ) -> None:
        given = self._input_kwargs
        super().__init__()
        # Stock's default seed hashes the class name, which Python salts anew in each process.
        self._setDefault(seed=0)
        self._set(**given)  # None counts as not set

    @keyword_only
    def setParams(
        self,
        *,
        estimator: Estimator[Any] | None = None,
        estimatorParamMaps: list[Any] | None = None,
        evaluator: Evaluator | None = None,
        numFolds: int = 3,
        seed: int | None = None,
        parallelism: int = 1,
        collectSubModels: bool = False,
        foldCol: str = "",
        foldScheme: str = "others",
        trainFromCol: str = "",
        keyCol: str = "",
        exact: bool = False,
        halving: int | None = None,
    ) -> CrossValidator:
        """Set parameters by name."""
        self._set(**self._input_kwargs)
        return self

    def setFoldScheme(self, value: Literal["others", "earlier"]) -> CrossValidator:
        """Set the value of `foldScheme`."""
        self._set(foldScheme=value)
        return self

    def setTrainFromCol(self, value: str) -> CrossValidator:
        """Set the value of `trainFromCol`."""
        self._set(trainFromCol=value)
        return self

    def setKeyCol(self, value: str) -> CrossValidator:
        """Set the value of `keyCol`."""
        self._set(keyCol=value)
        return self

    def setExact(self, value: bool) -> CrossValidator:
        """Set the value of `exact`."""
        self._set(exact=value)
        return self

    def setHalving(self, value: int) -> CrossValidator:
        """Set the value of `halving`."""
        self._set(halving=value)
        return self

    # The five have no defaults in the parameter map: stock pyspark could not load an estimator that names them.
    def getFoldScheme(self) -> str:
        """Value of `foldScheme`, or `others`."""
        return self.getOrDefault(self.foldScheme) if self.isSet(self.foldScheme) else "others"

    def getTrainFromCol(self) -> str:
        """Value of `trainFromCol`, or empty."""
        return self.getOrDefault(self.trainFromCol) if self.isSet(self.trainFromCol) else ""

    def getKeyCol(self) -> str:
        """Value of `keyCol`, or empty."""
        return self.getOrDefault(self.keyCol) if self.isSet(self.keyCol) else ""

    def getExact(self) -> bool:
        """Value of `exact`, or False."""
        return self.getOrDefault(self.exact) if self.isSet(self.exact) else False

    def getHalving(self) -> int | None:
        """Value of `halving`, or None."""
        return self.getOrDefault(self.halving) if self.isSet(self.halving) else None

    def plan(self, dataset: DataFrame) -> tuple[PlannedFit, ...]:
        """Which solver would fit each grid point, and why; nothing is fitted. For boosted trees the rows are counted.

        Feature stages that are fitted may turn out to make more columns than the exact solvers take: the fit logs it then.

        Raises:
            ConfigError: the parameters of folds contradict each other, or points rank or are to be halved that cannot be.
            ModelError: there is no row to tell the number of features from.
            NoGpu: GPUs are required and cannot be used.
        """
        estimator, evaluator, folds = self.getEstimator(), self.getEvaluator(), self._folds()
        size = _bytes_per_worker(dataset)
        planned = []
        too_wide: dict[Any, str | None] = {}
        divisions: dict[Any, Division | None] = {}
        for point, extra in enumerate(self.getEstimatorParamMaps()):
            way = any_estimator.route(estimator, point, extra)
            taken, reason = path(way, evaluator, exact=self.getExact(), halving=self.getHalving())
            division = None
            if taken is Path.EXACT:
                features = way.keys, way.last.getFeaturesCol()  # type: ignore[union-attr]
                if features not in too_wide:
                    too_wide[features] = exact_estimator.reason_against_rows(way, dataset, folds)
                against = too_wide[features]
                if against:
                    taken, reason = Path.GENERAL, against
            if taken is Path.BOOSTED:
                inputs = way.keys, *any_estimator.columns(way.last), trees.is_binned(way.last)
                if inputs not in divisions:
                    divisions[inputs] = tree_search.division(way, dataset, self.getParallelism())
                division = divisions[inputs]
                if division:
                    reason = division.reason
            solver = {
                Path.EXACT: exact_estimator.solver(way),
                Path.BOOSTED: division.solver if division else tree_division.WHOLE,
                Path.GENERAL: way.solver,
            }[taken]
            passes = exact_estimator.passes(way, evaluator) if taken is Path.EXACT else None
            parameters = {param.name: value for param, value in extra.items()}
            device = _device(dataset, way, taken, passes, divided=solver == tree_division.DIVIDED)
            planned.append(PlannedFit(point, parameters, solver, reason, passes, size, device))
        return tuple(planned)

    def statistics(self, dataset: DataFrame) -> Statistics:
        """What a search over linear regressions needs to know of these rows: add those of new rows, and `fitStatistics`.

        Raises:
            ConfigError: neither `foldCol` nor `keyCol` is set: folds by content depend on all rows together.
            ModelError: the search needs more than that of rows.
        """
        how_folded = self._how_folded()
        frame, folds = self._with_folds(dataset)
        return retuning.statistics(self._search(folds), frame, how_folded)

    def fitStatistics(self, seen: Statistics) -> CrossValidatorModel:
        """As `fit` to all rows that the statistics stand for, without reading any.

        The best model has no training summary, for which MLlib reads the rows, and there are no sub-models.

        Raises:
            ModelError: they are of other columns or folds, or the search needs more than them.
        """
        result, best = retuning.fit(self._search(self._folds()), seen, self._how_folded())
        fitted = CrossValidatorModel(best, result.mean.tolist(), cast("list[list[Model]]", None), result.std.tolist())
        return self._copyValues(fitted)

    def _fit(self, dataset: DataFrame) -> CrossValidatorModel:
        grid = self.getEstimatorParamMaps()
        frame, folds = self._with_folds(dataset)
        collect = self.getCollectSubModels()
        result = tune(self._search(folds), frame, keep_models=collect, refit=True, stop_on_error=True)
        point = result.require_best()
        best = result.whole or fit(self.getEstimator(), grid[point], dataset, exact=self.getExact())
        models = (
            [[result.models[point, fold]() for point in range(len(grid))] for fold in range(folds.count)]
            if collect
            else None
        )
        fitted = CrossValidatorModel(best, result.mean.tolist(), cast("list[list[Model]]", models), result.std.tolist())
        return self._copyValues(fitted)

    def _search(self, folds: Folds) -> Search:
        return Search(
            self.getEstimator(),
            self.getEstimatorParamMaps(),
            self.getEvaluator(),
            folds,
            parallelism=self.getParallelism(),
            exact=self.getExact(),
            halving=self.getHalving(),
        )

    def _folds(self) -> Folds:
        """Folds in a column of the dataset, or in the one that `_with_folds` adds.

        Raises:
            ConfigError: parameters contradict each other.
        """
        column, scheme = self.getFoldCol(), self.getFoldScheme()
        if scheme not in ("others", "earlier"):
            raise ConfigError(f"foldScheme is '{scheme}'; expected 'others' or 'earlier'.")
        if scheme == "earlier" and not column:
            raise ConfigError(
                "foldScheme 'earlier' needs foldCol: a hash knows no time. Set foldCol to a column of fold numbers."
            )
        if self.getTrainFromCol() and scheme != "earlier":
            raise ConfigError("trainFromCol belongs to foldScheme 'earlier'. Set both, or neither.")
        known = cast(Literal["others", "earlier"], scheme)
        return Folds(self.getNumFolds(), column or f"{self.uid}_fold", known, self.getTrainFromCol() or None)

    def _how_folded(self) -> dict[str, Any]:
        """What decides the fold of a row, whatever other rows there are.

        Raises:
            ConfigError: other rows do.
        """
        if self.getFoldCol():
            by: dict[str, Any] = {"foldCol": self.getFoldCol(), "trainFromCol": self.getTrainFromCol()}
        elif self.getKeyCol():
            by = {"keyCol": self.getKeyCol(), "seed": self.getSeed()}
        else:
            raise ConfigError(
                "Statistics of rows need foldCol or keyCol: without either, folds depend on the content of all rows together."
            )
        return {"numFolds": self.getNumFolds(), "foldScheme": self.getFoldScheme(), **by}

    def _with_folds(self, dataset: DataFrame) -> tuple[DataFrame, Folds]:
        folds = self._folds()
        if self.getFoldCol():
            return dataset, folds
        seed, key = self.getSeed(), self.getKeyCol()
        return with_hash_folds(dataset, count=folds.count, seed=seed, key=key, column=folds.column), folds

    def write(self) -> MLWriter:
        """Stock's writer; with one of our five parameters set, one that keeps them."""
        ours = self.foldScheme, self.trainFromCol, self.keyCol, self.exact, self.halving
        if any(self.isSet(param) for param in ours):
            return stock.CrossValidatorWriter(self)
        return self._copyValues(stock.CrossValidator())._resetUid(self.uid).write()

    @classmethod
    def read(cls) -> CrossValidatorReader:
        """A reader of what `write` or stock pyspark wrote."""
        return CrossValidatorReader(cls)


class CrossValidatorReader(stock.CrossValidatorReader):
    """Reads a saved `CrossValidator`, ours or stock's."""

    def load(self, path: str) -> CrossValidator:
        """The estimator saved at `path`."""
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        # Stock tells what Python wrote from what Java wrote by the class: ours is written as Python writes.
        if metadata["class"] == f"{CrossValidator.__module__}.{CrossValidator.__name__}":
            metadata["class"] = f"{stock.CrossValidator.__module__}.{stock.CrossValidator.__name__}"
        metadata, estimator, evaluator, grid = stock._ValidatorSharedReadWrite.load(path, self.sparkSession, metadata)
        loaded = CrossValidator(estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator)
        loaded = loaded._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(loaded, metadata, skipParams=["estimatorParamMaps"])
        return loaded


def _device(dataset: DataFrame, way: Route, taken: Path, passes: int | None, *, divided: bool) -> str:
    spark = dataset.sparkSession
    if taken is Path.EXACT:
        return str(gpus.choose(spark, "arrays", passes=passes))
    if taken is Path.BOOSTED:
        return str(gpus.choose(spark, "trees", against=tree_division.NOT_ON_GPU if divided else ""))
    if way.last is not None and rapids_ml.knows(way.last):
        return str(rapids_ml.choose(spark, way.last))
    return "CPU: the estimator fits itself"


def _bytes_per_worker(dataset: DataFrame) -> int:
    """Spark's estimate for the dataset, spread over the executors (in local mode the driver is the only one)."""
    total = int(str(dataset._jdf.queryExecution().optimizedPlan().stats().sizeInBytes()))
    context: Any = dataset.sparkSession.sparkContext._jsc
    return total // max(1, int(context.sc().getExecutorMemoryStatus().size()) - 1)
