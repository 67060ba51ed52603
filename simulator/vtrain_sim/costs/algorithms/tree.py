"""Double binary trees over nodes: fewer steps than a ring, every byte up and down."""

from __future__ import annotations

import math

from vtrain_sim.costs.algorithms.base import Algorithm
from vtrain_sim.costs.paths import Path


class Tree(Algorithm):
    """NCCL's double binary tree (NCCL 2.4 release notes): latency grows with the logarithm of the nodes."""

    name = "tree"
    ops = frozenset(("all_reduce",))

    def applies(self, path: Path) -> bool:
        """Trees connect nodes; inside one the ring (or a chain) is what runs."""
        return bool(path.crossings)

    def seconds(self, op: str, nbytes: int, path: Path) -> float:
        """Up and down the tree: two steps for each of its layers, two payloads over each link."""
        latency = sum(
            2 * math.ceil(math.log2(crossing.domains / crossing.outer_domains)) * crossing.level.hop_latency_s
            for crossing in path.crossings
        )
        return path.start_s(nbytes) + latency + nbytes * 2.0 / path.rate
