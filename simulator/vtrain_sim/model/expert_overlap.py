"""Exchanges of tokens beside the compute of another microbatch (--overlap-moe-expert-parallel-comm).

Megatron-Core runs the forward pass of one microbatch and the backward pass of another together, layer by layer: while
tokens of one are exchanged, the other computes (DeepSeek-V3's DualPipe, arXiv:2412.19437, section 3.2.1). As every
microbatch of a steady state has such a neighbour, a layer's exchanges run beside as much compute as the layer has.

One thread of the host launches both, part by part, each on its own stream. Unless a graph holds the whole iteration,
the device waits for it: published steps of Qwen3 30B and 235B and of GPT-OSS 120B, on H100, B300 and GB200 and with
three dispatchers, take 5 to 6 ms longer for each layer and microbatch than what its parts take (docs/accuracy.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_schemas.operators import Operator
from vtrain_sim.frozen import changed
from vtrain_sim.model.program import Communication, Compute, Item, Stream, Wait


def stall(phase: str) -> Compute:
    """What the device waits for the host in one pass of a layer of experts."""
    return Compute("overlap_stall", Operator("overlap_stall", phase))


def beside_another_microbatch(items: Sequence[Item]) -> list[Item]:
    """A pass of a layer whose exchanges begin with it and have ended with it, and hold up nothing in between."""
    exchanges = [i for i in items if isinstance(i, Communication) and i.stream is Stream.EP]
    names = {exchange.name for exchange in exchanges}
    rest = [i for i in items if not (i in exchanges or (isinstance(i, Wait) and i.name in names))]
    early = [changed(exchange, blocking=False) for exchange in exchanges]
    return [*early, *rest, *(Wait(name) for name in sorted(names))]
