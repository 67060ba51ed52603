"""CUDA graphs: the host launches a captured part at once, instead of kernel by kernel.

Megatron-Core captures parts of a layer, whole layers, or the passes of a whole iteration (`vtrain_sim.specs.graphs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vtrain_sim.model.program import Compute, Item
from vtrain_sim.model.shard import Region, Shard
from vtrain_sim.specs.graphs import ITERATION, LAYER

# Of a permutation's kernels, those that put rows in place are outside of what a dispatcher prepares.
_ROW_KERNELS = 2


def captured(items: Sequence[Item], launches: int = 1) -> list[Item]:
    """Items of one graph: the host launches it with its first operator, and nothing after that."""
    result: list[Item] = []
    for item in items:
        if isinstance(item, Compute):
            item = replace(item, launches=launches, host_waits=False)
            launches = 0
        result.append(item)
    return result


def attention_graph(shard: Shard, region: Region) -> Region:
    """The attention block, captured where it is."""
    return _whole(region) if "attn" in shard.spec.graphed else region


def mamba_graph(shard: Shard, region: Region) -> Region:
    """A Mamba block, captured where it is."""
    return _whole(region) if "mamba" in shard.spec.graphed else region


def feed_forward_graph(shard: Shard, region: Region, mixture: bool) -> Region:
    """The feed-forward block, with what of it is captured."""
    scopes = shard.spec.graphed
    if not mixture:
        return _whole(region) if "mlp" in scopes else region
    if "moe" in scopes:
        return _whole(region)
    if "moe_router" not in scopes:
        return region
    names = {"pre_mlp_layernorm", "router", "token_drop"}
    if "moe_preprocess" in scopes:
        # A projection to a latent width is prepared with what is dispatched.
        names |= {item.name for item in region[0] if item.name.startswith("fc1_latent_proj")}
    forward, backward = (_named(items, names) for items in region)
    return (_prepared(forward), _prepared(backward)) if "moe_preprocess" in scopes else (forward, backward)


def layer_graph(shard: Shard, region: Region) -> Region:
    """A whole layer, captured where it is; with the whole iteration, whose one launch is nobody's."""
    if LAYER in shard.spec.graphed:
        return _whole(region)
    return iteration_graph(shard, region)


def iteration_graph(shard: Shard, region: Region) -> Region:
    """Any part of a pass, captured where the whole iteration is."""
    if ITERATION not in shard.spec.graphed:
        return region
    forward, backward = region
    return captured(forward, 0), captured(backward, 0)


def _whole(region: Region) -> Region:
    forward, backward = region
    return captured(forward), captured(backward)


def _named(items: Sequence[Item], names: set[str]) -> list[Item]:
    """Items of which those with these names are one graph."""
    one = iter(captured([item for item in items if item.name in names]))
    return [next(one) if item.name in names else item for item in items]


def _prepared(items: Sequence[Item]) -> list[Item]:
    return [
        replace(item, launches=_ROW_KERNELS) if isinstance(item, Compute) and item.name == "permute" else item
        for item in items
    ]
