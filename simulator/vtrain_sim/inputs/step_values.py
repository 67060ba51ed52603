"""The training step that the values of Megatron's flags describe."""

from __future__ import annotations

from dataclasses import fields, replace

from vtrain_sim.file_table import SpecFields
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.optimizer import DIST_MUON, MUON
from vtrain_sim.specs.precision import precision_of
from vtrain_sim.specs.train import TrainSpec

_TRAIN = {f.name for f in fields(TrainSpec)}


def train_from_values(values: SpecFields, old: TrainSpec | None) -> TrainSpec:
    """The training step, on top of another one where there is one. Raises `SpecError`."""
    changes = step_from_values(values, old)
    if old is not None:
        return replace(old, **changes)
    for name, flag in (
        ("micro_batch_size", "--micro-batch-size"),
        ("global_batch_size", "--global-batch-size"),
    ):
        if name not in changes:
            raise SpecError(f"the training step is incomplete: {flag} missing")
    changes.setdefault("params_dtype", "bfloat16")
    return TrainSpec(**changes)


def step_from_values(values: SpecFields, old: TrainSpec | None = None) -> SpecFields:
    """Fields of the training step that the values of flags describe, on top of another one where there is one."""
    changes = {k: values[k] for k in values if k in _TRAIN}
    if changes.get("optimizer") == DIST_MUON:
        changes["optimizer"] = MUON
    if "checkpoint_method" in values:
        changes["recompute_method"] = values["checkpoint_method"]
        changes.setdefault("recompute_granularity", "full")
    final = values.get("final_batch")
    if final is not None and (given := changes.setdefault("global_batch_size", final)) != final:
        raise SpecError(f"--step-batch-size-schedule ends at {final}, --global-batch-size is {given}: give one")
    if values.get("transformer_impl") == "local":
        changes["attention_kernel"] = "unfused"
    elif "transformer_impl" in values:
        changes.setdefault("attention_kernel", "flash")
    if not any(changes.get(name, getattr(old, name, "")) for name in ("fp8", "fp4")):
        # All layers are in 16 bits: Megatron-Core does not look at the switch.
        changes.pop("first_last_layers_bf16", None)
    if values.get("grads_in_fp32") and values.get("grads_in_bf16"):
        raise SpecError("--accumulate-allreduce-grads-in-fp32 and --grad-reduce-in-bf16 contradict each other")
    # Without a word about the buffers, they have the type in which the optimizer takes gradients.
    narrow = values.get("optimizer_grads_dtype") == "bfloat16"
    if narrow and values.get("grads_in_fp32"):
        raise SpecError("--main-grads-dtype is bf16, which --accumulate-allreduce-grads-in-fp32 contradicts")
    _cross_entropy(values, changes, old)
    if values.get("grads_in_bf16") or narrow:
        changes["main_grads_dtype"] = "bfloat16"
    elif values.get("grads_in_fp32"):
        changes["main_grads_dtype"] = "float32"
    elif "params_dtype" in changes:
        changes["main_grads_dtype"] = _main_grads_dtype(changes["params_dtype"], old)
    return changes


def _cross_entropy(values: SpecFields, changes: SpecFields, old: TrainSpec | None) -> None:
    """Megatron fuses the loss with the switch, in the way that the other argument says."""
    before = old.cross_entropy_fusion if old is not None else ""
    if values.get("cross_entropy_fused", bool(before)):
        changes["cross_entropy_fusion"] = values.get("cross_entropy_impl", before or "native")
    elif "cross_entropy_fused" in values:
        changes["cross_entropy_fusion"] = ""


def _main_grads_dtype(params_dtype: str, old: TrainSpec | None) -> str:
    """Megatron's choice for parameters in a type; or what was chosen instead before, where that goes with them."""
    chosen = old.main_grads_dtype if old is not None else ""
    if old is not None and chosen != old.precision.main_grads_dtype and chosen in ("float32", params_dtype):
        return chosen
    return precision_of(params_dtype).main_grads_dtype
