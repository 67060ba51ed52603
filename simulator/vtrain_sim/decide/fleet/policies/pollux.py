"""Elastic allocation in the manner of Pollux (Qiao et al., OSDI 2021).

Jobs share the cluster such that the power mean of their speedups, with the exponent -1, is largest: a job that is slow
counts most. A speedup is the rate of a job over that on an equal share of the cluster. The paper's rate is goodput,
throughput times statistical efficiency, which it fits while a job trains, choosing the batch; here the global batch is
fixed, so the efficiency is constant and cancels, and throughput is that of the best plan of each number of GPUs. GPUs
are added where they reduce the mean of the inverse speedups most, instead of by a genetic search. Another
allocation is taken only if its mean is better with the speedups of the jobs that would restart reduced, by the part of
their life that restarts take (the paper has a penalty for restarts, too). Who finds no GPUs waits, in order of arrival.

Left out, beside the choice of the batch: avoiding of interference, and growing the cluster.
"""

from __future__ import annotations

import math

import numpy as np

from vtrain_sim.decide.fleet.elastic import places
from vtrain_sim.decide.fleet.policies.base import ClusterPolicy, Jobs, Scheduler
from vtrain_sim.decide.fleet.queue import Queue, by_arrival
from vtrain_sim.decide.fleet.running import Allocation, Floats, Ints, Running

# A better allocation that its restarts do not repay yet is tried again after so many seconds, if nothing happens.
_AGAIN_S = 600.0


class Goodput(Scheduler):
    """The power mean of speedups, at every arrival and end."""

    _again_s = math.inf

    def allocate(self, running: Jobs, waiting: Queue, now: float) -> Allocation:
        """The best shares, or those that are, with the jobs that fit beside them."""
        from vtrain_sim.decide.fleet.sharing import share

        jobs = sorted((*running.values(), *waiting.leading(self.site.capacity)), key=by_arrival)
        self._again_s = math.inf
        if not jobs:
            return []
        site = self.site
        low, high, held = places(jobs)
        fair = self._fair_seconds(low, high, self.site.capacity / (len(running) + len(waiting)))
        arrays = (low, high, site.gpus, site.seconds, fair)
        kept, best = held.copy(), np.full(len(jobs), -1, dtype=np.int64)
        share(site.capacity, *arrays, kept, False)
        share(site.capacity, *arrays, best, True)
        if self._worth(jobs, best, held, fair, now) > self._worth(jobs, kept, held, fair, now):
            level = best
        else:
            level = kept
            if not np.array_equal(best, kept):
                self._again_s = now + _AGAIN_S
        counts = site.gpus
        return [(r, int(counts[place])) for r, place in zip(jobs, level.tolist(), strict=True) if place >= 0]

    def wakes(self, running: Jobs, waiting: Queue, now: float) -> float:
        """Later, where a better allocation does not pay yet."""
        return self._again_s

    def _fair_seconds(self, low: Ints, high: Ints, equal: float) -> Floats:
        """Seconds of an iteration of each job on an equal share of the cluster, or on the fewest GPUs that it takes."""
        gpus = self.site.gpus
        at = {
            (first, last): max(first, first + int(np.searchsorted(gpus[first : last + 1], equal, side="right")) - 1)
            for first, last in set(zip(low.tolist(), high.tolist(), strict=True))
        }
        each = [at[pair] for pair in zip(low.tolist(), high.tolist(), strict=True)]
        return np.asarray(self.site.seconds[each])

    def _worth(self, jobs: list[Running], level: Ints, held: Ints, fair: Floats, now: float) -> tuple[int, float]:
        """How many jobs run, and minus the sum of their inverse speedups, those of restarted jobs reduced."""
        runs = level >= 0
        inverse = np.where(runs, self.site.seconds[level] / fair, 0.0)
        for row in np.flatnonzero(runs & (held >= 0) & (level != held)).tolist():
            r, pause = jobs[row], float(self.site.pause[level[row]])
            age = now - r.job.arrival_s
            useful = (age - r.restarts * pause) / (age + pause) if age + pause > 0 else 1.0
            inverse[row] = inverse[row] / useful if useful > 0 else math.inf
        return int(np.count_nonzero(runs)), -float(inverse.sum())


POLLUX = ClusterPolicy(
    "pollux",
    "elastic shares of the largest power mean of speedups, as in Pollux",
    "Qiao et al., OSDI 2021",
    Goodput,
    as_requested=False,
)
