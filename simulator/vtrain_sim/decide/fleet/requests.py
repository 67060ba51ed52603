"""The GPUs that jobs of a trace request, and those that they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vtrain_sim.decide.fleet import policies
from vtrain_sim.decide.fleet.jobs import Job
from vtrain_sim.decide.fleet.speeds import Kind, SpeedTable
from vtrain_sim.errors import UserError


def counts_to_plan(
    kinds: Iterable[Kind], jobs: Sequence[Job], capacity: int, others: Sequence[int], requested: Iterable[int] = ()
) -> dict[Kind, tuple[int, ...]]:
    """The numbers of GPUs at which to plan each kind, ascending: the others, or powers of two and the whole cluster;
    and what its jobs request, at least and at most too. requested: by jobs of any kind. Raises `UserError` for more
    than there are."""
    for count in others:
        if count > capacity:
            raise UserError(f"--gpu-counts has {count:,}, more than the {capacity:,} GPUs of the cluster (--num-gpus)")
    always = {*others} or {*_powers_of_two(capacity), capacity}
    always |= {n for n in requested if n <= capacity}
    counts = {kind: set(always) for kind in kinds}
    for job in jobs:
        named = (job.gpus, job.min_gpus, job.max_gpus)
        counts[job.kind].update(n for n in named if n <= capacity)
    return {kind: tuple(sorted(named)) for kind, named in counts.items()}


def _powers_of_two(capacity: int) -> list[int]:
    return [1 << exponent for exponent in range(capacity.bit_length())]


def usable(job: Job, table: SpeedTable, capacity: int) -> SpeedTable:
    """The numbers of GPUs on which a job can train, with its speeds. Raises `UserError` where there is none."""
    places = [i for i, g in enumerate(table.gpus) if job.min_gpus <= g <= min(job.max_gpus, capacity)]
    if not places:
        fits = f"{table.gpus[0]} to {table.gpus[-1]}" if table.gpus else "none"
        raise UserError(
            f"job {job.job_id!r} can never run: {job.model} runs on {fits} GPUs, the job takes {job.min_gpus} to "
            f"{min(job.max_gpus, capacity)}"
        )
    return table.only(places).improving()


def granted(job: Job, table: SpeedTable) -> int:
    """The GPUs of a job under a policy that gives what is requested. table: those on which it can train."""
    return max((g for g in table.gpus if g <= job.gpus), default=table.gpus[0])


def check_requests(jobs: Sequence[Job], names: Sequence[str], capacity: int) -> None:
    """Raise `UserError` for a job that requests more GPUs than there are, where a policy gives what is requested."""
    rigid = [name for name in names if policies.get(name).as_requested]
    if not rigid:
        return
    for job in jobs:
        if job.gpus > capacity:
            others = ",".join(name for name in policies.names() if not policies.get(name).as_requested)
            raise UserError(
                f"job {job.job_id!r} requests {job.gpus:,} GPUs, the cluster has {capacity:,} (--num-gpus), and "
                f"{', '.join(rigid)} would give what is requested: give more, or --policies {others}, which choose"
            )


def unlike_requests(jobs: Sequence[Job], names: Sequence[str], tables: Mapping[Kind, SpeedTable], capacity: int) -> str:
    """A sentence on the jobs that train on other numbers of GPUs than they request; empty where none does."""
    rigid = [name for name in names if policies.get(name).as_requested]
    unlike = []
    for job in jobs if rigid else ():
        gpus = granted(job, usable(job, tables[job.kind], capacity))
        if gpus != job.gpus:
            unlike.append(f"job {job.job_id!r} requests {job.gpus:,} GPUs and trains on {gpus:,}")
    if not unlike:
        return ""
    more = f", and {len(unlike) - 1:,} more likewise" if len(unlike) > 1 else ""
    return (
        f"{unlike[0]}{more} ({', '.join(rigid)}): on the number requested no layout fits, or it is no faster than the "
        "smaller one"
    )
