"""What a policy of a cluster is: which jobs get how many GPUs, and when it decides again."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vtrain_sim.decide.fleet.queue import Key, Queue, by_arrival
from vtrain_sim.decide.fleet.running import Allocation, Running, Site

Jobs: TypeAlias = Mapping[str, Running]


class Scheduler(ABC):
    """A policy at work on one cluster. It decides at arrivals, at ends of jobs, and when it says (`wakes`)."""

    def __init__(self, site: Site, jobs: Sequence[Running]) -> None:
        self.site = site

    def key(self, r: Running) -> Key:
        """The order in which jobs wait; it ends with the job's id, and stays the same while a job waits."""
        return by_arrival(r)

    def admit(self, running: Jobs, waiting: Queue, new: Running, now: float) -> bool:
        """Whether a job that arrives is taken on."""
        return True

    @abstractmethod
    def allocate(self, running: Jobs, waiting: Queue, now: float) -> Allocation:
        """GPUs of each job that has some from now on, of those that run and those that wait, in the order in which
        they are placed."""

    def beside(self, running: Jobs, waiting: Queue, blocking: bool) -> Allocation:
        """Those that run keep their GPUs; then who waits, in order, with the GPUs requested. blocking: none after one
        that does not fit."""
        kept = [(r, r.gpus) for r in running.values()]
        started = waiting.first((), self.site.capacity - sum(gpus for _, gpus in kept), blocking)
        return kept + [(r, r.requested) for r in started]

    def wakes(self, running: Jobs, waiting: Queue, now: float) -> float:
        """When it decides next, if nothing happens until then; seconds, infinite: it need not."""
        return math.inf

    def changed(self, running: Jobs, waiting: Queue, now: float, failed: bool) -> None:
        """The cluster has other GPUs: nodes failed, or were only repaired."""
        return


@dataclass(frozen=True)
class ClusterPolicy:
    """A policy by name.

    says: what it does, in a few words. source: where it is from. scheduler: makes it for a cluster and the jobs of a
    trace. plans: speeds are those of the best plan of each number of GPUs, else of one plan replicated. as_requested: a
    job has the GPUs that its trace says, else the policy chooses. whole_nodes: where jobs are placed on nodes, it gives
    whole ones only. blocking: no job starts before one that waits for GPUs.
    """

    name: str
    says: str
    source: str
    scheduler: Callable[[Site, Sequence[Running]], Scheduler]
    plans: bool = True
    as_requested: bool = True
    whole_nodes: bool = False
    blocking: bool = False
