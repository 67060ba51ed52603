"""What a scaling law knows: how many tokens a model of a size should see."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from vtrain_sim.specs.checks import SpecError, finite

# Training FLOPs per parameter and token: a multiply-add counts two, and there are three passes (Kaplan et al. 2020,
# arXiv:2001.08361, section 2.1).
TRAINING_FLOPS = 6.0
# Of them the forward pass, which is all that serving a token takes.
SERVING_FLOPS = 2.0


@dataclass(frozen=True)
class ScalingLaw(ABC):
    """A rule for the training tokens of a model.

    source: publication, table or equation. equation: what it says, with its coefficients.
    """

    name: str
    source: str

    @property
    @abstractmethod
    def equation(self) -> str:
        """The law with its coefficients, N in parameters, D in tokens, C in FLOPs."""

    @abstractmethod
    def tokens(self, parameters: float) -> float:
        """Training tokens for which this many parameters are the best use of their training FLOPs."""


@dataclass(frozen=True)
class PowerLaw(ScalingLaw):
    """tokens = coefficient x parameters ^ exponent."""

    coefficient: float
    exponent: float

    def __post_init__(self) -> None:
        _within("coefficient", self.coefficient, 1e-12, 1e12)
        _within("exponent", self.exponent, 0.01, 10.0)

    @classmethod
    def of_budget(cls, name: str, source: str, k: float, a: float) -> PowerLaw:
        """From parameters = k x FLOPs ^ a, where FLOPs are 6 per parameter and token."""
        return cls(name, source, 1 / (TRAINING_FLOPS * k ** (1 / a)), 1 / a - 1)

    @property
    def equation(self) -> str:
        """See `ScalingLaw`."""
        power = "" if self.exponent == 1 else f"^{self.exponent:.6g}"
        return f"D = {self.coefficient:.6g} N{power}"

    def tokens(self, parameters: float) -> float:
        """See `ScalingLaw`."""
        return float(self.coefficient * parameters**self.exponent)


@dataclass(frozen=True)
class LossLaw(ScalingLaw):
    """A fit of the loss, L = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, eq. 2), in nats per token."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        finite("E", self.e)
        _within("A", self.a, 1e-6, 1e12)
        _within("B", self.b, 1e-6, 1e12)
        _within("alpha", self.alpha, 0.01, 10.0)
        _within("beta", self.beta, 0.01, 10.0)

    @property
    def equation(self) -> str:
        """See `ScalingLaw`."""
        return f"L = {self.e:.6g} + {self.a:.6g} / N^{self.alpha:.8g} + {self.b:.6g} / D^{self.beta:.8g}"

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats per token of a model of so many parameters after so many tokens."""
        return float(self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta)

    def tokens(self, parameters: float) -> float:
        """Of all models with 6 N D = C the loss is least where alpha A / N^alpha = beta B / D^beta (its eq. 4)."""
        return float((self.beta * self.b / (self.alpha * self.a) * parameters**self.alpha) ** (1 / self.beta))

    def tokens_to_serve(self, parameters: float, served: float, weight: float = 1.0) -> float:
        """Training tokens of the model that reaches its loss with least training and serving.

        served: tokens in and out over the model's life. weight: cost of a FLOP of serving over that of training. Of
        all models of one loss 6 N D + weight x 2 N served is least where alpha A / N^alpha is beta B / D^beta x
        (1 + weight x served / 3 D): Lagrange's condition for what Sardana et al. 2024, arXiv:2401.00448, minimise
        (section 2; weight 1: FLOPs, another one: costs). The left side does not depend on D and the right side falls
        with it, so there is one D; without serving it is `tokens`.
        """
        wanted = self.alpha * self.a / parameters**self.alpha
        extra = weight * served * SERVING_FLOPS / TRAINING_FLOPS
        # Of (D / low)^beta = 1 + extra / D the right side is largest at D = low.
        low = math.log(self.tokens(parameters))
        high = low + math.log1p(extra / math.exp(low)) / self.beta + 1e-9
        for _ in range(200):
            middle = (low + high) / 2
            tokens = math.exp(middle)
            gain = self.beta * self.b / tokens**self.beta * (1 + extra / tokens)
            low, high = (middle, high) if gain > wanted else (low, middle)
        return math.exp((low + high) / 2)


def _within(name: str, value: object, least: float, most: float) -> None:
    finite(name, value, -math.inf)
    assert isinstance(value, (int, float))
    if not least <= value <= most:
        raise SpecError(f"{name} is {value:g}: it must be {least:g} to {most:g}")
