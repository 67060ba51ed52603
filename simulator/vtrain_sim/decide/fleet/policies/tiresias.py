"""Tiresias-L: discretised two-dimensional least attained service (Gu et al., NSDI 2019).

A job's attained service is its GPUs times the time that it has had them, so no duration need be known. Service is
discretised into two queues, since an order by service itself would preempt all the time: a job begins in the first
queue, and leaves it for the second, for good, once it has had the service of the threshold. Jobs of the first queue go
first, preempting those of the second; within a queue, in order of arrival.

The paper sets thresholds by the jobs that a cluster has seen: here it is the median of the GPU-seconds that the jobs of
the trace request. Left out: the Gittins index, which needs the distribution of service; the promotion of jobs that
starve (PROMOTEKNOB); the profile of a model's tensors that decides whether it must be consolidated, for which
``--placement`` stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vtrain_sim.decide.fleet.policies.base import ClusterPolicy, Jobs
from vtrain_sim.decide.fleet.policies.in_order import Preempting
from vtrain_sim.decide.fleet.queue import Key, Queue
from vtrain_sim.decide.fleet.running import Running, Site

# Service nearer to the threshold than this part of it is rounding.
_ROUNDING = 1e-9


class LeastAttainedService(Preempting):
    """Two queues. threshold: GPU-seconds of service after which a job is in the second."""

    def __init__(self, site: Site, jobs: Sequence[Running]) -> None:
        super().__init__(site, jobs)
        wanted = [r.remaining * r.seconds(r.requested) * r.requested for r in jobs]
        self.threshold = float(np.median(wanted)) if wanted else math.inf

    def key(self, r: Running) -> Key:
        """The queue, then the arrival."""
        return int(self._is_demoted(r)), r.job.arrival_s, r.job.job_id

    def wakes(self, running: Jobs, waiting: Queue, now: float) -> float:
        """When the next job leaves the first queue, if that matters to any that waits."""
        if not len(waiting):
            return math.inf
        first = (r for r in running.values() if not self._is_demoted(r))
        return min((now + (self.threshold - r.served) / r.gpus for r in first), default=math.inf)

    def _is_demoted(self, r: Running) -> bool:
        return r.served >= self.threshold * (1 - _ROUNDING)


TIRESIAS = ClusterPolicy(
    "tiresias",
    "Tiresias-L: least attained service, in two queues",
    "Gu et al., NSDI 2019",
    LeastAttainedService,
)
