"""``schedule``: many training jobs on one cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vtrain_sim.api.lists import Names, Numbers, names, some
from vtrain_sim.api.machine import machine_of
from vtrain_sim.api.schedule_conditions import (
    Quotas,
    check_quotas,
    check_tenants,
    conditions_of,
    projectors_of,
    with_sizes,
)
from vtrain_sim.api.schedule_trace import check_unheeded, jobs_given
from vtrain_sim.api.workloads import Noted, unnoted, workloads_of
from vtrain_sim.decide.fleet import (
    ClusterPolicy,
    Conditions,
    FleetResult,
    Job,
    Outcome,
    Speeds,
    SpeedTable,
    generate,
    project_speeds,
    simulate,
)
from vtrain_sim.decide.fleet import policies as cluster_policies
from vtrain_sim.decide.fleet.jobs import offered_gap_s
from vtrain_sim.decide.fleet.placement import IDEAL
from vtrain_sim.decide.fleet.placement.fragments import of_segments
from vtrain_sim.decide.fleet.policies import USUAL
from vtrain_sim.decide.fleet.requests import check_requests, counts_to_plan, unlike_requests
from vtrain_sim.decide.fleet.traces.mapping import jobs_of
from vtrain_sim.errors import UserError
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.specs.checks import Range, positive, whole

MODELS = ("gpt3-1.3b", "gpt3-2.7b", "gpt3-6.7b", "gpt3-13b", "megatron-22b")

_BATCHES = (512,)
# Mean duration of a job: longer ones than eleven years are none.
_LOAD, _HOURS = Range(1e-3, 1e3), Range(1e-3, 1e5)
_USUAL_LOAD, _USUAL_HOURS = 1.0, 12.0


def schedule(
    *,
    cluster: str | Path,
    num_gpus: int,
    trace: str | Path | None = None,
    trace_format: str = "",
    jobs: int = 0,
    seeds: Numbers = 1,
    models: Names = MODELS,
    global_batch_size: Numbers | None = None,
    load: float = _USUAL_LOAD,
    mean_hours: float = _USUAL_HOURS,
    no_deadlines: bool = False,
    policies: Names = USUAL,
    restart_seconds: float | None = None,
    checkpoint_bandwidth: float = 0.0,
    gpu_counts: Numbers | None = None,
    placement: str = IDEAL,
    migrate: bool = False,
    quotas: Quotas | None = None,
    gpu_mtbf_hours: float = 0.0,
    repair_hours: float | None = None,
    catalog: str | Path | None = None,
    run_script: bool = True,
    progress: Progress = unwatched,
    noted: Noted = unnoted,
) -> FleetResult:
    """Simulate a trace of jobs under several policies; speeds come from the best plan at each GPU count.

    trace: a .csv or .parquet file of jobs, or a published trace of a cluster (trace_format: ``philly``, ``helios``,
    ``acme``, ``alibaba-2020``, ``alibaba-2023``; default: as its columns tell), whose jobs train the largest of the
    models that fits on their GPUs, for as long as they took; or jobs: make a random trace of so many, one per seed
    (figures are means over the seeds), of these models and global batches (sequences per step; default: the job's own,
    or 512); load: GPU-seconds requested over those there are; mean_hours: mean duration of a job. gpu_counts: numbers
    of GPUs that a job may have, beside those that jobs of a trace request (default: powers of two and the whole
    cluster). A model is a preset, a ``config.json``, or a job whose training step is kept: a launch script (run_script:
    bash may run it), a spec, or ``run:ID`` of a captured run of the catalog. noted: called with what there is to say
    about files.

    restart_seconds: checkpoint and restart on a change of GPUs; default: 60, or from the bytes of the model's state
    where checkpoint_bandwidth (GB/s at which one node writes and reads them; default 5) or failures are given.
    placement: ``ideal`` (gangs are counted, each as fast as on as few nodes as hold it), or on which nodes gangs go:
    ``packed``, ``consolidated``, ``spread``. migrate: gangs move to fewer nodes where that saves more than it costs.
    quotas: GPUs that are a tenant's own, by tenant: a mapping, ``"a=256,b=128"``, or a file of such lines.
    gpu_mtbf_hours: mean time between failures of one GPU; 0: nothing fails; repair_hours: until its node is back
    (default: 4).
    Raises `UserError`.

    >>> import vtrain as vt
    >>> vt.schedule(cluster="dgx-a100-80gb", num_gpus=8, jobs=3, models="gpt3-1.3b", policies="fifo,edf")
    FleetResult(cluster=dgx-a100-80gb, num_gpus=8, jobs=3, ...)
    """
    chosen = {name: cluster_policies.get(name) for name in names(policies)}
    if (trace is None) == (not jobs):
        raise UserError("give either --trace FILE or --jobs N: the jobs to schedule")
    whole("--jobs", jobs, 0)
    positive("--num-gpus", num_gpus)
    check_unheeded(trace, load != _USUAL_LOAD, mean_hours != _USUAL_HOURS, no_deadlines)
    _LOAD.check("--load", load)
    _HOURS.check("--mean-hours", mean_hours)
    chosen_seeds = some("--seeds", seeds, 0)
    machine = machine_of(cluster)
    if placement != IDEAL:
        machine = replace(machine, cluster=of_segments(machine.cluster))
    conditions = conditions_of(
        machine.cluster,
        placement,
        migrate,
        quotas,
        gpu_mtbf_hours,
        repair_hours,
        restart_seconds,
        checkpoint_bandwidth,
    )
    conditions.check(num_gpus)
    check_quotas(conditions.quotas, chosen)
    given, recording = jobs_given(trace, trace_format)
    if given and (tuple(names(models)) != MODELS or global_batch_size is not None):
        raise UserError("--models and --global-batch-size are of a random or published trace: the jobs of this one say")
    check_requests(given, tuple(chosen), num_gpus)
    check_tenants(conditions.quotas, recording.jobs if recording else given)
    batches = () if global_batch_size is None else some("--global-batch-size", global_batch_size, 1)
    read = workloads_of([j.model for j in given] or names(models), catalog, run_script, noted)
    kinds = {j.kind for j in given} or {
        (model, batch) for model, workload in read.items() for batch in workload.batches(batches, _BATCHES)
    }
    others = () if gpu_counts is None else some("--gpu-counts", gpu_counts, 1)
    requested = {job.gpus for job in recording.jobs} if recording else ()
    counts = counts_to_plan(kinds, given, num_gpus, others, requested)
    fragments = projectors_of(machine, conditions.fragments(num_gpus))
    speeds = project_speeds(counts, machine.projector, progress, read, fragments, may_fit_nowhere=bool(recording))
    conditions = with_sizes(conditions, speeds)
    notes: list[str] = []
    if recording:
        given, notes = jobs_of(recording, speeds, num_gpus)
    if unlike := unlike_requests(given, tuple(chosen), speeds.best, num_gpus):
        noted(unlike)
    if given:
        # Only failures differ by seed.
        traces = [given] * (len(chosen_seeds) if conditions.breakdowns else 1)
    else:
        traces = _random_traces(speeds.scaled, num_gpus, jobs, chosen_seeds, load, mean_hours)
    if no_deadlines:
        traces = [[replace(job, deadline_s=float("inf")) for job in t] for t in traces]
    outcomes = _outcomes(traces, chosen_seeds, speeds, num_gpus, chosen, conditions)
    planned = tuple(sorted({n for named in counts.values() for n in named}))
    price = machine.cluster.price_per_gpu_hour
    return FleetResult(
        machine.cluster.name, num_gpus, price, conditions, outcomes, tuple(traces[-1]), planned, tuple(notes)
    )


def _outcomes(
    traces: Sequence[Sequence[Job]],
    seeds: Sequence[int],
    speeds: Speeds,
    num_gpus: int,
    policies: Mapping[str, ClusterPolicy],
    conditions: Conditions,
) -> dict[str, list[Outcome]]:
    """Of each policy, one per trace; failures come at the same times under all policies."""
    return {
        name: [
            simulate(
                jobs,
                speeds.best if policy.plans else speeds.scaled,
                num_gpus,
                policy,
                conditions=conditions.with_seed(seed),
            )
            for jobs, seed in zip(traces, seeds, strict=False)
        ]
        for name, policy in policies.items()
    }


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
