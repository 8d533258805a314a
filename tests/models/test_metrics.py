"""Metrics agree with scikit-learn and with plain NumPy, whatever the partitioning."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn import metrics as sklearn_metrics

from conf.schema import Threshold
from models.metrics import Metric, binary, choose_threshold, multiclass, regression
from models.replicates import row_hash
from transforms.errors import ModelError

CLASSES = ("late", "lost", "on time")
Measure = Callable[[pd.DataFrame], float]


def scored(rows: int, *, digits: int = 2, seed: int = 7) -> pd.DataFrame:
    """Labels with scores that tie often: rounded to `digits`, exact 0 and 1 among them."""
    generator = np.random.default_rng(seed)
    score = np.clip(generator.beta(1.2, 3.0, rows).round(digits) * 1.3 - 0.1, 0, 1)
    label = (generator.random(rows) < 0.1 + 0.7 * score).astype(float)
    return pd.DataFrame({"id": np.arange(rows), "label": label, "score": score})


def frame(spark: SparkSession, data: pd.DataFrame, partitions: int = 2) -> DataFrame:
    return spark.createDataFrame(data).repartition(partitions, "id")


def best_by_hand(data: pd.DataFrame, quality: str) -> float:
    """Try every distinct score with scikit-learn; the highest of the best."""

    def measure(threshold: float) -> float:
        decision = (data.score >= threshold).astype(float)
        if quality == "f1":
            return float(sklearn_metrics.f1_score(data.label, decision))
        if quality == "accuracy":
            return float(sklearn_metrics.accuracy_score(data.label, decision))
        return float(sklearn_metrics.balanced_accuracy_score(data.label, decision, adjusted=True))

    return float(max(data.score.unique(), key=lambda score: (round(measure(score), 12), score)))


@pytest.mark.quick
@pytest.mark.parametrize("quality", ["f1", "youden", "accuracy"])
def test_the_threshold_is_the_best_of_all_scores(spark: SparkSession, quality: str) -> None:
    data = scored(900)
    chosen = choose_threshold(frame(spark, data), Threshold.model_validate({"maximise": quality}))
    assert chosen == best_by_hand(data, quality)


@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_the_threshold_is_the_same_over_several_ranges(
    spark: SparkSession, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges of a few rows: each distinct score's sums come from its own range and from those above."""
    monkeypatch.setattr("models.ranks.ROWS_PER_RANGE", 7)
    data = scored(900)
    chosen = choose_threshold(frame(spark, data, partitions), Threshold(maximise="f1"))
    assert chosen == best_by_hand(data, "f1")


@pytest.mark.quick
def test_of_equally_good_thresholds_the_highest_is_chosen(spark: SparkSession) -> None:
    """Both 0.9 and 0.4 get three of four right."""
    data = pd.DataFrame({"id": range(4), "label": [1.0, 0.0, 1.0, 0.0], "score": [0.9, 0.6, 0.4, 0.2]})
    assert choose_threshold(frame(spark, data), Threshold(maximise="accuracy")) == 0.9


@pytest.mark.quick
def test_a_fixed_threshold_needs_no_rows(spark: SparkSession) -> None:
    assert choose_threshold(frame(spark, scored(4)).limit(0), Threshold(value=0.3)) == 0.3


@pytest.mark.quick
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (
            [1.0, 1.0],
            [0.2, 0.3],
            "2 rows hold 2 events and 0 others; expected both. Make the part longer (`split`), or check `features.label.value`.",
        ),
        ([1.0, 2.0], [0.2, 0.3], "1 of 2 labels are neither 0 nor 1. Check `features.label.value`."),
        (
            [1.0, 0.0],
            [0.2, float("nan")],
            "The model gave no score, or NaN, for 1 of 2 rows; expected a probability for each."
            " Check the features of those rows for infinities, and the candidate's parameters.",
        ),
    ],
)
def test_no_threshold_from_rows_that_cannot_be_measured(
    spark: SparkSession, labels: list[float], scores: npt.NDArray[np.float64], message: str
) -> None:
    # A list of tuples, because a pandas frame would turn NaN into null.
    data = spark.createDataFrame([*zip(labels, scores, strict=True)], "label double, score double").repartition(2)
    with pytest.raises(ModelError) as refused:
        choose_threshold(data, Threshold(maximise="f1"))
    assert str(refused.value) == message


def sliced(data: pd.DataFrame) -> pd.DataFrame:
    """Add two slice columns: one with a null, one whose last value has a single row."""
    carrier = np.array(["AA", "B6", None, "UA"], dtype=object)[np.arange(len(data)) % 4]
    hour = (np.arange(len(data)) * 7 % 5).astype(float)
    hour[-1] = 9.5
    return data.assign(carrier=carrier, hour=hour)


