"""Pairwise exchange: every rank sends each other rank its own part."""

from __future__ import annotations

from vtrain_sim.costs.algorithms.base import Algorithm
from vtrain_sim.costs.paths import Crossing, Path


class Pairwise(Algorithm):
    """All-to-all: what stays in a node goes over its links, the rest through the levels above, all at once."""

    name = "pairwise"
    ops = frozenset(("all_to_all",))

    def seconds(self, op: str, nbytes: int, path: Path) -> float:
        """Latency of the exchanges, and the slowest of the levels."""
        inside = path.crossings[0].ranks if path.crossings else path.size
        slowest = nbytes * (inside - 1) / path.size / path.inside.bandwidth
        for crossing in path.crossings:
            slowest = max(slowest, _leaving_s(nbytes, path.size, crossing))
        return path.start_s(nbytes) + path.ring_latency_s + slowest


def _leaving_s(nbytes: int, size: int, crossing: Crossing) -> float:
    """Seconds of what leaves a node: over each rank's own link, and over what the node's ranks share."""
    level = crossing.level
    leaving = nbytes * (size - crossing.ranks) / size
    seconds = leaving / level.bandwidth
    if level.node_bandwidth:
        shared = level.node_bandwidth / level.oversubscription
        seconds = max(seconds, leaving * crossing.ranks * crossing.sharers / shared)
    return seconds
