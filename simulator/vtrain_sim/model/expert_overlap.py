"""Exchanges of tokens beside the compute of another microbatch (--overlap-moe-expert-parallel-comm).

Megatron-Core runs the forward pass of one microbatch and the backward pass of another together, layer by layer: while
tokens of one are exchanged, the other computes (DeepSeek-V3's DualPipe, arXiv:2412.19437, section 3.2.1). As every
microbatch of a steady state has such a neighbour, a layer's exchanges run beside as much compute as the layer has.

One thread of the host launches both, part by part, each on its own stream. Unless a graph holds the whole iteration,
that takes the host longer than one microbatch after the other does, and the device waits for it now and then: published
steps of four models on four kinds of GPU tell how long (docs/accuracy.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_schemas.operators import Operator
from vtrain_sim.frozen import changed
from vtrain_sim.model.program import Communication, Compute, Item, Stream, Wait


def launch(phase: str) -> Compute:
    """What the host takes for one pass of a layer of experts beside everything else, and the device waits."""
    return Compute("overlap_launch", Operator("overlap_launch", phase))


def beside_another_microbatch(items: Sequence[Item], launched: Sequence[Compute] = ()) -> list[Item]:
    """A pass of a layer whose exchanges begin with it and have ended with it, and hold up nothing in between.

    launched: what starting its parts takes (`launch`).
    """
    exchanges = [i for i in items if isinstance(i, Communication) and i.stream is Stream.EP]
    names = {exchange.name for exchange in exchanges}
    rest = [i for i in items if not (i in exchanges or (isinstance(i, Wait) and i.name in names))]
    early = [changed(exchange, blocking=False) for exchange in exchanges]
    return [*early, *launched, *rest, *(Wait(name) for name in sorted(names))]