def pieces(data: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """(slice, value) -> its rows."""
    found = {("", ""): data}
    for column in ("carrier", "hour"):
        text = data[column].map(lambda value: "(none)" if value is None else str(value))
        found |= {(column, str(value)): rows for value, rows in data.groupby(text)}
    return found


def defined(measure: Measure, rows: pd.DataFrame) -> float | None:
    """None where scikit-learn warns that the metric is not defined, or gives NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", sklearn_metrics._classification.UndefinedMetricWarning)
        try:
            value = float(measure(rows))
        except sklearn_metrics._classification.UndefinedMetricWarning:
            return None
    return value if math.isfinite(value) else None


def expect(found: list[Metric], data: pd.DataFrame, measures: dict[tuple[str, str], Measure], tolerance: float) -> None:
    """Exactly these metrics, one of each per slice, with the rows of the slice."""
    values = {(m.slice, m.value_of_slice, m.of_class, m.metric): (m.value, m.rows) for m in found}
    assert len(values) == len(found)
    expected = {
        (*piece, *name): (defined(measure, rows), len(rows))
        for piece, rows in pieces(data).items()
        for name, measure in measures.items()
    }
    assert values.keys() == expected.keys()
    for name, (value, rows) in expected.items():
        close = None if value is None else pytest.approx(value, rel=tolerance, abs=tolerance)
        assert values[name] == (close, rows), name


def binary_measures(threshold: float) -> dict[tuple[str, str], Measure]:
    def decided(function: Callable[..., float]) -> Measure:
        return lambda rows: function(rows.label, (rows.score >= threshold).astype(float))

    measures: dict[str, Measure] = {
        "area_under_roc": lambda rows: sklearn_metrics.roc_auc_score(rows.label, rows.score),
        "area_under_pr": lambda rows: (
            sklearn_metrics.average_precision_score(rows.label, rows.score) if rows.label.any() else math.nan
        ),
        "log_loss": lambda rows: sklearn_metrics.log_loss(rows.label, rows.score, labels=[0, 1]),
        "brier": lambda rows: sklearn_metrics.brier_score_loss(rows.label, rows.score, pos_label=1),
        "accuracy": decided(sklearn_metrics.accuracy_score),
        "precision": decided(sklearn_metrics.precision_score),
        "recall": decided(sklearn_metrics.recall_score),
        "f1": decided(sklearn_metrics.f1_score),
        "event_rate": lambda rows: rows.label.mean(),
    }
    return {("", name): measure for name, measure in measures.items()}


@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_binary_metrics_agree_with_scikit_learn_in_every_slice(
    spark: SparkSession, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ties, scores of exactly 0 and 1, ranges of a few rows, a slice of one row: equal to 1e-12."""
    monkeypatch.setattr("models.ranks.ROWS_PER_RANGE", 200)
    data = sliced(scored(1500))
    found = binary(frame(spark, data, partitions), threshold=0.3, key=["id"], slices=["carrier", "hour"])
    assert {(m.low, m.high) for m in found} == {(None, None)}
    expect(found, data, binary_measures(0.3), 1e-12)


@pytest.mark.quick
def test_a_constant_score_has_area_one_half(spark: SparkSession) -> None:
    """All rows in one tie that spans several batches."""
    data = pd.DataFrame({"id": range(25_000), "label": np.arange(25_000) % 2.0, "score": 0.5})
    values = {m.metric: m.value for m in binary(frame(spark, data), threshold=0.6, key=["id"])}
    assert (values["area_under_roc"], values["area_under_pr"], values["precision"], values["f1"]) == (
        0.5,
        0.5,
        None,
        0.0,
    )


def test_metrics_are_the_same_to_the_last_bit_however_rows_lie(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run that is started again must write the same table."""
    monkeypatch.setattr("models.ranks.ROWS_PER_RANGE", 300)
    data = sliced(scored(1000, digits=6))
    shuffled = data.sample(frac=1, random_state=3)
    first = binary(frame(spark, data, 1), threshold=0.3, key=["id"], slices=["hour"], bootstrap=20)
    second = binary(
        spark.createDataFrame(shuffled).repartition(5), threshold=0.3, key=["id"], slices=["hour"], bootstrap=20
    )
    assert first == second


def poisson_weights(spark: SparkSession, data: pd.DataFrame, replicates: int) -> npt.NDArray[np.float64]:
    """Weights of shape (rows, replicates) in the plainest way: SplitMix64 and the Poisson distribution in Python integers."""
    hashes = (
        spark.createDataFrame(data[["id"]]).select("id", row_hash(["id"]).alias("row")).toPandas().set_index("id").row
    )
    mask = 2**64 - 1

    def draw(seed: int, replicate: int) -> int:
        mixed = (seed + replicate * 0x9E3779B97F4A7C15) & mask
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        uniform = (mixed ^ (mixed >> 31)) / 2**64
        count, cumulative = 0, math.exp(-1)
        while uniform >= cumulative:
            count += 1
            cumulative += math.exp(-1) / math.factorial(count)
        return count

    return np.array([[draw(int(hashes[i]), b) for b in range(1, replicates + 1)] for i in data.id], float)


def test_intervals_are_quantiles_of_the_weighted_metrics(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn with the same Poisson counts as sample weights, whole and by slice; more replicates than fit in one block."""
    monkeypatch.setattr("models.ranks.ROWS_PER_RANGE", 100)
    data, replicates = sliced(scored(300)), 70
    counts = poisson_weights(spark, data, replicates)
    assert (counts.mean(), counts.var()) == (pytest.approx(1, abs=0.05), pytest.approx(1, abs=0.05))
    found = binary(frame(spark, data), threshold=0.3, key=["id"], slices=["carrier"], bootstrap=replicates)
    measured = {(m.slice, m.value_of_slice, m.metric): (m.low, m.high) for m in found}
    for piece, rows in pieces(data).items():
        if piece[0] == "hour":
            continue
        weighted = [counts[rows.index, b] for b in range(replicates)]
        label, decision = rows.label, rows.score >= 0.3
        for name, values in {
            "area_under_roc": [sklearn_metrics.roc_auc_score(label, rows.score, sample_weight=w) for w in weighted],
            "area_under_pr": [
                sklearn_metrics.average_precision_score(label, rows.score, sample_weight=w) for w in weighted
            ],
            "log_loss": [sklearn_metrics.log_loss(label, rows.score, sample_weight=w) for w in weighted],
            "brier": [sklearn_metrics.brier_score_loss(label, rows.score, sample_weight=w) for w in weighted],
            "f1": [sklearn_metrics.f1_score(label, decision, sample_weight=w) for w in weighted],
        }.items():
            assert measured[(*piece, name)] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), rel=1e-12), (
                name
            )


