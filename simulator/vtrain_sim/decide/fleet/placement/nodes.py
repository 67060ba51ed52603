"""The nodes of a cluster, and which of their GPUs are free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Places = list[tuple[int, int]]  # nodes, and how many GPUs of each


@dataclass(frozen=True)
class Gang:
    """The GPUs of a job, all or nothing.

    nodes: nodes and the GPUs on them, a bit each. chunk: all but the last few GPUs are in groups of at least so many on
    one node. scattered: over more racks than would hold the nodes.
    """

    nodes: tuple[tuple[int, int], ...]
    chunk: int
    scattered: bool = False

    @property
    def gpus(self) -> int:
        """How many GPUs it has."""
        return sum(mask.bit_count() for _, mask in self.nodes)

    def is_apart(self, gpus: int, size: int) -> bool:
        """Whether so many GPUs are on more nodes than would hold them, or in more racks. size: GPUs of a node."""
        return self.chunk < min(gpus, size) or self.scattered


class Nodes:
    """Nodes of the same size, but perhaps the last, in racks of the same size.

    free: GPUs that no job has, by node; none of a node that is down. up: which nodes work. size: GPUs of a node; rack:
    nodes of a rack, 0: the network has no racks.
    """

    def __init__(self, capacity: int, size: int, rack_gpus: int = 0) -> None:
        self.size, self.rack = size, rack_gpus // size
        count = -(-capacity // size)
        self.sizes: NDArray[np.int64] = np.full(count, size, dtype=np.int64)
        self.sizes[-1] = capacity - size * (count - 1)
        self.free = self.sizes.copy()
        self.up: NDArray[np.bool_] = np.ones(count, dtype=np.bool_)
        self._masks = [(1 << int(gpus)) - 1 for gpus in self.sizes]

    def take(self, places: Places, chunk: int) -> Gang:
        """The lowest free GPUs of these nodes; a node may be named several times."""
        wanted: dict[int, int] = {}
        for node, gpus in places:
            wanted[node] = wanted.get(node, 0) + gpus
        gang = Gang(
            tuple((node, _lowest(self._masks[node], gpus)) for node, gpus in wanted.items()),
            chunk,
            self._is_scattered(wanted),
        )
        self.retake(gang)
        return gang

    def retake(self, gang: Gang) -> None:
        """The same GPUs again."""
        for node, mask in gang.nodes:
            self._masks[node] &= ~mask
            self.free[node] -= mask.bit_count()

    def are_free(self, gang: Gang) -> bool:
        """Whether nobody has any of these GPUs, and their nodes are up."""
        return all(self.up[node] and self._masks[node] & mask == mask for node, mask in gang.nodes)

    def release(self, gang: Gang) -> None:
        """Give the GPUs of a gang back."""
        for node, mask in gang.nodes:
            self._masks[node] |= mask
            if self.up[node]:
                self.free[node] += mask.bit_count()

    def fail(self, node: int) -> None:
        """A node goes down; jobs on it are released by the caller."""
        self.up[node] = False
        self.free[node] = 0

    def repair(self, node: int) -> None:
        """A node comes back, empty."""
        self.up[node] = True
        self.free[node] = self.sizes[node]

    @property
    def working_gpus(self) -> int:
        """GPUs of the nodes that are up."""
        return int(self.sizes[self.up].sum())

    @property
    def whole_gpus(self) -> int:
        """GPUs of the nodes of full size that are up; where there is no such node at all, of those that there are."""
        whole = self.sizes == self.size
        return int(self.sizes[self.up & whole].sum()) if whole.any() else self.working_gpus

    def holds(self, gpus: int) -> bool:
        """Whether so many GPUs are free in as few nodes as hold them."""
        whole, rest = divmod(gpus, self.size)
        empty = np.count_nonzero(self.free == self.size)
        if empty < whole:
            return False
        return bool(not rest or empty > whole or (self.free[self.free < self.size] >= rest).any())

    def _is_scattered(self, nodes: dict[int, int]) -> bool:
        if not self.rack:
            return False
        return len({node // self.rack for node in nodes}) > -(-len(nodes) // self.rack)


def _lowest(mask: int, count: int) -> int:
    """The lowest so many bits of a mask."""
    if mask.bit_count() == count:
        return mask
    chosen = 0
    for _ in range(count):
        bit = mask & -mask
        chosen |= bit
        mask ^= bit
    return chosen
