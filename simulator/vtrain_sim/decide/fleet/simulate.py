"""Event-driven simulation of jobs on one cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vtrain_sim.decide.fleet.elastic import CLOCK, admit, next_step
from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.policies import Policy
from vtrain_sim.decide.fleet.queue import Queue
from vtrain_sim.decide.fleet.requests import granted, usable
from vtrain_sim.decide.fleet.running import Running, Site
from vtrain_sim.decide.fleet.speeds import Kind, SpeedTable
from vtrain_sim.errors import UserError
from vtrain_sim.results import Document
from vtrain_sim.specs.checks import finite, positive

# Iterations left, and seconds left relative to the clock, that are rounding: more than that by which times of steps
# may differ.
_NOTHING = 1e-6
_NO_TIME = 100 * CLOCK


@dataclass(frozen=True)
class Stretch:
    """One job on the same GPUs from start_s to end_s; it trains from resume_s on (a restart before it)."""

    job_id: str
    gpus: int
    start_s: float
    resume_s: float
    end_s: float
    iterations: float


@dataclass(frozen=True)
class Outcome:
    """What became of all jobs. finished_s: by job, of those that ended. rejected: not admitted on arrival."""

    jobs: tuple[Job, ...]
    capacity: int
    stretches: tuple[Stretch, ...]
    finished_s: dict[str, float]
    rejected: tuple[str, ...]

    @property
    def late(self) -> tuple[str, ...]:
        """Jobs that ended after their deadline."""
        return tuple(j.job_id for j in self.jobs if self.finished_s.get(j.job_id, 0.0) > j.deadline_s * (1 + 1e-9))

    @property
    def deadline_satisfactory_ratio(self) -> float | None:
        """Share of the jobs with a deadline that met it; None where no job has one."""
        dated = {j.job_id for j in self.jobs if math.isfinite(j.deadline_s)}
        met = len(dated & self.finished_s.keys()) - len(self.late)
        return met / len(dated) if dated else None

    @property
    def completion_s(self) -> list[float]:
        """From arrival to end, of the jobs that ended."""
        return [self.finished_s[j.job_id] - j.arrival_s for j in self.jobs if j.job_id in self.finished_s]

    @property
    def makespan_s(self) -> float:
        """From the first arrival to the last end; 0 where no job ended."""
        if not self.finished_s:
            return 0.0
        return max(self.finished_s.values()) - min(j.arrival_s for j in self.jobs)

    @property
    def gpu_seconds(self) -> float:
        """GPU-seconds in use, restarts included."""
        return sum(s.gpus * (s.end_s - s.start_s) for s in self.stretches)

    def to_dict(self, price_per_gpu_hour: float) -> Document:
        """One policy in the machine-readable result, schema vtrain.schedule/1."""
        times = self.completion_s
        return {
            "jobs": len(self.jobs),
            "finished": len(self.finished_s),
            "late": len(self.late),
            "rejected": len(self.rejected),
            "deadline_satisfactory_ratio": self.deadline_satisfactory_ratio,
            "mean_jct_s": float(np.mean(times)) if times else None,
            "p95_jct_s": float(np.quantile(times, 0.95)) if times else None,
            "makespan_s": self.makespan_s,
            "gpu_utilisation": self.gpu_seconds / (self.capacity * self.makespan_s) if self.makespan_s else 0.0,
            "cost_usd": self.gpu_seconds / 3600 * price_per_gpu_hour,
        }


def simulate(
    jobs: Sequence[Job],
    tables: dict[Kind, SpeedTable],
    capacity: int,
    policy: Policy,
    restart_s: float = 60.0,
    progress: Callable[[int, int], None] = lambda done, running: None,
) -> Outcome:
    """Run all jobs through a policy.

    restart_s: seconds from a change of a running job's GPUs until it trains again (checkpoint and
    restart); nothing that was trained is lost. Raises `UserError` for a job that can never run.
    """
    positive("GPUs of the cluster", capacity)
    finite("--restart-seconds", restart_s)
    site = Site(capacity, restart_s)
    arriving = _arriving(jobs, tables, site)
    fleet = _Fleet(site, policy)
    arrived = 0
    while arrived < len(arriving) or fleet.active:
        arrival = arriving[arrived].job.arrival_s if arrived < len(arriving) else math.inf
        fleet.advance(arrival)
        while arrived < len(arriving) and arriving[arrived].job.arrival_s <= fleet.now:
            fleet.admit(arriving[arrived])
            arrived += 1
        fleet.allocate()
        progress(len(fleet.finished) + len(fleet.rejected), fleet.active)
    stretches = sorted(fleet.stretches, key=lambda s: (s.start_s, s.job_id))
    jobs_in_order = tuple(a.job for a in arriving)
    return Outcome(jobs_in_order, capacity, tuple(stretches), fleet.finished, tuple(fleet.rejected))


class _Fleet:
    """The cluster and its jobs at one time: those that run, and those that wait. active: how many both are."""

    def __init__(self, site: Site, policy: Policy) -> None:
        self._site, self._policy = site, policy
        self._running: dict[str, Running] = {}
        self._waiting = Queue(policy.order)
        self._begun: dict[str, float] = {}
        self._next_step_s = math.inf
        self.active = 0
        self.now = 0.0
        self.stretches: list[Stretch] = []
        self.finished: dict[str, float] = {}
        self.rejected: list[str] = []

    def advance(self, arrival: float) -> None:
        """Train up to the next arrival, end of a job or change of what is reserved, and let go of those that end."""
        end = min((_end(r, self.now) for r in self._running.values()), default=math.inf)
        following = min(arrival, end, self._next_step_s)
        if math.isinf(following):
            stuck = min((r.job.arrival_s, r.job.job_id) for r in self._waiting)[1]
            raise UserError(f"job {stuck!r} never gets GPUs under this policy: it requests more than are ever free")
        for r in self._running.values():
            r.remaining = max(0.0, r.remaining - _trained(r, self.now, following))
        self.now = following
        for r in [r for r in self._running.values() if r.resume_s <= self.now and _is_done(r, self.now)]:
            self._end_stretch(r)
            self.finished[r.job.job_id] = self.now
            del self._running[r.job.job_id]
            self.active -= 1

    def admit(self, job: Running) -> None:
        """A job arrives."""
        if self._policy.admission and not admit((*self._running.values(), *self._waiting), job, self.now, self._site):
            self.rejected.append(job.job.job_id)
        else:
            self._waiting.add(job)
            self.active += 1

    def allocate(self) -> None:
        """Give each job the GPUs that the policy says."""
        given = self._policy.allocate(self._running, self._waiting, self.now, self._site)
        keep = {r.job.job_id for r, _ in given}
        for name, r in [(name, r) for name, r in self._running.items() if name not in keep]:
            self._end_stretch(r)
            r.gpus = 0
            del self._running[name]
            self._waiting.add(r)
        for r, gpus in given:
            if gpus != r.gpus:
                self._change(r, gpus)
        if self._policy.admission:
            self._next_step_s = next_step((*self._running.values(), *self._waiting))

    def _change(self, r: Running, gpus: int) -> None:
        if r.gpus:
            self._end_stretch(r)
        else:
            self._waiting.remove(r)
            self._running[r.job.job_id] = r
        r.resume_s = self.now + (self._site.restart_s if r.started else 0.0)
        r.started = True
        r.gpus = gpus
        self._begun[r.job.job_id] = self.now

    def _end_stretch(self, r: Running) -> None:
        start = self._begun[r.job.job_id]
        resume = min(max(start, r.resume_s), self.now)
        if self.now > start:
            iterations = (self.now - resume) / r.seconds(r.gpus)
            self.stretches.append(Stretch(r.job.job_id, r.gpus, start, resume, self.now, iterations))


def _arriving(jobs: Sequence[Job], tables: Mapping[Kind, SpeedTable], site: Site) -> list[Running]:
    """The jobs, by arrival."""
    usable_of: dict[tuple[str, int, int, int], tuple[SpeedTable, int, dict[int, float]]] = {}
    arriving = []
    for job in sorted(jobs, key=lambda j: (j.arrival_s, j.job_id)):
        like = job.model, job.global_batch_size, job.min_gpus, job.max_gpus
        if like not in usable_of:
            table = usable(job, tables[job.model, job.global_batch_size], site.capacity)
            usable_of[like] = table, site.place(table), dict(zip(table.gpus, table.seconds, strict=True))
        table, place, index = usable_of[like]
        arriving.append(Running(job, table, float(job.iterations), granted(job, table), place, index=index))
    return arriving


def _trained(r: Running, since: float, until: float) -> float:
    if not r.gpus:
        return 0.0
    return max(0.0, until - max(since, r.resume_s)) / r.seconds(r.gpus)


def _is_done(r: Running, now: float) -> bool:
    """Whether nothing is left, or less than what moves the clock, which would stand still for ever."""
    return r.remaining <= _NOTHING or _end(r, now) <= now + _NO_TIME * (1 + now)


def _end(r: Running, now: float) -> float:
    return max(now, r.resume_s) + r.remaining * r.seconds(r.gpus)
