"""``schedule``: many training jobs on one cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vtrain_sim.api.lists import Names, Numbers, names, some
from vtrain_sim.api.machine import machine_of
from vtrain_sim.api.workloads import Noted, unnoted, workloads_of
from vtrain_sim.decide.fleet import POLICIES, FleetResult, Job, SpeedTable, generate, read_trace, simulate
from vtrain_sim.decide.fleet import speed_tables as tables_of
from vtrain_sim.decide.fleet.jobs import offered_gap_s
from vtrain_sim.decide.fleet.requests import check_requests, counts_to_plan, unlike_requests
from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.specs.checks import Range, one_of, positive, whole

MODELS = ("gpt3-1.3b", "gpt3-2.7b", "gpt3-6.7b", "gpt3-13b", "megatron-22b")

_BATCHES = (512,)
# Mean duration of a job: longer ones than eleven years are none.
_LOAD, _HOURS, _RESTART = Range(1e-3, 1e3), Range(1e-3, 1e5), Range(0.0, 1e6)


def schedule(
    *,
    cluster: str | Path,
    num_gpus: int,
    trace: str | Path | None = None,
    jobs: int = 0,
    seeds: Numbers = 1,
    models: Names = MODELS,
    global_batch_size: Numbers | None = None,
    load: float = 1.0,
    mean_hours: float = 12.0,
    no_deadlines: bool = False,
    policies: Names = tuple(POLICIES),
    restart_seconds: float = 60.0,
    gpu_counts: Numbers | None = None,
    catalog: str | Path | None = None,
    run_script: bool = True,
    progress: Progress = unwatched,
    noted: Noted = unnoted,
) -> FleetResult:
    """Simulate a trace of jobs under several policies; speeds come from the best plan at each GPU count.

    trace: a .csv or .parquet file of jobs; or jobs: make a random trace of so many, one per seed (figures are means
    over the seeds), of these models and global batches (sequences per step; default: the job's own, or 512); load:
    GPU-seconds requested over those there are; mean_hours: mean duration of a job. restart_seconds: checkpoint and
    restart on a change of GPUs. gpu_counts: numbers of GPUs that a job may have, beside those that jobs of a trace
    request (default: powers of two and the whole cluster). A model is a preset, a ``config.json``, or a job whose
    training step is kept: a launch script (run_script: bash may run it), a spec, or ``run:ID`` of a captured run of the
    catalog. noted: called with what there is to say about files. Raises `UserError`.

    >>> import vtrain as vt
    >>> vt.schedule(cluster="dgx-a100-80gb", num_gpus=8, jobs=3, models="gpt3-1.3b", policies="fifo,edf")
    FleetResult(cluster=dgx-a100-80gb, num_gpus=8, jobs=3, ...)
    """
    chosen = names(policies)
    for name in chosen:
        one_of("--policies", name, tuple(POLICIES))
    if (trace is None) == (not jobs):
        raise UserError("give either --trace FILE or --jobs N: the jobs to schedule")
    whole("--jobs", jobs, 0)
    positive("--num-gpus", num_gpus)
    _LOAD.check("--load", load)
    _HOURS.check("--mean-hours", mean_hours)
    _RESTART.check("--restart-seconds", restart_seconds)
    chosen_seeds = some("--seeds", seeds, 0)
    machine = machine_of(cluster)
    given = read_trace(Path(trace)) if trace is not None else []
    check_requests(given, chosen, num_gpus)
    batches = () if global_batch_size is None else some("--global-batch-size", global_batch_size, 1)
    read = workloads_of([j.model for j in given] or names(models), catalog, run_script, noted)
    kinds = {(j.model, j.global_batch_size) for j in given} or {
        (model, batch) for model, workload in read.items() for batch in workload.batches(batches, _BATCHES)
    }
    others = () if gpu_counts is None else some("--gpu-counts", gpu_counts, 1)
    counts = counts_to_plan(kinds, given, num_gpus, others)
    best, scaled = tables_of(counts, machine.projector, progress, read)
    if unlike := unlike_requests(given, chosen, best, num_gpus):
        noted(unlike)
    traces = [given] if given else _random_traces(scaled, num_gpus, jobs, chosen_seeds, load, mean_hours)
    if no_deadlines and not given:
        traces = [[replace(job, deadline_s=float("inf")) for job in t] for t in traces]
    outcomes = {
        name: [
            simulate(t, best if POLICIES[name].plans else scaled, num_gpus, POLICIES[name], restart_seconds)
            for t in traces
        ]
        for name in chosen
    }
    price = machine.cluster.price_per_gpu_hour
    planned = tuple(sorted({n for named in counts.values() for n in named}))
    return FleetResult(machine.cluster.name, num_gpus, price, restart_seconds, outcomes, tuple(traces[-1]), planned)


def _random_traces(
    scaled: dict[tuple[str, int], SpeedTable],
    num_gpus: int,
    jobs: int,
    seeds: Sequence[int],
    load: float,
    mean_hours: float,
) -> list[list[Job]]:
    """A trace per seed, at the given load."""
    speeds = {kind: dict(zip(t.gpus, t.seconds, strict=True)) for kind, t in scaled.items()}
    gap = offered_gap_s(speeds, num_gpus, load, mean_hours)
    return [generate(jobs, seed, speeds, gap, mean_hours) for seed in seeds]
