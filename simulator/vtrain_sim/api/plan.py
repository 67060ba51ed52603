"""``plan``: the best layouts of a model on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vtrain_sim.api.arguments import name_of
from vtrain_sim.api.flag_files import Given, flags_of
from vtrain_sim.api.job import Job, machine_of_runs
from vtrain_sim.api.lists import Names, Numbers, names, numbers
from vtrain_sim.api.machine import Machine, machine_of
from vtrain_sim.api.options import WORLD_SIZE, Option, read_options
from vtrain_sim.decide import Bounds, PlanResult, Request
from vtrain_sim.decide import plan as search_plans
from vtrain_sim.decide.executors import Workers
from vtrain_sim.decide.failures import failures_given
from vtrain_sim.decide.search.choices import DEFAULT
from vtrain_sim.decide.search_space import search_space
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.lookup import find_model
from vtrain_sim.inputs.megatron_emit import all_flags
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.inputs.searched import to_search
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.specs import Configuration, ModelSpec
from vtrain_sim.specs.checks import positive

_NO_LIMIT = 1 << 16
UNNAMED = "the job"


def plan(
    model: str | Path | Job = "",
    *,
    cluster: str | Path | Machine = "",
    num_gpus: Numbers = (),
    max_gpus: int = 0,
    global_batch_size: Numbers = (),
    train_tokens: float = 0.0,
    price_per_gpu_hour: float | None = None,
    deadline_days: float = 0.0,
    rank_by: str = "days",
    top: int = 10,
    max_tp: int = 8,
    max_pp: int = _NO_LIMIT,
    max_dp: int = _NO_LIMIT,
    max_cp: int = 8,
    max_ep: int = _NO_LIMIT,
    schedules: Names = ("1f1b", "interleaved"),
    search: Names = (DEFAULT,),
    gpu_mtbf_hours: float = 0.0,
    checkpoint_seconds: float = 60.0,
    restart_seconds: float = 600.0,
    checkpoint_interval: float = 0.0,
    allow_tight: bool = False,
    exhaustive: bool = False,
    processes: int = 1,
    executor: str = "local",
    address: str = "",
    flags: Sequence[str] = (),
    own: Configuration | None = None,
    own_name: str = UNNAMED,
    progress: Progress = unwatched,
    **fixed: Option,
) -> PlanResult:
    """Search every layout of a model on a cluster, drop what does not fit, and rank the rest.

    model: a preset, a ``config.json``, or a job (``vt.job``): its model and training step are then planned on its
    machine, with its measurements where it is from a captured run, on as many GPUs and with its batch where no others
    are given; the result says how its own layout ranks. num_gpus: exact counts; or max_gpus: all up to it.
    global_batch_size: sequences per step, one or several.
    rank_by: days, dollars, time (of a step) or mfu. deadline_days: drop plans that take longer.
    gpu_mtbf_hours: mean time between failures of one GPU; days and US dollars then include failures,
    checkpoints (checkpoint_seconds each, every checkpoint_interval seconds; 0: the best) and restarts
    (restart_seconds). search: what is chosen beside sizes and schedules, by name (`vtrain-sim plan --help`): "default",
    "all", "none", or several. allow_tight: also plans with less memory to spare than projections are sure of.
    exhaustive: project every candidate, also those that cannot be among the best. processes: of this machine (0: one
    for each core) that share a large search, or with executor "ray" of a Ray cluster (address). flags, fixed:
    Megatron's arguments that are kept as they are, for example ``tp=8``. own, own_name: a configuration of the model
    that is ranked too, and what it is called. progress: called with the configurations
    evaluated, those that are feasible, and the share of the search that is done. Raises `UserError` where no plan is
    left, with what would help.

    >>> import vtrain as vt
    >>> result = vt.plan("gpt3-1.3b", cluster="dgx-a100-80gb", num_gpus=8, global_batch_size=64, train_tokens=1e9, tp=2)
    >>> {plan.projection.configuration.parallel.tp for plan in result.plans}
    {2}
    """
    positive("--top", top)
    world = _named(fixed, WORLD_SIZE, num_gpus)
    batch = _named(fixed, ("gbs",), global_batch_size)
    options = read_options(fixed)
    if options.switched_off:
        raise UserError(f"{options.switched_off[0]} is off unless it is given: leave it out of a search")
    base: ModelSpec | None = None
    if isinstance(model, Job):
        machine, kept, usual_batch, base = _of_job(model, cluster, price_per_gpu_hour)
        own, own_name = model.configuration, f"run {model.run}" if model.run else UNNAMED
        if not max_gpus and not numbers("--num-gpus", world):
            world = own.parallel.world_size
        batch, train_tokens = numbers("--global-batch-size", batch) or usual_batch, train_tokens or model.train_tokens
    else:
        machine, kept = machine_of(cluster, price_per_gpu_hour), ()
        base = find_model(name) if (name := name_of("model", model)) else None
    bounds = Bounds(max_tp, max_pp, max_dp, max_cp, max_ep, schedules=names(schedules), choices=names(search))
    searched, step, bounds = search_space([*kept, *flags_of(flags), *options.flags], base, bounds)
    if not searched.name and own_name != UNNAMED:
        searched = replace(searched, name=own_name)
    request = Request(
        searched,
        numbers("--global-batch-size", batch),
        train_tokens,
        numbers("--num-gpus", world),
        max_gpus,
        bounds,
        step,
        rank_by,
        deadline_days,
        failures_given(gpu_mtbf_hours, checkpoint_seconds, restart_seconds, checkpoint_interval),
        allow_tight,
        own,
        own_name,
        exhaustive,
    )
    return search_plans(request, machine.projector, top, progress, Workers(executor, processes, address))


def of_runs(catalog: Path | None, runs: Sequence[str], given: Given) -> tuple[Job | str, Machine]:
    """The job of captured runs, whose layout is searched, and the machine: the runs', or a cluster with their times.

    given: the flags and files beside the runs; those of them that change the model or the training step change the
    job. An imported trace says no job: then the model that is given. Raises `UserError`.
    """
    machine, profile, path = machine_of_runs(catalog, runs, given.cluster)
    if profile.configuration is None:
        return given.model, machine
    if given.model:
        raise UserError("--run brings its own model: leave out --model, and say with flags what changes")
    configuration = configuration_from_flags(to_search(given.flags).flags, profile.configuration)
    return Job(configuration, machine, run=runs[0], catalog=path), machine


def own_of(files: Given, given: Given) -> Configuration | None:
    """The configuration that files describe as they are; None where they do not say a layout or its number of GPUs.

    given: the same with what was given beside them, of which the layout does not count.
    """
    if not files.gpus:
        return None
    try:
        base = find_model(given.model) if given.model else None
        return configuration_from_flags([*files.flags, *to_search(given.flags).flags], None, files.gpus, base)
    except UserError:
        return None  # the search refuses it too, or there is no whole layout


def _of_job(
    job: Job, cluster: str | Path | Machine, price_per_gpu_hour: float | None
) -> tuple[Machine, tuple[str, ...], int, ModelSpec]:
    """The machine, the flags that are kept, the batch and the model of a job whose layout is searched."""
    if cluster:
        raise UserError("a job has its cluster: leave out cluster=, or make the job on the other one")
    machine = job.machine if price_per_gpu_hour is None else job.machine.priced(price_per_gpu_hour)
    kept = to_search(all_flags(job.configuration))
    return machine, kept.flags, kept.batch, job.configuration.model


def _named(fixed: dict[str, Option], names: Sequence[str], given: Numbers) -> object:
    """An argument, or what one of its other names gives. Raises `UserError` where both are used."""
    others = {name: fixed.pop(name) for name in names if name in fixed}
    values = [value for value in (*others.values(), given or None) if value is not None]
    if len(values) > 1:
        raise UserError(f"{' and '.join(others)} and its long name say the same thing: give one")
    return values[0] if values else ()
