"""What became of the jobs of a trace under one policy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.placement import Gang
from vtrain_sim.results import Document, Row


@dataclass(frozen=True)
class Stretch:
    """One job on the same GPUs from start_s to end_s; it trains from resume_s on (a restart before it).

    iterations: those trained; lost: those of them undone by a failure at its end. gang: the GPUs; None where they are
    only counted.
    """

    job_id: str
    gpus: int
    start_s: float
    resume_s: float
    end_s: float
    iterations: float
    lost: float = 0.0
    gang: Gang | None = None

    @property
    def gpu_seconds(self) -> float:
        """GPU-seconds in use."""
        return self.gpus * (self.end_s - self.start_s)

    def to_row(self) -> Row:
        """As a row of a table; nodes: "0-3:8,7:4" is all 8 GPUs of nodes 0 to 3 and 4 of node 7."""
        row: Row = {
            "job_id": self.job_id,
            "gpus": self.gpus,
            "start_s": self.start_s,
            "resume_s": self.resume_s,
            "end_s": self.end_s,
            "iterations": self.iterations,
        }
        if self.gang is not None:
            row |= {"lost_iterations": self.lost, "nodes": nodes_text(self.gang), "chunk": self.gang.chunk}
        return row


def nodes_text(gang: Gang) -> str:
    """The nodes of a gang with the GPUs on each, neighbours of the same number together."""
    runs: list[tuple[int, int, int]] = []
    for node, mask in sorted(gang.nodes):
        gpus = mask.bit_count()
        if runs and runs[-1][1] == node - 1 and runs[-1][2] == gpus:
            runs[-1] = (runs[-1][0], node, gpus)
        else:
            runs.append((node, node, gpus))
    return ",".join(f"{a}:{n}" if a == b else f"{a}-{b}:{n}" for a, b, n in runs)


@dataclass(frozen=True)
class Hardware:
    """What the cluster did. stranded_gpu_s: GPU-seconds free while a job waited, where no gang that waited fits on as
    few nodes as hold it. down_gpu_s: of nodes out of service. failures: of nodes, until the last job ended.
    migrations: gangs that moved to fewer nodes. outages: nodes that were out of service, from when until when, seconds.
    """

    stranded_gpu_s: float = 0.0
    down_gpu_s: float = 0.0
    failures: int = 0
    migrations: int = 0
    outages: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of all jobs. finished_s: by job, of those that ended. rejected: not admitted on arrival. hardware:
    where gangs are placed on nodes. size: GPUs of a node then."""

    jobs: tuple[Job, ...]
    capacity: int
    stretches: tuple[Stretch, ...]
    finished_s: dict[str, float]
    rejected: tuple[str, ...]
    hardware: Hardware | None = None
    size: int = 0
    quotas: Mapping[str, int] = field(default_factory=dict)

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
        return sum(s.gpu_seconds for s in self.stretches)

    def to_dict(self, price_per_gpu_hour: float) -> Document:
        """One policy in the machine-readable result, schema vtrain.schedule/1."""
        return {
            "jobs": len(self.jobs),
            "finished": len(self.finished_s),
            "late": len(self.late),
            "rejected": len(self.rejected),
            "deadline_satisfactory_ratio": self.deadline_satisfactory_ratio,
            **self._completion(),
            "makespan_s": self.makespan_s,
            "gpu_utilisation": self.gpu_seconds / (self.capacity * self.makespan_s) if self.makespan_s else 0.0,
            "cost_usd": self.gpu_seconds / 3600 * price_per_gpu_hour,
            "restarts": sum(s.resume_s > s.start_s for s in self.stretches),
            "restart_gpu_hours": sum(s.gpus * (s.resume_s - s.start_s) for s in self.stretches) / 3600,
            **self._on_nodes(),
        }

    def _completion(self) -> Row:
        """Mean and 95th percentile of the times from arrival to end; None where no job ended."""
        times = self.completion_s
        return {
            "mean_jct_s": float(np.mean(times)) if times else None,
            "p95_jct_s": float(np.quantile(times, 0.95)) if times else None,
        }

    def _on_nodes(self) -> Row:
        """Figures of placement and failures; none where gangs are only counted."""
        hardware, used = self.hardware, self.gpu_seconds
        if hardware is None:
            return {}
        apart = sum(s.gpu_seconds for s in self.stretches if self.is_apart(s))
        lost = sum(s.gpus * (s.end_s - s.resume_s) * s.lost / s.iterations for s in self.stretches if s.lost)
        there = self.capacity * self.makespan_s
        return {
            "fragmented_share": apart / used if used else 0.0,
            "stranded_share": hardware.stranded_gpu_s / there if there else 0.0,
            "migrations": hardware.migrations,
            "failures": hardware.failures,
            "down_share": hardware.down_gpu_s / there if there else 0.0,
            "lost_gpu_hours": lost / 3600,
        }

    def is_apart(self, stretch: Stretch) -> bool:
        """Whether a gang is on more nodes than would hold it, or in more racks."""
        return stretch.gang is not None and stretch.gang.is_apart(stretch.gpus, self.size)

    def tenants(self) -> list[Row]:
        """One row per tenant: jobs, times, GPU-hours, and those of them beyond its quota."""
        by_tenant: dict[str, list[Job]] = {}
        for job in self.jobs:
            by_tenant.setdefault(job.tenant, []).append(job)
        own: dict[str, list[Stretch]] = {tenant: [] for tenant in by_tenant}
        whose = {job.job_id: job.tenant for job in self.jobs}
        for stretch in self.stretches:
            own[whose[stretch.job_id]].append(stretch)
        rows: list[Row] = []
        for tenant in sorted(by_tenant):
            jobs = by_tenant[tenant]
            part = Outcome(
                tuple(jobs),
                self.capacity,
                tuple(own[tenant]),
                {j.job_id: self.finished_s[j.job_id] for j in jobs if j.job_id in self.finished_s},
                tuple(r for r in self.rejected if whose[r] == tenant),
            )
            quota = self.quotas.get(tenant, 0) if self.quotas else None
            rows.append(
                {
                    "tenant": tenant,
                    "quota": quota,
                    "jobs": len(jobs),
                    "finished": len(part.finished_s),
                    "rejected": len(part.rejected),
                    "deadline_satisfactory_ratio": part.deadline_satisfactory_ratio,
                    **part._completion(),
                    "gpu_hours": part.gpu_seconds / 3600,
                    "borrowed_gpu_hours": None if quota is None else _beyond(own[tenant], quota) / 3600,
                }
            )
        return rows


def _beyond(stretches: Iterable[Stretch], quota: int) -> float:
    """GPU-seconds above a number of GPUs."""
    changes = sorted(c for s in stretches for c in ((s.start_s, s.gpus), (s.end_s, -s.gpus)))
    used, since, total = 0, 0.0, 0.0
    for time, change in changes:
        total += max(0, used - quota) * (time - since)
        used, since = used + change, time
    return total
