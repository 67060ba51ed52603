"""What a search keeps of a job's flags, and what it chooses itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vtrain_sim.inputs.megatron_flags import parse_flags, without

# Values of flags that say how layers are cut into stages.
CUTS = (
    "layers_per_chunk",
    "pipeline_layout",
    "first_stage_layers",
    "last_stage_layers",
    "embedding_is_a_layer",
    "loss_is_a_layer",
)
_LAYOUT = (
    *("tp", "pp", "cp", "ep", "expert_tp", "dp", "vpp", *CUTS, "microbatch_group_size", "schedule"),
    *("micro_batch_size", "sequence_parallel", "distributed_optimizer", "fsdp", "megatron_fsdp", "sharding_strategy"),
    *("overlap_param_gather", "tp_comm_overlap", "overlap_moe_comm"),
)
_RECOMPUTATION = (
    *("recompute_granularity", "recompute_method", "recompute_num_layers", "recompute_modules", "checkpoint_method"),
)
_BATCH = ("global_batch_size", "final_batch")


class Kept(NamedTuple):
    """Flags that a search keeps, those of the layout that it searches, and the global batch (0: not said)."""

    flags: tuple[str, ...]
    left_out: tuple[str, ...]
    batch: int


def to_search(flags: Sequence[str], keep_recomputation: bool = False) -> Kept:
    """A job's flags without its layout, which is searched, and its batch. Raises `SpecError`.

    keep_recomputation: what is recomputed belongs to the step that is kept, where the flags say it.
    """
    kept, left_out = without(flags, (*_LAYOUT, *(() if keep_recomputation else _RECOMPUTATION)))
    kept, _ = without(kept, _BATCH)
    values = parse_flags(flags).values
    batch: int = values.get("final_batch") or values.get("global_batch_size") or 0
    return Kept(tuple(kept), tuple(left_out), batch)
