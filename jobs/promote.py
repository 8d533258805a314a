"""The job `promote`: the newest model becomes champion when it earns it, and the decision is written down either way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from conf.schema import SMALLER_IS_BETTER, Pipeline
from jobs.runs import Attempt, Ledger, Outcome, Run, Stage, stage
from transforms import contracts
from transforms.errors import ContractError, ModelError, RefusedError

if TYPE_CHECKING:
    from models.registry import Registry

JOB = "promote"


@dataclass(frozen=True)
class Decision:
    """What was decided of a challenger. Numbers are model versions; `reason` is a sentence."""

    challenger: int
    champion_before: int | None
    champion_after: int | None
    promoted: bool
    reason: str


def run(run: Run) -> Outcome:
    """Judge the model that `evaluate` measured, write the decision to the releases, then move the alias `champion`.

    The row comes first: killed between the two, the next run moves the alias that the row names.

    Raises:
        ModelError: the challenger misses the floor and there is no champion.
        RefusedError: the alias was moved after the evaluation.
    """
    pipeline = run.pipeline
    evaluated = run.ledger.require("evaluate", run.run_date)
    judged = {name: evaluated.details[name] for name in ("model_version", "evaluation")}
    specs = [pipeline.promote, pipeline.evaluate.floor, pipeline.train.metric, judged]
    return stage(
        run, JOB, specs=specs, inputs=evaluated.outputs, body=lambda attempt: _promote(run, evaluated, attempt)
    )


def decide(pipeline: Pipeline, evaluation: Mapping[str, Any], champion: int | None) -> Decision:
    """Whether the challenger becomes champion: it reaches the floor, and beats the champion on the same test rows.

    Args:
        evaluation: details of the stage `evaluate`.
        champion: version that has the alias now.

    Raises:
        ModelError: a metric that the decision needs was not measured.
    """
    challenger = int(evaluation["model_version"])
    metrics = evaluation["metrics"]
    if champion == challenger:
        return Decision(challenger, champion, champion, False, f"Version {challenger} is champion already.")
    missed = _below_floor(pipeline.evaluate.floor, metrics, challenger)
    if missed:
        reason = f"Version {challenger} is not promoted: it misses the floor ({'; '.join(missed)})."
        return Decision(challenger, champion, champion, False, reason)
    promoted, why = _beats(pipeline, evaluation, champion)
    after = challenger if promoted else champion
    return Decision(
        challenger, champion, after, promoted, f"Version {challenger} is {'' if promoted else 'not '}promoted: {why}."
    )


def _below_floor(floor: Mapping[str, float], metrics: Mapping[str, Any], challenger: int) -> list[str]:
    """A phrase for each metric on the wrong side of its floor."""
    _require(floor, metrics, f"version {challenger}")
    phrases = []
    for name, bound in floor.items():
        smaller = name in SMALLER_IS_BETTER
        if metrics[name] > bound if smaller else metrics[name] < bound:
            phrases.append(f"{name} {metrics[name]:.6g}, expected at {'most' if smaller else 'least'} {bound:g}")
    return phrases


def _beats(pipeline: Pipeline, evaluation: Mapping[str, Any], champion: int | None) -> tuple[bool, str]:
    name, margin = pipeline.train.metric, pipeline.promote.beat_champion_by
    _require([name], evaluation["metrics"], f"version {evaluation['model_version']}")
    value = evaluation["metrics"][name]
    if champion is None:
        return True, f"{name} {value:.6g} on the test rows, and there was no champion"
    if not evaluation.get("champion_metrics"):
        return True, (
            f"{name} {value:.6g} on the test rows; the champion, version {champion}, was made for another feature table"
            " and cannot predict these rows"
        )
    _require([name], evaluation["champion_metrics"], f"the champion, version {champion}")
    standing = evaluation["champion_metrics"][name]
    gain = standing - value if name in SMALLER_IS_BETTER else value - standing
    beaten = gain > margin
    by = f"{'' if beaten else 'not '}better{f' by more than {margin:g}' if margin else ''}"
    seen = ", which was trained on some of them" if evaluation.get("champion_trained_on_test_rows") else ""
    why = f"{name} {value:.6g} on the test rows is {by} than {standing:.6g} of the champion, version {champion}{seen}"
    return beaten, why


def _require(names: Mapping[str, float] | list[str], metrics: Mapping[str, Any], of: str) -> None:
    absent = [name for name in names if metrics.get(name) is None or not math.isfinite(metrics[name])]
    if absent:
        raise ModelError(
            f"promote: expected {', '.join(absent)} of {of} on the test rows, found no such number."
            f" Measured were {', '.join(sorted(metrics))}; correct evaluate.floor or train.metric, then run evaluate again."
        )


def _promote(run: Run, evaluated: Stage, attempt: Attempt) -> Outcome:
    # Imported here: MLflow takes seconds that a run with nothing to do need not wait.
    from models.registry import Registry

    registry = Registry(run.environment.tracking_uri, f"{run.environment.lake}/models")
    name = run.pipeline.pipeline
    standing = registry.champion(name)
    champion = standing.version if standing else None
    _refuse_moved(evaluated.details, champion)
    made = decide(run.pipeline, evaluated.details, champion)
    tables = versions_behind(run.ledger, made.challenger, evaluated)
    row = {
        **asdict(made),
        "decision": f"{attempt.fingerprint}-{attempt.number}",
        "tables": tables,
        "recorded_at": datetime.now(UTC),
    }
    releases = contracts.releases(name)
    frame = run.spark.createDataFrame([row], releases.schema).coalesce(1)
    commit = run.lake.append(frame, releases, attempt.transaction(releases), asdict(made))
    # Of a commit that was there already, the decision written then counts, not the one made now.
    decision = Decision(**{field: commit.metadata[field] for field in asdict(made)})
    if decision.champion_after is None:
        raise ModelError(
            f"{decision.reason} There is no champion either, so nothing can be scored. Improve the model or lower evaluate.floor."
        )
    run.lake.may_commit()
    champion = _move_alias(registry, name, decision, champion)
    return Outcome(
        JOB,
        inputs=dict(evaluated.outputs),
        outputs={commit.table: commit.version},
        details={"promoted": decision.promoted, "champion": champion, "reason": decision.reason},
    )


def _move_alias(registry: Registry, name: str, decision: Decision, champion: int | None) -> int | None:
    """Give the alias to the promoted version, unless a later decision has moved it since; returns the champion."""
    if not decision.promoted or champion != decision.champion_before:
        return champion
    registry.set_champion(name, decision.challenger)
    return decision.challenger


def _refuse_moved(evaluation: Mapping[str, Any], champion: int | None) -> None:
    measured = evaluation.get("champion_version")
    if champion not in (measured, evaluation["model_version"]):
        raise RefusedError(
            f"promote: expected the champion that evaluate measured (version {measured}), found version {champion}:"
            " the alias was moved since. Run `millrace evaluate --force`, then promote again."
        )


def training(ledger: Ledger, version: int) -> Stage:
    """The stage that made a model version.

    Raises:
        ContractError: the ledger does not know it.
    """
    found = [done for done in ledger.stages() if done.job == "train" and done.details.get("model_version") == version]
    if not found:
        raise ContractError(
            f"The ledger of this lake has no training of model version {version}. Expected the lake that the model was trained in;"
            " check `lake` and `mlflow` in the environment file."
        )
    return found[-1]


def versions_behind(ledger: Ledger, version: int, evaluated: Stage) -> dict[str, int]:
    """Exact versions of every table behind a model: silver, features, labels, membership, trials, out-of-fold, metrics."""
    trained = training(ledger, version)
    tables = {**trained.inputs, **trained.outputs, **evaluated.inputs, **evaluated.outputs}
    made = [s for s in ledger.stages() if s.job == "features" and s.outputs.items() <= trained.inputs.items()]
    return {**(made[-1].inputs if made else {}), **tables}
