"""ElasticFlow (Gu et al., ASPLOS 2023), with one plan replicated and with the best plan at each number of GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.decide.fleet import elastic
from vtrain_sim.decide.fleet.policies.base import ClusterPolicy, Jobs, Scheduler, by_arrival
from vtrain_sim.decide.fleet.queue import Queue
from vtrain_sim.decide.fleet.running import Allocation, Running


class ElasticFlow(Scheduler):
    """As `vtrain_sim.decide.fleet.elastic`: what is reserved, and what is left to whom it helps most."""

    _next_step_s = float("inf")

    def admit(self, jobs: Sequence[Running], new: Running, now: float) -> bool:
        """Only with GPUs reserved to its deadline."""
        return elastic.admit(jobs, new, now, self.site)

    def allocate(self, running: Jobs, waiting: Queue, now: float) -> Allocation:
        """The GPUs reserved until the next step of any job, and the free ones."""
        jobs = sorted((*running.values(), *waiting), key=by_arrival)
        given = elastic.allocate(jobs, now, self.site)
        self._next_step_s = elastic.next_step(jobs)
        return given

    def wakes(self, running: Jobs, waiting: Queue, now: float) -> float:
        """When what is reserved changes next."""
        return self._next_step_s

    def changed(self, jobs: Sequence[Running], now: float) -> None:
        """Reserve anew; who can no longer be promised its deadline has what is left."""
        elastic.reserve_again(jobs, now, self.site)


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
