"""Where the ranks of a group sit, by Megatron's rank order: tp first, then cp, dp, and pp last."""

from __future__ import annotations

from vtrain_sim.specs import Configuration


def placement(configuration: Configuration, role: str, size: int, per_node: int) -> tuple[int, int]:
    """Nodes that a group spans, and groups of its kind that share a node's network.

    Expert groups are numbered etp first, then ep, then expert data parallel (Megatron-Core's
    `expert_rank_generator`).
    """
    parallel = configuration.parallel
    stage_ranks = parallel.tp * parallel.cp * parallel.dp
    if role == "mp":
        spanned = parallel.world_size if parallel.pp > 1 else size
        return max(1, -(-spanned // per_node)), 1
    if role in ("pp", "embedding"):
        # The slowest boundary sets the pace: one that leaves a node if any does. All ranks of a stage on one
        # node send at the same time.
        if parallel.world_size <= per_node:
            return 1, 1
        return 2, min(per_node, stage_ranks)
    stride = {
        "cp": parallel.tp,
        "dp": parallel.tp,
        "ep": parallel.etp,
        "expert_dp": parallel.etp * parallel.ep,
    }.get(role, 1)
    in_node = max(1, min(size, per_node // stride)) if stride < per_node else 1
    return -(-size // in_node), max(1, min(per_node, stride))
