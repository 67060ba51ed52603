"""ElasticFlow (Gu et al., ASPLOS 2023), with one plan replicated and with the best plan at each number of GPUs."""

from __future__ import annotations

import math

from vtrain_sim.decide.fleet import elastic
from vtrain_sim.decide.fleet.policies.base import ClusterPolicy, Jobs, Scheduler
from vtrain_sim.decide.fleet.queue import Key, Queue, by_arrival
from vtrain_sim.decide.fleet.running import Allocation, Running

# In the order of jobs that wait, those with a deadline are before this.
_UNDATED: Key = (1,)


class ElasticFlow(Scheduler):
    """As `vtrain_sim.decide.fleet.elastic`: what is reserved, and what is left to whom it helps most."""

    _next_step_s = math.inf

    def key(self, r: Running) -> Key:
        """Those with a deadline, then those without, each by the GPU time left on the fewest GPUs."""
        least = r.remaining * float(self.site.seconds[r.place]) * int(self.site.charges[r.place])
        return int(math.isinf(r.job.deadline_s)), least, r.job.arrival_s, r.job.job_id

    def admit(self, running: Jobs, waiting: Queue, new: Running, now: float) -> bool:
        """Only with GPUs reserved to its deadline."""
        if math.isinf(new.job.deadline_s):
            return True
        return elastic.admit((*running.values(), *waiting.leading(0, _UNDATED)), new, now, self.site)

    def allocate(self, running: Jobs, waiting: Queue, now: float) -> Allocation:
        """The GPUs reserved until the next step of any job, and the free ones, which of the jobs without a deadline
        only so many can begin to use."""
        first = waiting.leading(self.site.capacity, _UNDATED)
        jobs = sorted((*running.values(), *first), key=by_arrival)
        given = elastic.allocate(jobs, now, self.site)
        self._next_step_s = elastic.next_step(jobs)
        return given

    def wakes(self, running: Jobs, waiting: Queue, now: float) -> float:
        """When what is reserved changes next."""
        return self._next_step_s

    def changed(self, running: Jobs, waiting: Queue, now: float, failed: bool) -> None:
        """Reserve anew; who can no longer be promised its deadline has what is left."""
        elastic.reserve_again((*running.values(), *waiting.leading(0, _UNDATED)), now, self.site, failed)


_SOURCE = "Gu et al., ASPLOS 2023"
ELASTICFLOW = ClusterPolicy(
    "elasticflow", "ElasticFlow, one plan replicated", _SOURCE, ElasticFlow, False, as_requested=False, whole_nodes=True
)
ELASTIC_PLANS = ClusterPolicy(
    "elastic-plans",
    "ElasticFlow, the best plan at each GPU count",
    f"{_SOURCE}, with plans searched as in vTrain (Bang et al., MICRO 2024)",
    ElasticFlow,
    as_requested=False,
    whole_nodes=True,
)
