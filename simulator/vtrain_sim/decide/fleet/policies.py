"""Which jobs get how many GPUs: FIFO, shortest remaining time, earliest deadline, elastic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vtrain_sim.decide.fleet import elastic
from vtrain_sim.decide.fleet.queue import Key, Queue
from vtrain_sim.decide.fleet.running import Allocation, Running, Site

Jobs = Mapping[str, Running]


def by_arrival(r: Running) -> Key:
    """First in, first out."""
    return r.job.arrival_s, r.job.job_id


def by_remaining_time(r: Running) -> Key:
    """Who would end soonest on the GPUs requested."""
    return r.remaining * r.seconds(r.requested), r.job.job_id


def by_deadline(r: Running) -> Key:
    """Whose deadline is nearest."""
    return r.job.deadline_s, r.job.arrival_s, r.job.job_id


def keeping(running: Jobs, waiting: Queue, now: float, site: Site) -> Allocation:
    """Who runs goes on; in order, each with the GPUs that it requested; who does not fit blocks those after it."""
    given = [(r, r.gpus) for r in running.values()]
    started = waiting.first((), site.capacity - sum(gpus for _, gpus in given), blocking=True)
    return given + [(r, r.requested) for r in started]


def preempting(running: Jobs, waiting: Queue, now: float, site: Site) -> Allocation:
    """In order, running or not, each with the GPUs that it requested, if they are free."""
    return [(r, r.requested) for r in waiting.first(running.values(), site.capacity, blocking=False)]


def elastically(running: Jobs, waiting: Queue, now: float, site: Site) -> Allocation:
    """As `elastic.allocate`."""
    return elastic.allocate(sorted((*running.values(), *waiting), key=by_arrival), now, site)


@dataclass(frozen=True)
class Policy:
    """allocate: GPUs of each job, of those that run and those that wait. plans: speeds from the best plan of each GPU
    count, else from one plan replicated. admission: jobs that would break a deadline are rejected. as_requested: a job
    has the GPUs that its trace says, else the policy chooses. order: in which jobs wait."""

    allocate: Callable[[Jobs, Queue, float, Site], Allocation]
    plans: bool
    admission: bool
    says: str
    as_requested: bool = False
    order: Callable[[Running], Key] = by_arrival


POLICIES = {
    "fifo": Policy(keeping, True, False, "in order of arrival", as_requested=True),
    "srtf": Policy(preempting, True, False, "shortest remaining time first", True, by_remaining_time),
    "edf": Policy(preempting, True, False, "earliest deadline first", True, by_deadline),
    "elasticflow": Policy(elastically, False, True, "ElasticFlow, one plan replicated"),
    "elastic-plans": Policy(elastically, True, True, "ElasticFlow, the best plan at each GPU count"),
}
