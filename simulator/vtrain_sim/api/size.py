"""``size``: the largest compute-optimal model that trains in time."""

from __future__ import annotations

from pathlib import Path

from vtrain_sim.api.lists import Numbers, some
from vtrain_sim.api.machine import machine_of
from vtrain_sim.decide import Bounds
from vtrain_sim.decide.sizing import SizeResult
from vtrain_sim.decide.sizing import size as search
from vtrain_sim.inputs.megatron_flags import parse_flags
from vtrain_sim.inputs.step_values import step_from_values
from vtrain_sim.progress import Progress, unwatched
from vtrain_sim.specs import TrainSpec
from vtrain_sim.specs.precision import precision as precision_named


def size(
    *,
    cluster: str | Path,
    num_gpus: int,
    days: float,
    law: str = "chinchilla-20",
    global_batch_size: Numbers = (1536, 1920, 2048),
    seq_length: int = 2048,
    vocab_size: int = 51200,
    max_tp: int = 8,
    attention_backend: str = "flash",
    precision: str = "bf16",
    progress: Progress = unwatched,
) -> SizeResult:
    """Find the largest model that satisfies a scaling law at the MFU that its best plan really reaches.

    law: chinchilla-20, hoffmann-approach-3 or besiroglu. global_batch_size: sequences per step to try;
    seq_length: tokens of a sequence. precision: a name as `vtrain.job` takes it. progress: called with the models
    planned, those in time, and the share of all. Raises `UserError` where even the smallest model takes longer, with
    what would help.

    >>> import vtrain as vt
    >>> result = vt.size(cluster="dgx-a100-80gb", num_gpus=16, days=10, global_batch_size=256)
    >>> result.chosen.plan.projection.memory.fits
    True
    """
    step = step_from_values(parse_flags(precision_named(precision).all_flags).values)
    recompute = ("none", "full") if attention_backend == "flash" else ("none", "selective", "full")
    return search(
        machine_of(cluster).projector,
        num_gpus,
        days,
        some("--global-batch-size", global_batch_size, 1),
        law,
        seq_length,
        vocab_size,
        TrainSpec(1, 1, **{**step, "attention_kernel": attention_backend}),
        Bounds(max_tp=max_tp, recompute=recompute, max_cp=1),
        progress,
    )
