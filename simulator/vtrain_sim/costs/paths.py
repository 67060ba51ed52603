"""The links that a group's communication crosses, level by level of the cluster's network."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from vtrain_sim.specs import Group, NetworkLevel


@dataclass(frozen=True)
class Crossing:
    """How a group crosses one level of the network.

    domains: of the level below that it spans ("nodes"). outer_domains: of this level itself. ranks: of the group in
    one node. sharers: groups that use one node's network at once.
    """

    domains: int
    outer_domains: int
    ranks: int
    sharers: int
    level: NetworkLevel = field(compare=False, repr=False)

    @property
    def hops(self) -> int:
        """Steps of a ring over all nodes that cross this level and none above."""
        return self.domains - self.outer_domains

    @property
    def rate(self) -> float:
        """Bytes/s of a ring through this level: over as many links out of a node as the group has ranks there."""
        level = self.level
        if not level.node_bandwidth:
            return level.bandwidth
        return min(level.bandwidth * self.ranks, level.node_bandwidth / level.oversubscription / self.sharers)


@dataclass(frozen=True)
class Path:
    """What a group's communication crosses: the innermost level alone, or levels above it, from the inside out.

    size: ranks of the group. inside: the innermost level. Paths of one cluster compare by where groups sit.
    """

    size: int
    crossings: tuple[Crossing, ...]
    inside: NetworkLevel = field(compare=False, repr=False)

    @classmethod
    def of_group(cls, group: Group, levels: tuple[NetworkLevel, ...]) -> Path:
        """The path of a group on a network. A job that one innermost domain holds takes all of it; one of several
        domains takes a segment of each."""
        crossings: list[tuple[int, int]] = []
        inside = levels[0]
        used = inside.segment if inside.segment and group.last_rank >= inside.gpus else inside.gpus
        for level in levels[:-1]:
            span = group.span(level.gpus // inside.gpus * used)
            if span.domains == 1:
                break
            crossings.append((span.domains, span.sharers))
        return cls._crossing(group.size, crossings, levels)

    @classmethod
    def over_nodes(cls, size: int, nodes: int, sharers: int, levels: tuple[NetworkLevel, ...]) -> Path:
        """The path of a group over so many nodes, `sharers` groups to a node, by the first two levels."""
        return cls._crossing(size, [(nodes, sharers)] if nodes > 1 else [], levels)

    @classmethod
    def _crossing(cls, size: int, spans: list[tuple[int, int]], levels: tuple[NetworkLevel, ...]) -> Path:
        outer_domains = [domains for domains, _ in spans[1:]] + [1]
        crossings = tuple(
            Crossing(domains, outer, max(1, size // domains), sharers, level)
            for (domains, sharers), outer, level in zip(spans, outer_domains, levels[1:], strict=False)
        )
        return cls(size, crossings, levels[0])

    @property
    def top(self) -> NetworkLevel:
        """The outermost level crossed; its latency is that of a call."""
        return self.crossings[-1].level if self.crossings else self.inside

    def call_s(self, nbytes: int) -> float:
        """Latency of a call, seconds."""
        level = self.top
        ramp = level.ramp_s * nbytes / (nbytes + level.ramp_bytes) if level.ramp_s else 0.0
        return level.latency_s + ramp

    def start_s(self, nbytes: int) -> float:
        """Seconds of a collective besides its steps: the call's latency, and the copies on each rank."""
        level = self.top
        start = self.call_s(nbytes)
        if level.copy_bandwidth:
            # Every rank also reads and writes the whole payload in its own memory.
            start += nbytes / level.copy_bandwidth
        return start

    @cached_property
    def ring_latency_s(self) -> float:
        """Seconds of the steps that the longest way round the group takes."""
        if not self.crossings:
            return (self.size - 1) * self.inside.hop_latency_s
        return sum(crossing.hops * crossing.level.hop_latency_s for crossing in self.crossings)

    @cached_property
    def rate(self) -> float:
        """Bytes/s of a ring or tree over the slowest of the levels."""
        if not self.crossings:
            return self.inside.bandwidth
        rate = min(crossing.rate for crossing in self.crossings)
        return min(rate, self.inside.bandwidth) if self.crossings[0].ranks > 1 else rate
