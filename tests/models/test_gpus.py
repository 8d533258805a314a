"""Whether a stage of training runs on GPUs, on a machine that has none and on one that has."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator

import numpy as np
import pytest
from pyspark.ml import Estimator
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from xgboost.spark import SparkXGBClassifier

from jobs import gpu_parity
from models import gpus
from models.folds import Folds
from models.gpus import Choice, Measured, NoGpu
from models.tuning import CrossValidator, Search, tune
from transforms.errors import ConfigError

HERE = importlib.util.find_spec("cupy") is not None
without = pytest.mark.skipif(HERE, reason="CuPy is installed: this machine may have a GPU")
PROBLEM = "Python of the workers cannot import cupy: install the extra gpu of millrace there"


@pytest.fixture
def session(spark: SparkSession) -> Iterator[SparkSession]:
    """Without the setting afterwards."""
    spark.conf.unset(gpus.SETTING)
    yield spark
    spark.conf.unset(gpus.SETTING)


@pytest.fixture
def rows(session: SparkSession) -> DataFrame:
    random = np.random.default_rng(0)
    values = [(Vectors.dense(random.normal(size=2)), float(k % 2), k % 3) for k in range(60)]
    return session.createDataFrame(values, ["features", "label", "fold"])


def validator(estimator: Estimator) -> CrossValidator:
    return CrossValidator(
        estimator=estimator,
        estimatorParamMaps=[{}],
        evaluator=BinaryClassificationEvaluator(),
        numFolds=3,
        foldCol="fold",
    )


ESTIMATORS = [LogisticRegression, lambda: SparkXGBClassifier(n_estimators=2, num_workers=1)]


def test_nothing_is_asked_of_workers_by_default(session: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job to find out would cost every search a second."""
    monkeypatch.setattr(gpus, "found", lambda spark: pytest.fail("workers were asked"))
    assert gpus.choose(session, "arrays") == Choice(False, "spark.millrace.gpu is never")
    gpus.require(session)


def test_another_value_is_refused(session: SparkSession) -> None:
    """One sentence."""
    session.conf.set(gpus.SETTING, "always")
    with pytest.raises(ConfigError) as caught:
        gpus.choose(session, "trees")
    assert str(caught.value) == "spark.millrace.gpu is 'always'; expected one of never, auto, require."


@without
@pytest.mark.parametrize("stage", ["arrays", "trees"])
def test_auto_takes_the_processors_and_says_why(
    session: SparkSession, stage: gpus.Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Never silently."""
    gpus.taken(session)  # by tests before
    session.conf.set(gpus.SETTING, "auto")
    with caplog.at_level(logging.INFO, logger="models.gpus"):
        assert not gpus.take(session, stage)
    assert caplog.messages == [f"{stage} on CPU: {PROBLEM}"]
    assert gpus.taken(session) == {stage: Choice(False, PROBLEM)}
    assert gpus.taken(session) == {}


@without
@pytest.mark.parametrize("make", ESTIMATORS, ids=["linear", "trees"])
def test_a_search_that_requires_a_gpu_stops_before_any_fit(rows: DataFrame, make: type[LogisticRegression]) -> None:
    """The plan says so, too."""
    rows.sparkSession.conf.set(gpus.SETTING, "require")
    for call in (validator(make()).fit, validator(make()).plan):
        with pytest.raises(NoGpu) as caught:
            call(rows)
        assert re.fullmatch(
            rf"A GPU is required \(spark\.millrace\.gpu\), and there is none to use for (arrays|trees): {re.escape(PROBLEM)}\.",
            str(caught.value),
        )


@pytest.mark.parametrize("make", ESTIMATORS, ids=["linear", "trees"])
def test_a_missing_gpu_is_no_failed_trial(
    rows: DataFrame, make: type[LogisticRegression], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that keeps failures as rows ends all the same: what workers have is made up, XGBoost without CUDA among it."""
    monkeypatch.setattr(gpus, "found", lambda spark: gpus.Found(("a GPU",), "no CuPy", "no CUDA in XGBoost"))
    rows.sparkSession.conf.set(gpus.SETTING, "require")
    with pytest.raises(NoGpu):
        tune(Search(make(), [{}], BinaryClassificationEvaluator(), Folds(3, "fold")), rows)
    for stage, problem in (("arrays", "no CuPy"), ("trees", "no CUDA in XGBoost")):
        with pytest.raises(NoGpu, match=f"for {stage}: {problem}"):
            gpus.choose(rows.sparkSession, stage)  # type: ignore[arg-type]
    monkeypatch.setattr(gpus, "found", lambda spark: gpus.Found(("a GPU",), "", "no CUDA in XGBoost"))
    with pytest.raises(NoGpu, match="for trees: no CUDA in XGBoost"):
        gpus.require(rows.sparkSession)


@without
@pytest.mark.parametrize("make", ESTIMATORS, ids=["linear", "trees"])
def test_plans_name_the_device(rows: DataFrame, make: type[LogisticRegression]) -> None:
    """With the reason."""
    (planned,) = validator(make()).plan(rows)
    assert planned.device == "CPU: spark.millrace.gpu is never"
    rows.sparkSession.conf.set(gpus.SETTING, "auto")
    (planned,) = validator(make()).plan(rows)
    assert planned.device == f"CPU: {PROBLEM}"


def test_a_stage_that_is_not_worth_it_stays(session: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `auto`; what workers have is made up: most machines have none."""
    monkeypatch.setattr(gpus, "found", lambda spark: gpus.Found(("a GPU",), "", "no CUDA in XGBoost"))
    session.conf.set(gpus.SETTING, "auto")
    assert gpus.choose(session, "arrays", passes=1) == Choice(
        False, "of 1 pass(es) over the rows, reading them takes most"
    )
    assert gpus.choose(session, "arrays") == Choice(True, "workers have a GPU")
    assert gpus.choose(session, "trees") == Choice(False, "no CUDA in XGBoost")
    session.conf.set(gpus.SETTING, "require")
    assert gpus.choose(session, "arrays", passes=1) == Choice(True, "workers have a GPU")


def test_auto_goes_by_what_was_measured(session: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it would do else; what workers have is made up, and what `require` says stands."""
    monkeypatch.setattr(gpus, "found", lambda spark: gpus.Found(("a GPU",), "", "no CUDA in XGBoost"))
    session.conf.set(gpus.SETTING, "auto")
    took = "a model took {} s on GPUs and {} s on processors when they were last measured"
    for cpu, gpu, passes in ((2.0, 0.5, 1), (0.25, 0.5, None)):
        with gpus.measured(session, {"arrays": Measured("a model", cpu, gpu), "trees": Measured("a model", 2.0, 0.5)}):
            assert gpus.choose(session, "arrays", passes=passes) == Choice(
                gpu < cpu, took.format(f"{gpu:g}", f"{cpu:g}")
            )
            assert gpus.choose(session, "trees") == Choice(False, "no CUDA in XGBoost")
            session.conf.set(gpus.SETTING, "require")
            assert gpus.choose(session, "arrays", passes=passes) == Choice(True, "workers have a GPU")
            session.conf.set(gpus.SETTING, "auto")
    assert gpus.choose(session, "arrays") == Choice(True, "workers have a GPU")


@pytest.mark.gpu
@pytest.mark.skipif(not HERE, reason="CuPy is not installed, so that nothing can run on a GPU")
def test_answers_agree_across_devices(session: SparkSession) -> None:
    """As `millrace gpu-parity` tells."""
    assert [each for each in gpu_parity.distances(session) if not each.ok] == []
