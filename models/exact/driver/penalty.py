"""What of one model the grid changes: the penalty of a linear or logistic regression, as MLlib's parameters name it."""

from __future__ import annotations

from dataclasses import dataclass

from transforms.errors import ConfigError


@dataclass(frozen=True)
class Penalty:
    """One column of a batch of models.

    The penalty is `reg_param` times (`elastic_net_param` times the absolute values + (1 - `elastic_net_param`) / 2 times the
    squares) of the coefficients, the intercept free.

    Attributes:
        reg_param: at least 0.
        elastic_net_param: in [0, 1]: 0 is ridge, 1 is lasso.
        fit_intercept: whether there is an intercept.
        standardization: whether the penalty is on the coefficients of the standardised features.

    Raises:
        ConfigError: a number is out of range.
    """

    reg_param: float = 0.0
    elastic_net_param: float = 0.0
    fit_intercept: bool = True
    standardization: bool = True

    def __post_init__(self) -> None:
        # Written so that NaN is refused too.
        if not self.reg_param >= 0:
            raise ConfigError(f"regParam must be at least 0, but got {self.reg_param}.")
        if not 0 <= self.elastic_net_param <= 1:
            raise ConfigError(f"elasticNetParam must be in range [0, 1], but got {self.elastic_net_param}.")

    @property
    def l1(self) -> float:
        """Factor of the absolute values."""
        return self.reg_param * self.elastic_net_param

    @property
    def l2(self) -> float:
        """Factor of half the squares."""
        return self.reg_param * (1 - self.elastic_net_param)
