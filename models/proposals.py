"""Points of a search space, proposed in rounds by Optuna's samplers; the scores of one round guide the next. No Spark.

Equal seeds and equal scores give equal proposals: a search that was killed is proposed what it was before, and finds its trials done.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from conf.candidates import Range

# Points before scores count: Optuna's defaults, 10 and 50, would leave most of a usual search to chance.
BEGINNING = 8
# Points in a row that were drawn before: after a few others are drawn by chance, and after so many the space holds no more.
FEW_IN_VAIN, MOST_IN_VAIN = 10, 1_000


class Proposals:
    """Args:
    space: for each parameter a range, or values to choose from.
    method: `random`, `bayesian` (tree-structured Parzen estimators: Bergstra et al., "Algorithms for hyper-parameter
        optimization", 2011) or `evolutionary` (NSGA-II: Deb et al., 2002).
    """

    def __init__(
        self, space: Mapping[str, Range | tuple[Any, ...]], method: str, seed: int, *, larger_is_better: bool
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = {name: _distribution(values) for name, values in space.items()}
        self._values = {name: values for name, values in space.items() if isinstance(values, tuple)}
        direction = StudyDirection.MAXIMIZE if larger_is_better else StudyDirection.MINIMIZE
        self._sampler, self._by_chance = _sampler(method, seed), RandomSampler(seed=seed)
        self._study = optuna.create_study(direction=direction, sampler=self._sampler)
        self._asked: list[Trial] = []
        self._seen: set[tuple[Any, ...]] = set()

    def ask(self, count: int) -> list[dict[str, Any]]:
        """The next points, none of them for the second time: fewer, or none, where a small space seems to hold no more. Tell their scores
        before asking again."""
        self._asked, in_vain = [], 0
        while len(self._asked) < count and in_vain < MOST_IN_VAIN:
            # What is drawn again and again is what the sampler thinks best: the rest is found by chance.
            self._study.sampler = self._sampler if in_vain < FEW_IN_VAIN else self._by_chance
            trial = self._study.ask(self._space)
            point = tuple(trial.params[name] for name in self._space)
            if point in self._seen:
                self._study.tell(trial, state=TrialState.FAIL)
                in_vain += 1
                continue
            self._seen.add(point)
            self._asked.append(trial)
            in_vain = 0
        return [{name: self._value(name, trial.params[name]) for name in self._space} for trial in self._asked]

    def tell(self, scores: Sequence[float], shares: Sequence[float] = ()) -> None:
        """The scores of the points asked last, in their order; NaN for one that failed.

        Args:
            shares: of their rounds that the scores are of, 1 for all. What has a score of a part was stopped, for others promised more: it
                counts as no better than any of these that was not.
        """
        shares = shares or [1.0] * len(scores)
        whole = [score for score, share in zip(scores, shares, strict=True) if share == 1 and not math.isnan(score)]
        worst = min if self._study.direction == StudyDirection.MAXIMIZE else max
        for trial, score, share in zip(self._asked, scores, shares, strict=True):
            if math.isnan(score):
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, float(score if share == 1 else worst([score, *whole])))

    def _value(self, name: str, drawn: Any) -> Any:
        return self._values[name][drawn] if name in self._values else drawn


def _distribution(values: Range | tuple[Any, ...]) -> BaseDistribution:
    if isinstance(values, tuple):
        return CategoricalDistribution(range(len(values)))  # values may be lists, which Optuna would not take
    log = values.scale == "log"
    if values.is_whole:
        return IntDistribution(int(values.low), int(values.high), log=log)
    return FloatDistribution(float(values.low), float(values.high), log=log)


def _sampler(method: str, seed: int) -> BaseSampler:
    if method == "random":
        return RandomSampler(seed=seed)
    if method == "evolutionary":
        return NSGAIISampler(population_size=BEGINNING, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Of points asked together each one counts as bad for the next, so that they do not all lie in one place.
        return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=BEGINNING)
