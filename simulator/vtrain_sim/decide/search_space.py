"""The model, the training step and the bounds of a search, from Megatron's flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vtrain_sim import schedules as known_schedules
from vtrain_sim.decide.search.bounds import Bounds
from vtrain_sim.decide.search.cuts import GivenCut
from vtrain_sim.errors import UserError
from vtrain_sim.inputs.layout_values import parallel_from_values
from vtrain_sim.inputs.lookup import find_model
from vtrain_sim.inputs.megatron_flags import parse_flags
from vtrain_sim.inputs.model_values import model_from_values
from vtrain_sim.inputs.searched import CUTS
from vtrain_sim.inputs.step_values import step_from_values
from vtrain_sim.model.dispatchers import check_dispatcher
from vtrain_sim.specs import ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.train import AUTO

_BATCH_SIZES = ("micro_batch_size", "global_batch_size")
_LIMITED = ("tp", "pp", "dp", "cp", "ep")


def search_space(flags: Sequence[str], model: ModelSpec | None, bounds: Bounds) -> tuple[ModelSpec, TrainSpec, Bounds]:
    """What flags, on top of a model, leave to a search within bounds: what they fix is not searched.

    Raises `UserError` for a size beyond a limit, and for flags that cut the layers as no pipeline does.
    """
    values = dict(parse_flags(flags).values)
    schedules = _schedules(bounds.schedules, str(values.pop("schedule", AUTO)))
    searched = model_from_values(values, model)
    cut = _cut(values, searched)
    step = step_from_values({**values, "micro_batch_size": 1, "global_batch_size": 1})
    fixed = parallel_from_values(values)
    check_dispatcher(str(fixed.get("moe_token_dispatcher", ParallelSpec.moe_token_dispatcher)), searched.num_experts)
    if "micro_batch_size" in values:
        fixed["micro_batch_size"] = values["micro_batch_size"]
    # What flags say of the step is not searched either.
    fixed.update({name: value for name, value in step.items() if name not in _BATCH_SIZES})
    _check_limits(fixed, bounds)
    bounds = replace(bounds, schedules=schedules, fixed=tuple(sorted(fixed.items())), cut=cut or bounds.cut)
    if "micro_batch_size" in fixed:
        bounds = replace(bounds, micro_batches=(int(fixed["micro_batch_size"]),))
    if "recompute_granularity" in fixed:
        bounds = replace(bounds, recompute=(str(fixed["recompute_granularity"]),))
    return searched, TrainSpec(**step), bounds


def _cut(values: Mapping[str, Any], model: ModelSpec) -> GivenCut | None:
    """How flags cut the layers into stages; None where none says it. Raises `UserError` where they contradict it."""
    if not any(name in values for name in CUTS):
        return None
    cut = GivenCut(
        str(values.get("pipeline_layout", "")),
        model.mtp_num_layers,
        int(values.get("layers_per_chunk", 0)),
        values.get("first_stage_layers"),
        values.get("last_stage_layers"),
        bool(values.get("embedding_is_a_layer")),
        bool(values.get("loss_is_a_layer")),
    )
    cut.check(model.num_layers)
    return cut


def _schedules(searched: tuple[str, ...], fixed: str) -> tuple[str, ...]:
    """The schedules of a search: those to try, or the one that a flag fixes."""
    if fixed != AUTO:
        if searched not in (Bounds.schedules, (fixed,)):
            raise UserError(f"--schedule {fixed} and --schedules {','.join(searched)} disagree: give one")
        searched = (fixed,)
    for name in searched:
        known_schedules.get(name)
    return searched


def _check_limits(fixed: Mapping[str, object], bounds: Bounds) -> None:
    """Raise `UserError` for a size that is fixed beyond a limit that was given."""
    for name in _LIMITED:
        size, most = int(str(fixed.get(name, 1))), getattr(bounds, f"max_{name}")
        if size > most and most != getattr(Bounds, f"max_{name}"):
            raise UserError(f"--max-{name} is {most}, and a flag fixes {name} at {size}: give one")


@dataclass(frozen=True)
class Workload:
    """A model whose layout is searched: a preset or ``config.json``, and the flags of a job's training step.

    global_batch_size: what the job says; 0: nothing. Without flags the step is that of `TrainSpec`.
    """

    model: str
    flags: tuple[str, ...] = ()
    global_batch_size: int = 0

    def space(self, bounds: Bounds) -> tuple[ModelSpec, TrainSpec, Bounds]:
        """Model, training step and bounds of the search. Raises `UserError`."""
        model = find_model(self.model) if self.model else None
        if model is not None and not self.flags:
            return model, TrainSpec(1, 1), bounds
        return search_space(self.flags, model, bounds)

    def batches(self, given: Sequence[int], usual: Sequence[int] = ()) -> tuple[int, ...]:
        """Global batches: those that are given, else the job's own, else the usual ones."""
        return tuple(given) or ((self.global_batch_size,) if self.global_batch_size else tuple(usual))
