"""Recorded jobs as jobs of models: the trace says GPUs, time and duration, the models are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.requests import granted
from vtrain_sim.decide.fleet.speeds import Kind, Speeds, SpeedTable
from vtrain_sim.decide.fleet.traces.base import Recorded, Recording
from vtrain_sim.errors import UserError

TOO_LARGE, NO_MODEL = "more GPUs than the cluster has", "no model fits on its GPUs"


def jobs_of(recording: Recording, speeds: Speeds, num_gpus: int) -> tuple[list[Job], list[str]]:
    """The jobs, by arrival from 0 on, and sentences on what became of the trace.

    A job trains the largest of the models that fit on its GPUs (by the bytes of its state, then by its name), for as
    many iterations as take its duration with the best plan there, one at least. It has no deadline. Raises `UserError`
    where no job is left.
    """
    dropped = Counter(recording.dropped)
    sizes = sorted(speeds.best, key=lambda kind: (-speeds.state_bytes[kind], kind))
    first = min((job.submitted_s for job in recording.jobs), default=0.0)
    chosen: dict[int, Kind | None] = {}
    jobs: list[Job] = []
    rounded = 0
    for job in sorted(recording.jobs, key=lambda j: (j.submitted_s, j.job_id)):
        if job.gpus > num_gpus:
            dropped[TOO_LARGE] += 1
            continue
        if job.gpus not in chosen:
            chosen[job.gpus] = next((kind for kind in sizes if speeds.best[kind].gpus[0] <= job.gpus), None)
        kind = chosen[job.gpus]
        if kind is None:
            dropped[NO_MODEL] += 1
            continue
        iterations = job.duration_s / _seconds(job, kind, speeds.best[kind])
        rounded += iterations < 0.5
        jobs.append(
            Job(
                job.job_id,
                job.submitted_s - first,
                *kind,
                max(1, round(iterations)),
                job.gpus,
                tenant=job.tenant,
            )
        )
    if not jobs:
        raise UserError(f"no job of the trace ({recording.title}) can be scheduled: {_why(dropped)}")
    if len({j.job_id for j in jobs}) < len(jobs):
        raise UserError(f"the trace ({recording.title}) has two jobs with the same id")
    return jobs, _sentences(recording, jobs, dropped, rounded)


def _seconds(job: Recorded, kind: Kind, table: SpeedTable) -> float:
    gpus = granted(Job(job.job_id, 0.0, *kind, 1, job.gpus), table)
    return table.seconds[table.gpus.index(gpus)]


def _sentences(recording: Recording, jobs: list[Job], dropped: Mapping[str, int], rounded: int) -> list[str]:
    total = len(jobs) + sum(dropped.values())
    left_out = f"; left out: {_why(dropped)}" if any(dropped.values()) else ""
    by_model: dict[str, list[int]] = {}
    for job in jobs:
        by_model.setdefault(job.model, []).append(job.gpus)
    models = ", ".join(
        f"{model} on {_range(min(gpus), max(gpus))} ({len(gpus):,})"
        for model, gpus in sorted(by_model.items(), key=lambda m: min(m[1]))
    )
    short = f"; {rounded:,} shorter than half an iteration have one" if rounded else ""
    return [
        f"trace of {recording.title}: {len(jobs):,} of {total:,} jobs{left_out}",
        f"models, the largest that fits on a job's GPUs (jobs): {models}",
        f"iterations: a job's duration over the time of one with the best plan{short}; no deadlines",
    ]


def _why(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()) if count) or "it has none"


def _range(least: int, most: int) -> str:
    if least == most:
        return f"{least:,} GPU" if least == 1 else f"{least:,} GPUs"
    return f"{least:,} to {most:,} GPUs"
