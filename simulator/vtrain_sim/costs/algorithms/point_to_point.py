"""Point-to-point transfers."""

from __future__ import annotations

from vtrain_sim.costs.algorithms.base import Algorithm
from vtrain_sim.costs.paths import Path


class PointToPoint(Algorithm):
    """One rank sends, another receives, without the copies and protocol steps of a collective."""

    name = "point to point"
    ops = frozenset(("p2p", "send", "recv"))

    def seconds(self, op: str, nbytes: int, path: Path) -> float:
        """Latency, and the slowest link: the rank's own, or its share of a node's."""
        top = path.top
        rate = top.p2p_bandwidth or top.bandwidth
        for crossing in path.crossings:
            level = crossing.level
            if level.p2p_node_bandwidth:
                rate = min(rate, level.p2p_node_bandwidth / level.oversubscription / crossing.sharers)
        return top.latency_s + nbytes / rate
