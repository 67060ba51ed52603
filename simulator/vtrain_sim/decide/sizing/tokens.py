"""How many tokens a model of a size is trained on: what a scaling law says, over-training, and serving."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vtrain_sim.decide.sizing.laws import SERVING_FLOPS, TRAINING_FLOPS, LossLaw, ScalingLaw
from vtrain_sim.errors import UserError
from vtrain_sim.specs.checks import Range

_RATIO, _SERVED, _SHARE = Range(1e-3, 1e9), Range(1.0, 1e21), Range(1e-4, 1.0)


@dataclass(frozen=True)
class TokenRule:
    """The training tokens of a model by its parameters (those that a token uses).

    tokens_per_parameter: instead of the law's; 0: the law's. served: tokens in and out over the model's life, whose
    cost is weighed against that of training; 0: none. inference_mfu: share of the devices' peak at which they are
    served; 0: a FLOP of serving counts as one of training.
    """

    law: ScalingLaw
    tokens_per_parameter: float = 0.0
    served: float = 0.0
    inference_mfu: float = 0.0

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("--tokens-per-parameter", self.tokens_per_parameter, _RATIO),
            ("--inference-tokens", self.served, _SERVED),
            ("--inference-mfu", self.inference_mfu, _SHARE),
        ):
            if value != 0:
                allowed.check(option, value)
        if self.inference_mfu and not self.served:
            raise UserError(
                "--inference-mfu needs --inference-tokens: the tokens that are served over the model's life"
            )
        if self.served and self.tokens_per_parameter:
            raise UserError("--tokens-per-parameter and --inference-tokens both choose the tokens: give one")
        if self.served and not isinstance(self.law, LossLaw):
            raise UserError(
                f"--inference-tokens needs a scaling law that says the loss, which {self.law.name} does not: "
                "give --law besiroglu or hoffmann-approach-3, or coefficients E, A, B, alpha and beta"
            )

    @property
    def source(self) -> str:
        """Where the number of tokens comes from, in words."""
        if self.tokens_per_parameter:
            return f"{self.tokens_per_parameter:g} tokens per parameter, as given"
        if not self.served:
            return self.law.source
        at = f" at an MFU of {self.inference_mfu:.3g}" if self.inference_mfu else ""
        return (
            f"{self.law.source}; with least training and serving of {self.served:.3g} tokens{at} for its loss "
            "(Sardana et al. 2024, arXiv:2401.00448, section 2)"
        )

    def tokens(self, parameters: float, mfu: float = 1.0) -> float:
        """Training tokens. mfu: that of training, which weighs where `inference_mfu` is given.

        Raises `UserError` where a law of the user's own gives no number.
        """
        try:
            tokens = self._tokens(parameters, mfu)
        except (OverflowError, ZeroDivisionError):
            tokens = math.inf
        if not 0 < tokens < math.inf:
            raise UserError(f"law {self.law.name} gives no finite number of tokens for {parameters:.3g} parameters")
        return tokens

    def _tokens(self, parameters: float, mfu: float) -> float:
        if self.tokens_per_parameter:
            return self.tokens_per_parameter * parameters
        if self.served and isinstance(self.law, LossLaw):
            weight = mfu / self.inference_mfu if self.inference_mfu else 1.0
            return self.law.tokens_to_serve(parameters, self.served, weight)
        return self.law.tokens(parameters)

    def loss(self, parameters: float, tokens: float) -> float | None:
        """Loss by the law, nats per token; None where it says none."""
        return self.law.loss(parameters, tokens) if isinstance(self.law, LossLaw) else None

    def training_flops(self, parameters: float) -> float:
        """FLOPs of a training at the devices' peak."""
        return TRAINING_FLOPS * parameters * self.tokens(parameters)

    def serving_flops(self, parameters: float) -> float:
        """FLOPs of serving over the model's life."""
        return SERVING_FLOPS * parameters * self.served

    def largest_parameters(self, flops: float) -> float:
        """Parameters of the model whose training takes so many FLOPs, which grow with its size."""
        low, high = 0.0, math.log(1e18)
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (low, middle) if self.training_flops(math.exp(middle)) > flops else (middle, high)
        return math.exp((low + high) / 2)
