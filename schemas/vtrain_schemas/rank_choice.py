"""Which ranks of a world a capture is made on: the list that ``--ranks`` takes and `runs.chosen_ranks` keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass

FIRST_OF_NODE = "first-of-node"
_RANGE = re.compile(r"(\d+)(?:-(\d+))?$")


@dataclass(frozen=True)
class RankChoice:
    """Ranks by number, and the first of each node.

    ranges: (first, last), both included. all: every rank.
    """

    ranges: tuple[tuple[int, int], ...] = ()
    first_of_node: bool = False
    all: bool = False

    def includes(self, rank: int, local_rank: int) -> bool:
        """Whether a rank is chosen. local_rank: its number on its node."""
        if self.all or (self.first_of_node and local_rank == 0):
            return True
        return any(first <= rank <= last for first, last in self.ranges)

    def of_world(self, world_size: int, ranks_per_node: int) -> set[int]:
        """The chosen ranks of a world whose nodes have `ranks_per_node` consecutive ranks each."""
        return {rank for rank in range(world_size) if self.includes(rank, rank % max(1, ranks_per_node))}


def parse_ranks(text: str) -> RankChoice:
    """``0,8,16-23`` or ``first-of-node``, or both; "" is all ranks. Raises ValueError for anything else."""
    if not text:
        return RankChoice(all=True)
    ranges, first_of_node = [], False
    for part in (part.strip() for part in text.split(",")):
        match = _RANGE.match(part)
        if part == FIRST_OF_NODE:
            first_of_node = True
        elif match and int(match[1]) <= int(match[2] or match[1]):
            ranges.append((int(match[1]), int(match[2] or match[1])))
        else:
            raise ValueError(
                f"{text!r} is no list of ranks ({part!r}): it takes numbers and ranges such as 0,8,16-23, "
                f"or {FIRST_OF_NODE}"
            )
    return RankChoice(tuple(ranges), first_of_node)
