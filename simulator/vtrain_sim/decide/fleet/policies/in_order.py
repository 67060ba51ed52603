"""Policies that give each job the GPUs that it requests, one job after the other."""

from __future__ import annotations

from vtrain_sim.decide.fleet.policies.base import ClusterPolicy, Jobs, Scheduler
from vtrain_sim.decide.fleet.queue import Key, Queue, by_deadline
from vtrain_sim.decide.fleet.running import Allocation, Running


class Preempting(Scheduler):
    """In order, running or not, each with the GPUs that it requested, if they are free."""

    def allocate(self, running: Jobs, waiting: Queue, now: float) -> Allocation:
        """Who is later in the order gives way."""
        return [(r, r.requested) for r in waiting.first(running.values(), self.site.capacity, blocking=False)]


class FirstInFirstOut(Scheduler):
    """Who runs goes on; then in order of arrival; who does not fit blocks those after it."""

    def allocate(self, running: Jobs, waiting: Queue, now: float) -> Allocation:
        """Only a tenant's quota takes GPUs from a job that runs, which had borrowed them."""
        if self.site.quotas:
            chosen = waiting.first(running.values(), self.site.capacity, blocking=True, running_first=True)
            return [(r, r.requested) for r in chosen]
        return self.beside(running, waiting, blocking=True)


class ShortestRemaining(Preempting):
    """Who would end soonest on the GPUs requested."""

    def key(self, r: Running) -> Key:
        """Seconds left, of training."""
        return r.remaining * r.seconds(r.requested), r.job.job_id


class EarliestDeadline(Preempting):
    """Whose deadline is nearest."""

    def key(self, r: Running) -> Key:
        """The deadline, then the arrival."""
        return by_deadline(r)


class ByPriority(Preempting):
    """Whose priority is larger, then who came first."""

    def key(self, r: Running) -> Key:
        """The priority of the trace, then the arrival."""
        return -r.job.priority, r.job.arrival_s, r.job.job_id


FIFO = ClusterPolicy("fifo", "in order of arrival", "first in, first out", FirstInFirstOut, blocking=True)
SRTF = ClusterPolicy("srtf", "shortest remaining time first", "the definition", ShortestRemaining)
EDF = ClusterPolicy("edf", "earliest deadline first", "Liu and Layland 1973, with preemption", EarliestDeadline)
PRIORITY = ClusterPolicy("priority", "largest priority first, preempting smaller ones", "the definition", ByPriority)
