"""Which ranks share a node, and the groups of ranks that tell nodes and devices apart."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from vtrain_plugin.capture.process import host_name


@dataclass(frozen=True)
class NodeLayout:
    """node_of: node of each rank, from 0 in the order of their first ranks. hosts: their names in that order."""

    node_of: tuple[int, ...]
    hosts: tuple[str, ...] = ()

    @classmethod
    def of_world(cls) -> NodeLayout:
        """Ask every rank where it runs. A collective: all ranks call it.

        Nodes that the launcher counts apart (torchrun's GROUP_RANK) are apart, also where they share a host.
        """
        import torch.distributed as dist

        places: list[tuple[str, str]] = [("", "")] * dist.get_world_size()
        dist.all_gather_object(places, (host_name(), os.environ.get("GROUP_RANK", "")))
        return cls.of_places(places, [host for host, _ in places])

    @classmethod
    def of_places(cls, places: Sequence[Hashable], hosts: Sequence[str] = ()) -> NodeLayout:
        """From where each rank runs: equal places are one node."""
        order = list(dict.fromkeys(places))
        return cls(tuple(map(order.index, places)), tuple(dict.fromkeys(hosts)))

    def nodes(self, ranks: Sequence[int]) -> int:
        """Nodes that a group spans."""
        return len({self.node_of[rank] for rank in ranks})

    def ranks_per_node(self, ranks: Sequence[int]) -> int:
        """Ranks of a group on the node that has the most of them."""
        return max(Counter(self.node_of[rank] for rank in ranks).values())

    def groups(self) -> list[list[int]]:
        """Groups over some nodes with as many ranks on each, and the whole world."""
        nodes = [
            [rank for rank, place in enumerate(self.node_of) if place == node] for node in range(len(set(self.node_of)))
        ]
        groups = [
            sorted(rank for node in nodes[:spanned] for rank in node[:each])
            for spanned in sizes(len(nodes))
            for each in sizes(min(len(node) for node in nodes[:spanned]))
        ]
        world = list(range(len(self.node_of)))
        return [group for group in (*groups, *([] if world in groups else [world])) if len(group) > 1]


def sizes(largest: int) -> list[int]:
    """Powers of two up to the largest, and the largest itself."""
    powers = [1 << p for p in range(20) if (1 << p) <= largest]
    return powers if powers[-1] == largest else [*powers, largest]
