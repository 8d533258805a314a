"""Where a search looks: estimators, their grids and spaces, and how points are drawn from spaces."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from conf.values import Name, Number, Spec, as_tuple


class Range(Spec):
    """Numbers to draw from, ends included: whole ones where both ends are written as whole numbers; on a log scale as many between 1 and 10
    as between 10 and 100."""

    low: Number = Field(alias="from")
    high: Number = Field(alias="to")
    scale: Literal["linear", "log"] = "linear"

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @model_validator(mode="after")
    def _ascending(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"expected `from` below `to`, found {self.low} and {self.high}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"a log scale has no zero: expected `from` above 0, found {self.low}")
        return self


Values = Annotated[tuple[Any, ...], BeforeValidator(as_tuple), Field(min_length=1)]
# Told apart by what they are written as, so that an error is about one of them.
Dimension = Annotated[
    Annotated[Range, Tag("a range")] | Annotated[Values, Tag("values")],
    Discriminator(lambda value: "a range" if isinstance(value, (dict, Range)) else "values"),
]


class Candidate(Spec):
    """An estimator and where to look: every point of a `grid`, or as many points of a `space` as `train.search` allows.

    `estimator` is a short name or a dotted path to a `pyspark.ml` estimator; `params` are fixed. With `halving`, boosted trees are judged
    after parts of their rounds, and one point in so many goes on with so many times its rounds.
    """

    estimator: str
    grid: dict[Name, Values] = {}
    space: dict[Name, Dimension] = {}
    params: dict[Name, Any] = {}
    halving: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Candidate:
        if self.grid and self.space:
            raise ValueError("a candidate has a grid or a space: move the values of the grid into the space, as lists")
        return self


Candidates = Annotated[
    Annotated[dict[Name, Candidate], Field(min_length=1), Tag("candidates")]
    | Annotated[Literal["auto"], Tag("a word")],
    Discriminator(lambda value: "a word" if isinstance(value, str) else "candidates"),
]


class Search(Spec):
    """How points are drawn from spaces: `trials` points for each candidate, `at_once` before their scores guide the next.

    Once `minutes` have passed since this process began to search, a candidate is given no more than its first round.
    """

    method: Literal["random", "bayesian", "evolutionary"] = "bayesian"
    trials: Annotated[int, Field(ge=1)] = 32
    at_once: Annotated[int, Field(ge=1)] = 8
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
