"""``plan``: the best layouts of a model on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vtrain_sim import schedules as known_schedules
from vtrain_sim.api.arguments import check_dispatcher, name_of
from vtrain_sim.api.flag_files import flags_of
from vtrain_sim.api.lists import Names, Numbers, names, numbers
from vtrain_sim.api.machine import machine_of
from vtrain_sim.api.options import WORLD_SIZE, Option, read_options
from vtrain_sim.decide import Bounds, Failures, PlanResult, Request
from vtrain_sim.decide import plan as search
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.layout_values import parallel_from_values
from vtrain_sim.inputs.lookup import find_model
from vtrain_sim.inputs.megatron_flags import parse_flags
from vtrain_sim.inputs.model_values import model_from_values
from vtrain_sim.inputs.step_values import step_from_values
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.specs import ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.checks import positive
from vtrain_sim.specs.train import AUTO

_NO_LIMIT = 1 << 16
_LIMITED = ("tp", "pp", "dp", "cp", "ep")
_USUAL_LIMITS = (8, _NO_LIMIT, _NO_LIMIT, 8, _NO_LIMIT)
# Values of flags that say how layers are cut into stages.
_CUTS = (
    "layers_per_chunk",
    "pipeline_layout",
    "first_stage_layers",
    "last_stage_layers",
    "embedding_is_a_layer",
    "loss_is_a_layer",
)


def plan(
    model: str | Path = "",
    *,
    cluster: str | Path = "",
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
    gpu_mtbf_hours: float = 0.0,
    checkpoint_seconds: float = 60.0,
    restart_seconds: float = 600.0,
    checkpoint_interval: float = 0.0,
    allow_tight: bool = False,
    flags: Sequence[str] = (),
    progress: Progress = unwatched,
    **fixed: Option,
) -> PlanResult:
    """Search every layout of a model on a cluster, drop what does not fit, and rank the rest.

    num_gpus: exact counts; or max_gpus: all up to it. global_batch_size: sequences per step, one or several.
    rank_by: days, dollars, time (of a step) or mfu. deadline_days: drop plans that take longer.
    gpu_mtbf_hours: mean time between failures of one GPU; days and US dollars then include failures,
    checkpoints (checkpoint_seconds each, every checkpoint_interval seconds; 0: the best) and restarts
    (restart_seconds). allow_tight: also plans with less memory to spare than projections are sure of. flags, fixed:
    Megatron's arguments that are kept as they are, for example ``tp=8``. progress: called with the configurations
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
    machine = machine_of(cluster, price_per_gpu_hour)
    limits = (max_tp, max_pp, max_dp, max_cp, max_ep)
    searched, base, bounds = _search_space(
        [*flags_of(flags), *options.flags], name_of("model", model), limits, names(schedules)
    )
    request = Request(
        searched,
        numbers("--global-batch-size", batch),
        train_tokens,
        numbers("--num-gpus", world),
        max_gpus,
        bounds,
        base,
        rank_by,
        deadline_days,
        _failures(gpu_mtbf_hours, checkpoint_seconds, restart_seconds, checkpoint_interval),
        allow_tight,
    )
    return search(request, machine.projector, top, progress)


def _named(fixed: dict[str, Option], names: Sequence[str], given: Numbers) -> object:
    """An argument, or what one of its other names gives. Raises `UserError` where both are used."""
    others = {name: fixed.pop(name) for name in names if name in fixed}
    values = [value for value in (*others.values(), given or None) if value is not None]
    if len(values) > 1:
        raise UserError(f"{' and '.join(others)} and its long name say the same thing: give one")
    return values[0] if values else ()


def _failures(mtbf: float, checkpoint: float, restart: float, interval: float) -> Failures | None:
    """Failures, where the time between them is given."""
    if mtbf:
        return Failures(mtbf, checkpoint, restart, interval)
    if interval:
        raise UserError("--checkpoint-interval needs --gpu-mtbf-hours: without failures no checkpoint is written")
    return None


def _schedules(searched: tuple[str, ...], fixed: str) -> tuple[str, ...]:
    """The schedules of a search: those to try, or the one that a flag fixes."""
    if fixed != AUTO:
        if searched not in (Bounds.schedules, (fixed,)):
            raise UserError(f"--schedule {fixed} and --schedules {','.join(searched)} disagree: give one")
        searched = (fixed,)
    for name in searched:
        known_schedules.get(name)
    return searched


def _check_limits(fixed: Mapping[str, object], limits: Sequence[int]) -> None:
    """Raise `UserError` for a size that is fixed beyond a limit that was given."""
    for name, most, usual in zip(_LIMITED, limits, _USUAL_LIMITS, strict=True):
        size = int(str(fixed.get(name, 1)))
        if size > most and most != usual:
            raise UserError(f"--max-{name} is {most}, and a flag fixes {name} at {size}: give one")


def _search_space(
    flags: Sequence[str], model: str, limits: tuple[int, int, int, int, int], schedules: tuple[str, ...]
) -> tuple[ModelSpec, TrainSpec, Bounds]:
    """The model, the training step and the bounds of a search, from Megatron's flags."""
    values = dict(parse_flags(flags).values)
    schedules = _schedules(schedules, str(values.pop("schedule", AUTO)))
    if any(name in values for name in _CUTS):
        raise UserError(
            "a search chooses the layers of each stage: fix the chunks with --num-virtual-stages-per-pipeline-rank, "
            "or use project"
        )
    searched = model_from_values(values, find_model(model) if model else None)
    step = step_from_values({**values, "micro_batch_size": 1, "global_batch_size": 1})
    fixed = parallel_from_values(values)
    check_dispatcher(str(fixed.get("moe_token_dispatcher", ParallelSpec.moe_token_dispatcher)), searched.num_experts)
    fixed |= {name: values[name] for name in ("micro_batch_size", "recompute_granularity") if name in values}
    _check_limits(fixed, limits)
    bounds = Bounds(*limits, schedules=schedules, fixed=tuple(sorted(fixed.items())))
    if "micro_batch_size" in fixed:
        bounds = replace(bounds, micro_batches=(int(fixed["micro_batch_size"]),))
    if "recompute_granularity" in fixed:
        bounds = replace(bounds, recompute=(str(fixed["recompute_granularity"]),))
    return searched, TrainSpec(**step), bounds
