"""What failures and checkpoints add to a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vtrain_sim.errors import UserError
from vtrain_sim.specs.checks import Range, SpecError

_HOURS, _CHECKPOINT, _SECONDS = Range(1e-3, 1e12), Range(1e-3, 1e9), Range(0.0, 1e9)


@dataclass(frozen=True)
class Failures:
    """How often things break, and what that costs.

    gpu_mtbf_hours: mean time between failures of one GPU (with its share of the node and network).
    checkpoint_s: time to write a checkpoint, training stopped. restart_s: from a failure until training
    goes on. interval_s: time between checkpoints; 0: the best one.
    """

    gpu_mtbf_hours: float
    checkpoint_s: float = 60.0
    restart_s: float = 600.0
    interval_s: float = 0.0

    def __post_init__(self) -> None:
        _HOURS.check("--gpu-mtbf-hours", self.gpu_mtbf_hours)
        _CHECKPOINT.check("--checkpoint-seconds", self.checkpoint_s)
        _SECONDS.check("--restart-seconds", self.restart_s)
        _SECONDS.check("--checkpoint-interval", self.interval_s)

    def best_interval_s(self, gpus: int) -> float:
        """Interval that loses least: sqrt(2 x checkpoint x time between failures) (Young 1974), with the
        higher-order term of Daly 2006, eq. 37."""
        between = self._between_s(gpus)
        if self.checkpoint_s >= 2 * between:
            return between
        ratio = math.sqrt(self.checkpoint_s / (2 * between))
        return math.sqrt(2 * self.checkpoint_s * between) * (1 + ratio / 3 + ratio**2 / 9) - self.checkpoint_s

    def stretch(self, gpus: int) -> float:
        """Expected duration over that without failures or checkpoints (Daly 2006, eq. 20): failures come
        as a Poisson process, also while a checkpoint is written or training restarts. May be infinite."""
        between = self._between_s(gpus)
        interval = self.interval_s or self.best_interval_s(gpus)
        exponent = (interval + self.checkpoint_s) / between
        if exponent > 500 or self.restart_s / between > 500:
            return math.inf
        return between * math.exp(self.restart_s / between) * math.expm1(exponent) / interval

    def _between_s(self, gpus: int) -> float:
        if gpus < 1:
            raise SpecError(f"{gpus} GPUs cannot fail: it must be 1 or more")
        return self.gpu_mtbf_hours * 3600 / gpus


def failures_given(mtbf_hours: float, checkpoint_s: float, restart_s: float, interval_s: float) -> Failures | None:
    """Failures, where the time between them is given. Raises `UserError` for what they cost without it."""
    if mtbf_hours:
        return Failures(mtbf_hours, checkpoint_s, restart_s, interval_s)
    for flag, given, usual in (
        ("--checkpoint-interval", interval_s, Failures.interval_s),
        ("--checkpoint-seconds", checkpoint_s, Failures.checkpoint_s),
        ("--restart-seconds", restart_s, Failures.restart_s),
    ):
        if given != usual:
            raise UserError(
                f"{flag} needs --gpu-mtbf-hours: without failures no checkpoint is written, and nothing starts again"
            )
    return None
