"""Which jobs get how many GPUs: FIFO, shortest remaining time, earliest deadline, elastic."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.decide.fleet import filling
from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.speeds import SpeedTable

# Growing must save this many times the restart that it costs.
_WORTH = 2.0


@dataclass
class Running:
    """A job that has arrived and not ended. gpus: now; requested: those of its trace that it can use."""

    job: Job
    table: SpeedTable
    remaining: float
    requested: int
    gpus: int = 0
    resume_s: float = 0.0
    started: bool = False
    index: dict[int, float] = field(default_factory=dict)

    def seconds(self, gpus: int) -> float:
        """Seconds of an iteration on so many GPUs."""
        return self.index[gpus]


Allocation = dict[str, int]


def first_in_first_out(jobs: Sequence[Running], now: float, capacity: int, restart_s: float) -> Allocation:
    """In order of arrival, each with the GPUs that it requested; who runs goes on, who does not fit blocks."""
    free = capacity - sum(r.gpus for r in jobs)
    given = {r.job.job_id: r.gpus for r in jobs if r.gpus}
    for r in jobs:  # by arrival
        if r.gpus:
            continue
        if r.requested > free:
            break
        given[r.job.job_id] = r.requested
        free -= r.requested
    return given


def shortest_remaining_time(jobs: Sequence[Running], now: float, capacity: int, restart_s: float) -> Allocation:
    """Preemptive: the jobs that would end soonest on the GPUs that they requested."""
    return _in_order(sorted(jobs, key=lambda r: (r.remaining * r.seconds(r.requested), r.job.job_id)), capacity)


def earliest_deadline(jobs: Sequence[Running], now: float, capacity: int, restart_s: float) -> Allocation:
    """Preemptive: the jobs whose deadline is nearest, on the GPUs that they requested."""
    return _in_order(sorted(jobs, key=lambda r: (r.job.deadline_s, r.job.arrival_s, r.job.job_id)), capacity)


def _in_order(jobs: Sequence[Running], capacity: int) -> Allocation:
    given: Allocation = {}
    for r in jobs:
        if r.requested <= capacity:
            given[r.job.job_id] = r.requested
            capacity -= r.requested
            if not capacity:
                break
    return given


def elastic(jobs: Sequence[Running], now: float, capacity: int, restart_s: float) -> Allocation:
    """ElasticFlow (Gu et al., ASPLOS 2023): the smallest shares that meet all deadlines, then what is left
    where a GPU adds most. Jobs without a deadline wait for what is left."""
    urgent = sorted((r for r in jobs if math.isfinite(r.job.deadline_s)), key=_by_deadline)
    served, shares = smallest_shares(urgent, now, capacity)
    level = {r.job.job_id: int(s) for r, s in zip(urgent, shares, strict=True)}
    # Late already (a restart took too long): it gets what it had, if that is free.
    free = capacity - sum(level.values())
    for r in urgent[served:]:
        level[r.job.job_id] = r.gpus if r.gpus <= free else 0
        free -= level[r.job.job_id]
    level |= {r.job.job_id: 0 for r in jobs if r.job.job_id not in level}
    _share_out(jobs, level, free)
    return _without_needless_restarts(jobs, level, capacity, restart_s)


def _by_deadline(r: Running) -> tuple[float, float, str]:
    return r.job.deadline_s, r.job.arrival_s, r.job.job_id


def admits(jobs: Sequence[Running], new: Running, now: float, capacity: int) -> bool:
    """Whether all deadlines, the new job's among them, can be met."""
    if not math.isfinite(new.job.deadline_s):
        return True
    urgent = sorted((r for r in (*jobs, new) if math.isfinite(r.job.deadline_s)), key=_by_deadline)
    # Who is late already keeps nobody out.
    urgent = [r for r in urgent if r is new or r.job.deadline_s > now + r.remaining * min(r.table.seconds)]
    return smallest_shares(urgent, now, capacity)[0] == len(urgent)


