"""Selective recomputation: modules that run again in the backward pass, and keep less for it.

Megatron-Core's ``--recompute-modules`` (`vtrain_sim.specs.recompute`). A module that is checkpointed keeps its input
(Chen et al. 2016, arXiv:1604.06174). One whose output is discarded (layernorm, moe_act, mla_up_proj) keeps what it
needs for its own backward pass; what uses its output keeps nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.frozen import changed
from vtrain_sim.model.program import Compute, Item
from vtrain_sim.model.shard import Region, Shard, recompute, run_again


def without_saves(items: Sequence[Item], names: Sequence[str] = ()) -> list[Item]:
    """Items that keep nothing for the backward pass: those of these names, or all."""
    return [
        changed(item, saves=0) if isinstance(item, Compute) and (not names or item.name in names) else item
        for item in items
    ]


def checkpointed(region: Region) -> Region:
    """A region that keeps nothing and runs again ahead of its backward pass. What keeps its input is elsewhere."""
    forward, backward = region
    return without_saves(forward), [*run_again(forward), *backward]


def casts_of(items: Sequence[Item], name: str) -> list[Item]:
    """The conversions of the input of a linear layer, again: what they make is kept no more."""
    return [recompute(item) for item in items if isinstance(item, Compute) and _casts(item, name)]


def _casts(item: Compute, name: str) -> bool:
    """Whether an item converts an operand of a linear layer."""
    return item.name == f"{name}_{item.operator.kind}"


def recompute_experts(shard: Shard, region: Region) -> Region:
    """A block of experts (norm first) with what of it runs again."""
    spec, (norm, *forward), back = shard.spec, region[0], list(region[1])
    norm_backward = back.pop()
    assert isinstance(norm, Compute)
    if spec.recomputes("moe"):
        forward, back = checkpointed((forward, back))
        # Its input, the norm's output, which nothing else keeps.
        norm = changed(norm, saves=norm.saves + shard.checkpoint_bytes)
    elif spec.recomputes("moe_act"):
        forward, back = _without_activation(forward, back)
    if spec.recomputes("layernorm"):
        # Its output, which the router keeps, or what is checkpointed begins with.
        whole, router = spec.recomputes("moe"), _first(forward, "router")
        if whole:
            norm = changed(norm, saves=norm.saves - shard.checkpoint_bytes)
        else:
            forward[router] = _keeping_less(forward[router], shard.checkpoint_bytes)
        place = 0 if whole else _first(back, "router")
        back[place:place] = [recompute(norm)]
    return [norm, *forward], [*back, norm_backward]


def _keeping_less(item: Item, nbytes: int) -> Item:
    return changed(item, saves=item.saves - nbytes) if isinstance(item, Compute) else item


def _without_activation(forward: list[Item], back: list[Item]) -> Region:
    """The experts' activation runs again; the second product keeps nothing of it."""
    place = max(index for index, item in enumerate(forward) if item.name == "experts_fc2")
    activation = max(index for index in range(place) if forward[index].name == "activation")
    bounds = [item for item in forward[activation - 1 : activation] if item.name == "clamp"]
    again = run_again([*bounds, forward[activation], *casts_of(forward, "experts_fc2")])
    first = _first(back, "experts_fc2")
    # Of the first product's output, one copy is kept: within its bounds it is made again too.
    return without_saves(forward, ["experts_fc2", "clamp"]), [*back[:first], *again, *back[first:]]


def _first(items: Sequence[Item], name: str) -> int:
    """Where the first item of a linear layer, or a conversion for it, is."""
    return next(
        index
        for index, item in enumerate(items)
        if item.name == name or (isinstance(item, Compute) and _casts(item, name))
    )
