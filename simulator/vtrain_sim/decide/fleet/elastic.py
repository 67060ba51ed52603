"""ElasticFlow (Gu et al., ASPLOS 2023): a job is admitted with a reservation that ends before its deadline.

Each admitted job with a deadline holds steps (`Running.steps`) from now to an end in time, restarts counted, and all
of them together never take more GPUs than there are. Steps are replaced only by steps of which the same is true; so
an admitted job is never late, whatever comes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtrain_sim.decide.fleet.queue import by_deadline
from vtrain_sim.decide.fleet.running import Allocation, Ints, Running, Site

# Relative to the clock: times nearer than this are the same.
CLOCK = 1e-11


def admit(jobs: Sequence[Running], new: Running, now: float, site: Site) -> bool:
    """Reserve GPUs for a new job, if all deadlines can be met: with new steps for all, or else beside the old ones."""
    if not math.isfinite(new.job.deadline_s):
        return True
    urgent = [r for r in jobs if r.steps]
    ordered = sorted((*urgent, new), key=by_deadline)
    return _reserve(ordered, 0, now, site) or _reserve([*urgent, new], len(urgent), now, site)


def allocate(jobs: Sequence[Running], now: float, site: Site) -> Allocation:
    """What is reserved, and what is left to whom it helps most."""
    from vtrain_sim.decide.fleet.filling import grow

    if not jobs:
        return []
    arrays, steps = _arrays(jobs, site), _steps(jobs, now)
    level = np.empty(len(jobs), dtype=np.int64)
    grow(float(now), site.capacity, *arrays, *steps, level)
    _keep(jobs, steps)
    counts = site.gpus.tolist()
    return [(r, counts[place]) for r, place in zip(jobs, level.tolist(), strict=True) if place >= 0]


def reserve_again(jobs: Sequence[Running], now: float, site: Site, failed: bool) -> None:
    """The cluster has changed. failed: it has lost GPUs, and jobs what they trained: reserve anew, by deadline, for
    those that had a reservation. Then, and where GPUs came back, for those that had none any more. Whose deadline
    cannot be met has no reservation, and is given what is left, as a job without a deadline."""
    dated = sorted((r for r in jobs if math.isfinite(r.job.deadline_s)), key=by_deadline)
    promised, others = [r for r in dated if r.steps], [r for r in dated if not r.steps]
    if failed:
        for r in promised:
            r.steps_s, r.steps = [], []
        promised, others = [], [*promised, *others]
    for r in others:
        if r.job.deadline_s > now and _reserve([*promised, r], len(promised), now, site):
            promised.append(r)


def next_step(jobs: Sequence[Running]) -> float:
    """When the GPUs reserved for a job change next; infinite where they do not."""
    return min((r.steps_s[0] for r in jobs if r.steps), default=math.inf)


def _reserve(jobs: Sequence[Running], first: int, now: float, site: Site) -> bool:
    from vtrain_sim.decide.fleet.filling import reserve

    arrays, steps = _arrays(jobs, site), _steps(jobs, now)
    served = reserve(first, float(now), site.capacity, *arrays, *steps)
    if served < len(jobs):
        return False
    _keep(jobs, steps)
    return True


def places(jobs: Sequence[Running]) -> tuple[Ints, Ints, Ints]:
    """low, high, held: the places in a site's tables that each job can use, and the one that it has (-1: none)."""
    low = np.array([r.place for r in jobs], dtype=np.int64)
    high = np.array([r.place + len(r.table.gpus) - 1 for r in jobs], dtype=np.int64)
    held = np.array([r.place + r.table.gpus.index(r.gpus) if r.gpus else -1 for r in jobs], dtype=np.int64)
    return low, high, held


def _arrays(jobs: Sequence[Running], site: Site) -> tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any, Any]:
    """left, deadline, held, resume, started, low, high, gpus, seconds, pause, as the kernels take them."""
    low, high, held = places(jobs)
    return (
        np.array([r.remaining for r in jobs]),
        np.array([r.job.deadline_s for r in jobs]),
        held,
        np.array([r.resume_s for r in jobs]),
        np.array([r.started for r in jobs]),
        low,
        high,
        site.charges,
        site.seconds,
        site.pause,
    )


def _steps(jobs: Sequence[Running], now: float) -> tuple[Any, Any, Any]:
    """steps, step_end, step_level: what is reserved from now on."""
    from vtrain_sim.decide.fleet.filling import MOST_STEPS

    count = np.zeros(len(jobs), dtype=np.int64)
    ends = np.empty((len(jobs), MOST_STEPS))
    levels = np.empty((len(jobs), MOST_STEPS), dtype=np.int64)
    past = now + CLOCK * (1 + now)
    for row, r in enumerate(jobs):
        while r.steps and r.steps_s[0] <= past:
            del r.steps_s[0], r.steps[0]
        if r.steps:
            count[row] = len(r.steps)
            ends[row, : len(r.steps)] = r.steps_s
            levels[row, : len(r.steps)] = r.steps
    return count, ends, levels


def _keep(jobs: Sequence[Running], steps: tuple[Any, Any, Any]) -> None:
    """Write the kernels' steps back to the jobs."""
    for r, count, ends, levels in zip(jobs, steps[0].tolist(), steps[1], steps[2], strict=True):
        r.steps_s, r.steps = ends[:count].tolist(), levels[:count].tolist()
