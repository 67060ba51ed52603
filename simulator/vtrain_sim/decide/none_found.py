"""Why a search found no plan, and what would help."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vtrain_sim.decide.request import Request
from vtrain_sim.decide.search.incumbents import Record
from vtrain_sim.simulate.memory import MARGIN
from vtrain_sim.simulate.projection import Projector


def why_none(request: Request, projector: Projector, counts: Sequence[int], candidates: int, record: Record) -> str:
    """Why no plan is left, and what would help."""
    where = f"{min(counts)} to {max(counts)} GPUs" if len(counts) > 1 else f"{counts[0]} GPUs"
    batches = ", ".join(map(str, request.batches))
    if not candidates:
        return (
            f"no layout of {request.model.name or 'the model'} exists on {where} with a global batch of {batches} "
            "sequences: the data parallel size must divide the batch, and the layers and heads must divide over the "
            "rest; a batch that is a multiple of the GPUs, or fewer fixed sizes, would give some"
        )
    if math.isinf(record.soonest_days) and record.tight and not request.allow_tight:
        return (
            f"none of {candidates:,} layouts fits with {MARGIN:.0%} of the memory to spare: {record.tight:,} of those "
            "that were projected do with less, and may run: --allow-tight ranks them"
        )
    if record.smallest_bytes > projector.cluster.device.memory_bytes:
        return (
            f"none of {candidates:,} layouts fits: the smallest needs {record.smallest_bytes / 2**30:.0f} of "
            f"{projector.cluster.device.memory_bytes / 2**30:.0f} GiB; more GPUs (now at most {max(counts)}), a larger "
            "--max-tp or a smaller model would"
        )
    if request.failures is not None and math.isinf(record.soonest_days):
        return (
            f"no plan ever ends: one of {max(counts)} GPUs breaks more often than a checkpoint and a restart last; "
            "--gpu-mtbf-hours, --checkpoint-seconds, --checkpoint-interval and --restart-seconds say so"
        )
    return (
        f"no plan ends within {request.deadline_days:g} days: the fastest that fits takes {record.soonest_days:.3g} "
        f"days; more GPUs (now at most {max(counts)}) or a later --deadline-days would"
    )
