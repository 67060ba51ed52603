"""Which jobs get how many GPUs: FIFO, shortest remaining time, earliest deadline, elastic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vtrain_sim.decide.fleet import elastic
from vtrain_sim.decide.fleet.running import Allocation, Running, Site


def first_in_first_out(jobs: Sequence[Running], now: float, site: Site) -> Allocation:
    """In order of arrival, each with the GPUs that it requested; who runs goes on, who does not fit blocks."""
    free = site.capacity - sum(r.gpus for r in jobs)
    given = {r.job.job_id: r.gpus for r in jobs if r.gpus}
    for r in jobs:  # by arrival
        if r.gpus:
            continue
        if r.requested > free:
            break
        given[r.job.job_id] = r.requested
        free -= r.requested
    return given


def shortest_remaining_time(jobs: Sequence[Running], now: float, site: Site) -> Allocation:
    """Preemptive: the jobs that would end soonest on the GPUs that they requested."""
    return _in_order(sorted(jobs, key=lambda r: (r.remaining * r.seconds(r.requested), r.job.job_id)), site.capacity)


def earliest_deadline(jobs: Sequence[Running], now: float, site: Site) -> Allocation:
    """Preemptive: the jobs whose deadline is nearest, on the GPUs that they requested."""
    return _in_order(sorted(jobs, key=lambda r: (r.job.deadline_s, r.job.arrival_s, r.job.job_id)), site.capacity)


def _in_order(jobs: Sequence[Running], capacity: int) -> Allocation:
    given: Allocation = {}
    for r in jobs:
        if r.requested <= capacity:
            given[r.job.job_id] = r.requested
            capacity -= r.requested
            if not capacity:
                break
    return given


@dataclass(frozen=True)
class Policy:
    """allocate: GPUs of each job. plans: speeds from the best plan of each GPU count, else from one plan
    replicated. admission: jobs that would break a deadline are rejected. as_requested: a job has the GPUs that its
    trace says, else the policy chooses."""

    allocate: Callable[[Sequence[Running], float, Site], Allocation]
    plans: bool
    admission: bool
    says: str
    as_requested: bool = False


POLICIES = {
    "fifo": Policy(first_in_first_out, True, False, "in order of arrival", as_requested=True),
    "srtf": Policy(shortest_remaining_time, True, False, "shortest remaining time first", as_requested=True),
    "edf": Policy(earliest_deadline, True, False, "earliest deadline first", as_requested=True),
    "elasticflow": Policy(elastic.allocate, False, True, "ElasticFlow, one plan replicated"),
    "elastic-plans": Policy(elastic.allocate, True, True, "ElasticFlow, the best plan at each GPU count"),
}
