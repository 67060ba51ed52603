"""Time slicing in the manner of Gandiva (Xiao et al., OSDI 2018).

All GPUs are handed out in rounds. At the end of a round gangs line up by when they last ran, those that waited longest
first, each with the GPUs that it requested; who does not fit waits for the next round, suspended, and no gang starves.
Free GPUs go to those that wait at once.

The paper's slices last a minute, since its jobs are suspended quickly. A large model is stopped by a checkpoint and a
restart, so a round lasts as long as keeps these to a twentieth of the time, a minute at least. With ``--migrate`` gangs
move to better places, as in the paper. Left out: packing of several jobs on one GPU, which memory that one model fills
does not allow; growing with idle GPUs; and priorities among the jobs of one user by their accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vtrain_sim.decide.fleet.policies.base import ClusterPolicy, Jobs, Scheduler
from vtrain_sim.decide.fleet.queue import Key, Queue
from vtrain_sim.decide.fleet.running import Allocation, Running, Site

SHORTEST_S = 60.0
# A round lasts so many times the stop and restart that it costs.
_PAUSES = 20.0


class RoundRobin(Scheduler):
    """Rounds of the same length. round_s: seconds."""

    def __init__(self, site: Site, jobs: Sequence[Running]) -> None:
        super().__init__(site, jobs)
        pause = float(np.mean(site.pause)) if len(site.pause) else 0.0
        self.round_s = max(SHORTEST_S, _PAUSES * pause)
        self._end_s = 0.0

    def key(self, r: Running) -> Key:
        """When it last ran."""
        return (math.inf if r.gpus else r.last_s), r.job.arrival_s, r.job.job_id

    def allocate(self, running: Jobs, waiting: Queue, now: float) -> Allocation:
        """A new round where the last one is over; else those that run, and who fits beside them."""
        if now >= self._end_s * (1 - 1e-12):
            self._end_s = now + self.round_s
            return [(r, r.requested) for r in waiting.first(running.values(), self.site.capacity, blocking=False)]
        return self.beside(running, waiting, blocking=False)

    def wakes(self, running: Jobs, waiting: Queue, now: float) -> float:
        """The end of the round, if any job waits."""
        return self._end_s if len(waiting) else math.inf


GANDIVA = ClusterPolicy(
    "gandiva", "time slicing of gangs, round-robin, as in Gandiva", "Xiao et al., OSDI 2018", RoundRobin
)
