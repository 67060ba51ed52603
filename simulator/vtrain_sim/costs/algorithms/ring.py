"""Rings: every rank passes pieces on to the next; all links are busy all the time."""

from __future__ import annotations

from vtrain_schemas.words import RING_PASSES
from vtrain_sim.costs.algorithms.base import Algorithm
from vtrain_sim.costs.paths import Path


def bus_factor(op: str, size: int) -> float:
    """Payloads that cross one rank's link in a ring of `size` ranks (NCCL's performance notes)."""
    passes = RING_PASSES.get(op)
    return 1.0 if passes is None else passes * (size - 1) / size


class Ring(Algorithm):
    """NCCL's ring: latency grows with the nodes, bandwidth is that of the slowest link."""

    name = "ring"
    ops = frozenset(("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce", "gather", "scatter"))

    def seconds(self, op: str, nbytes: int, path: Path) -> float:
        """Latency of the way round, and the payloads that cross each link."""
        return path.start_s(nbytes) + path.ring_latency_s + nbytes * bus_factor(op, path.size) / path.rate
