"""Event-driven simulation of jobs on one cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.policies import Policy, Running, admits
from vtrain_sim.decide.fleet.speeds import Kind, SpeedTable
from vtrain_sim.errors import UserError
from vtrain_sim.specs.validation import finite, positive

# Iterations left that are rounding of the clock.
_NOTHING = 1e-6


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
    """What became of all jobs. finished_s: by job, of those that ended. rejected: turned away on arrival."""

    jobs: tuple[Job, ...]
    capacity: int
    stretches: tuple[Stretch, ...]
    finished_s: dict[str, float]
    rejected: tuple[str, ...]

    @property
    def deadline_satisfactory_ratio(self) -> float | None:
        """Share of the jobs with a deadline that met it; None where no job has one."""
        dated = [j for j in self.jobs if math.isfinite(j.deadline_s)]
        met = sum(self.finished_s.get(j.job_id, math.inf) <= j.deadline_s * (1 + 1e-9) for j in dated)
        return met / len(dated) if dated else None

    @property
    def completion_s(self) -> list[float]:
        """From arrival to end, of the jobs that ended."""
        return [self.finished_s[j.job_id] - j.arrival_s for j in self.jobs if j.job_id in self.finished_s]

    @property
    def makespan_s(self) -> float:
        """From the first arrival to the last end."""
        return max(self.finished_s.values(), default=0.0) - min(j.arrival_s for j in self.jobs)

    @property
    def gpu_seconds(self) -> float:
        """GPU-seconds held, restarts included."""
        return sum(s.gpus * (s.end_s - s.start_s) for s in self.stretches)

    def to_dict(self, price_per_gpu_hour: float) -> dict[str, Any]:
        """One policy in the machine-readable result, schema vtrain.schedule/1."""
        times = self.completion_s
        return {
            "jobs": len(self.jobs),
            "finished": len(self.finished_s),
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
    waiting = [_running(j, tables, capacity) for j in sorted(jobs, key=lambda j: (j.arrival_s, j.job_id))]
    active: list[Running] = []
    begun: dict[str, float] = {}
    stretches: list[Stretch] = []
    finished: dict[str, float] = {}
    rejected: list[str] = []
    now, at = 0.0, 0
    while at < len(waiting) or active:
        arrival = waiting[at].job.arrival_s if at < len(waiting) else math.inf
        end = min((_end(r, now) for r in active if r.gpus), default=math.inf)
        if math.isinf(arrival) and math.isinf(end):
            stuck = active[0].job.job_id
            raise UserError(f"job {stuck!r} never gets GPUs under this policy: it asks for more than are ever free")
        following = min(arrival, end)
        for r in active:
            r.remaining = max(0.0, r.remaining - _trained(r, now, following))
        now = following
        for r in [r for r in active if r.gpus and r.remaining <= _NOTHING and r.resume_s <= now]:
            _close(r, begun, stretches, now)
            finished[r.job.job_id] = now
            active.remove(r)
        while at < len(waiting) and waiting[at].job.arrival_s <= now:
            new = waiting[at]
            at += 1
            if policy.admission and not admits(active, new, now, capacity):
                rejected.append(new.job.job_id)
            else:
                active.append(new)
        given = policy.allocate(active, now, capacity, restart_s)
        for r in active:
            gpus = given.get(r.job.job_id, 0)
            if gpus == r.gpus:
                continue
            if r.gpus:
                _close(r, begun, stretches, now)
            if gpus:
                r.resume_s = now + (restart_s if r.started else 0.0)
                r.started = True
                begun[r.job.job_id] = now
            r.gpus = gpus
        progress(len(finished) + len(rejected), len(active))
    stretches.sort(key=lambda s: (s.start_s, s.job_id))
    return Outcome(tuple(w.job for w in waiting), capacity, tuple(stretches), finished, tuple(rejected))


def _running(job: Job, tables: dict[Kind, SpeedTable], capacity: int) -> Running:
    table = tables[job.model, job.global_batch_size]
    usable = [i for i, g in enumerate(table.gpus) if job.min_gpus <= g <= min(job.max_gpus, capacity)]
    if not usable:
        fits = f"{table.gpus[0]} to {table.gpus[-1]}" if table.gpus else "none"
        raise UserError(
            f"job {job.job_id!r} can never run: {job.model} runs on {fits} GPUs, the job takes {job.min_gpus} to "
            f"{min(job.max_gpus, capacity)}"
        )
    own = SpeedTable(tuple(table.gpus[i] for i in usable), tuple(table.seconds[i] for i in usable))
    asked = max((g for g in own.gpus if g <= job.gpus), default=own.gpus[0])
    return Running(job, own, float(job.iterations), asked, index=dict(zip(own.gpus, own.seconds, strict=True)))


def _trained(r: Running, since: float, until: float) -> float:
    if not r.gpus:
        return 0.0
    return max(0.0, until - max(since, r.resume_s)) / r.seconds(r.gpus)


def _end(r: Running, now: float) -> float:
    return max(now, r.resume_s) + r.remaining * r.seconds(r.gpus)


def _close(r: Running, begun: dict[str, float], stretches: list[Stretch], now: float) -> None:
    start = begun[r.job.job_id]
    resume = min(max(start, r.resume_s), now)
    if now > start:
        stretches.append(Stretch(r.job.job_id, r.gpus, start, resume, now, (now - resume) / r.seconds(r.gpus)))