@cache
def _fill() -> Callable[..., int]:
    import numba

    compiled: Callable[..., int] = numba.njit(cache=True, nogil=True)(filling.fill)
    return compiled


def smallest_shares(urgent: Sequence[Running], now: float, capacity: int) -> tuple[int, NDArray[np.int64]]:
    """How many of the jobs (earliest deadline first) can be served, and the GPUs of each from now on."""
    shares = np.zeros(len(urgent), dtype=np.int64)
    if not urgent:
        return 0, shares
    levels = np.array([len(r.table.gpus) for r in urgent])
    first = np.cumsum(levels) - levels
    served = _fill()(
        float(now),
        capacity,
        np.array([r.remaining + max(0.0, r.resume_s - now) / r.table.seconds[0] for r in urgent]),
        np.array([r.job.deadline_s for r in urgent]),
        first,
        levels,
        np.concatenate([np.array(r.table.gpus) for r in urgent]),
        np.concatenate([np.array(r.table.seconds) for r in urgent]),
        shares,
        np.zeros(filling.MOST_PIECES),
        np.zeros(filling.MOST_PIECES, dtype=np.int64),
    )
    return int(served), shares


def _share_out(jobs: Sequence[Running], level: Allocation, free: int) -> None:
    """Start who waits, shortest first; then give free GPUs to whom one more adds most of what is left."""
    by_id = {r.job.job_id: r for r in jobs}
    heap: list[tuple[float, float, str, int]] = []

    def offer(r: Running) -> None:
        now = level[r.job.job_id]
        following = next((g for g in r.table.gpus if g > now), 0)
        if following:
            rate = 1 / r.seconds(now) if now else 0.0
            gain = (1 / r.seconds(following) - rate) / (following - now) / max(r.remaining, 1e-9)
            left = r.remaining * r.table.seconds[0] * r.table.gpus[0]
            heapq.heappush(heap, (-gain if now else -math.inf, left, r.job.job_id, following))

    for r in jobs:
        offer(r)
    while heap and free > 0:
        _, _, name, following = heapq.heappop(heap)
        more = following - level[name]
        if more <= free:
            level[name] = following
            free -= more
            offer(by_id[name])


def _without_needless_restarts(
    jobs: Sequence[Running], level: Allocation, capacity: int, restart_s: float
) -> Allocation:
    """Growing a running job must be worth its restart."""
    used = sum(level.values())
    for r in jobs:
        wanted = level[r.job.job_id]
        if not r.gpus or wanted == r.gpus or used - wanted + r.gpus > capacity:
            continue
        grown = wanted > r.gpus
        if grown and r.remaining * (r.seconds(r.gpus) - r.seconds(wanted)) <= _WORTH * restart_s:
            used += r.gpus - wanted
            level[r.job.job_id] = r.gpus
    return {name: gpus for name, gpus in level.items() if gpus}


@dataclass(frozen=True)
class Policy:
    """allocate: GPUs of each job. plans: speeds from the best plan of each GPU count, else from one plan
    replicated. admission: jobs that would break a deadline are rejected. as_requested: a job has the GPUs that its
    trace says, else the policy chooses."""

    allocate: Callable[[Sequence[Running], float, int, float], Allocation]
    plans: bool
    admission: bool
    says: str
    as_requested: bool = False


POLICIES = {
    "fifo": Policy(first_in_first_out, True, False, "in order of arrival", as_requested=True),
    "srtf": Policy(shortest_remaining_time, True, False, "shortest remaining time first", as_requested=True),
    "edf": Policy(earliest_deadline, True, False, "earliest deadline first", as_requested=True),
    "elasticflow": Policy(elastic, False, True, "ElasticFlow, one plan replicated"),
    "elastic-plans": Policy(elastic, True, True, "ElasticFlow, the best plan at each GPU count"),
}
