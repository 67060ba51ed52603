"""What an algorithm of a collective has to say."""

from __future__ import annotations

from abc import ABC, abstractmethod

from vtrain_sim.costs.paths import Path


class Algorithm(ABC):
    """One way to run some collectives.

    name: as NCCL's documentation has it. ops: words of `vtrain_schemas.words.COLLECTIVE_OPS`, or "p2p".
    """

    name: str
    ops: frozenset[str]

    def applies(self, path: Path) -> bool:
        """Whether it can run over this path."""
        return True

    @abstractmethod
    def seconds(self, op: str, nbytes: int, path: Path) -> float:
        """Seconds of one call; nbytes: payload, the larger of input and output on one rank."""