def test_an_interval_needs_half_of_its_replicates(spark: SparkSession) -> None:
    """One event among six rows: a third of the replicates leave it out; a slice of that event alone has no area at all."""
    data = pd.DataFrame(
        {"id": range(6), "label": [1.0, 0, 0, 0, 0, 0], "score": np.arange(6) / 6, "side": list("abbbbb")}
    )
    found = binary(frame(spark, data), threshold=0.3, key=["id"], slices=["side"], bootstrap=50)
    area = {m.value_of_slice: m for m in found if m.metric == "area_under_roc"}
    assert area[""].value == 0.0 and area[""].low == 0.0
    assert area["a"] == Metric("side", "a", "area_under_roc", "", None, None, None, 1)
    assert area["b"] == Metric("side", "b", "area_under_roc", "", None, None, None, 5)


def classified(rows: int) -> pd.DataFrame:
    """Three classes; the last is never predicted."""
    generator = np.random.default_rng(11)
    probability = generator.dirichlet([1.0, 1.0, 0.3], rows)
    probability[:3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    label = generator.choice(3, rows, p=[0.5, 0.3, 0.2]).astype(float)
    return pd.DataFrame(
        {
            "id": range(rows),
            "label": label,
            "prediction": probability[:, :2].argmax(axis=1).astype(float),
            "probability": list(probability),
        }
    )


def multiclass_measures() -> dict[tuple[str, str], Measure]:
    def averaged(function: Callable[..., float]) -> Measure:
        return lambda rows: function(rows.label, rows.prediction, average="weighted", zero_division=0)

    def of_class(function: Callable[..., float], index: int) -> Measure:
        return lambda rows: function(rows.label == index, rows.prediction == index, zero_division=np.nan)

    measures: dict[tuple[str, str], Measure] = {
        ("", "accuracy"): lambda rows: sklearn_metrics.accuracy_score(rows.label, rows.prediction),
        ("", "log_loss"): lambda rows: sklearn_metrics.log_loss(
            rows.label, np.stack(rows.probability), labels=[0, 1, 2]
        ),
        ("", "weighted_precision"): averaged(sklearn_metrics.precision_score),
        ("", "weighted_recall"): averaged(sklearn_metrics.recall_score),
        ("", "f1"): averaged(sklearn_metrics.f1_score),
    }
    for index, name in enumerate(CLASSES):
        measures[name, "precision"] = of_class(sklearn_metrics.precision_score, index)
        measures[name, "recall"] = of_class(sklearn_metrics.recall_score, index)
        measures[name, "f1"] = of_class(sklearn_metrics.f1_score, index)
    return measures


@pytest.mark.parametrize("partitions", [2, 7])
def test_multiclass_metrics_agree_with_scikit_learn_in_every_slice(
    spark: SparkSession, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.ranks.ROWS_PER_RANGE", 100)
    data = sliced(classified(600))
    found = multiclass(frame(spark, data, partitions), classes=CLASSES, key=["id"], slices=["carrier", "hour"])
    expect(found, data, multiclass_measures(), 1e-12)


def predicted(rows: int) -> pd.DataFrame:
    """Labels far from 0 next to their spread, and one slice (hour 9.5) of a single row."""
    generator = np.random.default_rng(5)
    label = 1e6 + generator.gamma(2.0, 3.0, rows)
    prediction = label + generator.normal(0.5, 1.0, rows)
    return pd.DataFrame({"id": range(rows), "label": label, "prediction": prediction})


@pytest.mark.parametrize("partitions", [2, 7])
def test_regression_metrics_agree_with_scikit_learn_in_every_slice(
    spark: SparkSession, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """r2 loses digits to the offset of the label in any formula: equal to 1e-9 there."""
    monkeypatch.setattr("models.ranks.ROWS_PER_RANGE", 100)
    data = sliced(predicted(700))
    found = regression(frame(spark, data, partitions), key=["id"], slices=["carrier", "hour"])
    quantiles = [m for m in found if m.metric.startswith("error_p")]
    measures: dict[str, Measure] = {
        "rmse": lambda rows: sklearn_metrics.root_mean_squared_error(rows.label, rows.prediction),
        "mae": lambda rows: sklearn_metrics.mean_absolute_error(rows.label, rows.prediction),
        "mse": lambda rows: sklearn_metrics.mean_squared_error(rows.label, rows.prediction),
        "mean_error": lambda rows: (rows.prediction - rows.label).mean(),
        "r2": lambda rows: sklearn_metrics.r2_score(rows.label, rows.prediction) if len(rows) > 1 else math.nan,
    }
    others = [m for m in found if m not in quantiles]
    expect(others, data, {("", name): measure for name, measure in measures.items()}, 1e-9)
    error = data.prediction - data.label
    assert [(m.metric, m.value, m.rows) for m in quantiles] == [
        (f"error_p{share:02}", pytest.approx(np.quantile(error, share / 100), rel=1e-12), 700)
        for share in (5, 25, 50, 75, 95)
    ]


def test_intervals_of_sums_agree_with_numpy(spark: SparkSession) -> None:
    data = predicted(200)
    counts = poisson_weights(spark, data, 40)
    found = {m.metric: (m.low, m.high) for m in regression(frame(spark, data), key=["id"], bootstrap=40)}
    weights = list(counts.T)
    squared = [sklearn_metrics.root_mean_squared_error(data.label, data.prediction, sample_weight=w) for w in weights]
    explained = [sklearn_metrics.r2_score(data.label, data.prediction, sample_weight=w) for w in weights]
    assert found["rmse"] == pytest.approx(tuple(np.quantile(squared, [0.025, 0.975])), rel=1e-12)
    assert found["r2"] == pytest.approx(tuple(np.quantile(explained, [0.025, 0.975])), rel=1e-9)


@pytest.mark.quick
def test_values_that_look_like_our_own_names_join_them(spark: SparkSession) -> None:
    """No slice appears twice: "(none)" counts as missing, "(others)" as one of the others."""
    data = scored(6).assign(tail=["x", "(none)", None, "(others)", "x", "x"], label=[0.0, 1.0] * 3)
    found = binary(frame(spark, data), threshold=0.3, key=["id"], slices=["tail"])
    assert [(m.value_of_slice, m.rows) for m in found if m.metric == "accuracy" and m.slice] == [
        ("x", 3), ("(others)", 1), ("(none)", 2),
    ]  # fmt: skip


def test_rare_slice_values_are_measured_together(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values are slices of their own: the ones with most rows, of equally many the first by name."""
    monkeypatch.setattr("models.slices.MOST_VALUES", 2)
    data = scored(10).assign(tail=["x", "x", "x", "d", "d", "c", "c", "b", None, "(others)"])
    found = binary(frame(spark, data), threshold=0.3, key=["id"], slices=["tail"])
    assert [(m.value_of_slice, m.rows) for m in found if m.metric == "accuracy" and m.slice] == [
        ("c", 2), ("x", 3), ("(others)", 4), ("(none)", 1),
    ]  # fmt: skip


@pytest.mark.quick
def test_a_prediction_that_is_no_number_is_refused(spark: SparkSession) -> None:
    data = spark.createDataFrame([(1, 2.0, 1.5), (2, 3.0, math.inf)], "id int, label double, prediction double")
    with pytest.raises(ModelError) as refused:
        regression(data.repartition(2), key=["id"])
    assert str(refused.value) == (
        "The model gave no finite prediction for 1 of 2 rows; expected one for each."
        " Check the features of those rows for infinities, and the candidate's parameters."
    )
    with pytest.raises(ModelError, match="There are 0 rows to measure a model on; expected some"):
        regression(data.where(F.lit(False)), key=["id"])
