"""What plans are ranked by, from seconds of a step: days, dollars and MFU, many at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vtrain_sim.decide.evaluated import Booleans, Figures, Floats
from vtrain_sim.decide.failures import Failures
from vtrain_sim.simulate.result import days_to_train, dollars, share_of_peak
from vtrain_sim.specs import ClusterSpec
from vtrain_sim.specs.checks import SpecError

RANKINGS = ("days", "dollars", "time", "mfu")


@dataclass(frozen=True)
class Objective:
    """tokens: to train on, 0: only steps are compared. rank_by: one of `RANKINGS`. deadline_days: 0: none."""

    cluster: ClusterSpec
    rank_by: str
    tokens: float = 0.0
    deadline_days: float = 0.0
    failures: Failures | None = None

    def __post_init__(self) -> None:
        if self.rank_by == "dollars" and not self.cluster.price_per_gpu_hour:
            raise SpecError(
                "--rank-by dollars needs the price of a GPU-hour, of which nothing is known: --price-per-gpu-hour says "
                "it, or price_per_gpu_hour of the cluster"
            )

    def figures(
        self, gpus: Floats, tokens: Floats, model_flops: Floats, peak_flops: Floats, seconds: Floats, nbytes: Floats
    ) -> Figures:
        """[configurations] of steps of so many tokens and model FLOPs on GPUs of so many FLOP/s; nbytes: of memory."""
        steps = self.tokens / tokens if self.tokens else np.ones(len(seconds))
        days = days_to_train(steps, seconds)
        if self.failures is not None:
            counts, which = np.unique(gpus, return_inverse=True)
            days = days * np.array([self.failures.stretch(int(n)) for n in counts])[which]
        with np.errstate(invalid="ignore"):  # a run that never ends, at no price
            cost = dollars(days, gpus, self.cluster)
        return Figures(seconds, days, cost, share_of_peak(model_flops, gpus, peak_flops, seconds), nbytes)

    def key(self, figures: Figures) -> Floats:
        """What plans are sorted by, the smallest first: it grows with the seconds of a step."""
        keys = {"time": figures.seconds, "days": figures.days, "dollars": figures.dollars, "mfu": -figures.mfu}
        return keys[self.rank_by]

    def in_time(self, figures: Figures) -> Booleans:
        """[configurations] which end, and before the deadline where there is one."""
        ends: Booleans = np.isfinite(figures.days) & (figures.days <= (self.deadline_days or math.inf))
        return ends
