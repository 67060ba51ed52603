"""The network that a gang sees which has few GPUs on each node, or nodes in more racks than hold them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vtrain_sim.specs import ClusterSpec, NetworkLevel


@dataclass(frozen=True, order=True)
class Fragment:
    """How a gang lies on nodes. chunk: GPUs on one node. scattered: neighbouring nodes are in different racks."""

    chunk: int
    scattered: bool = False

    def is_no_better(self, other: Fragment) -> bool:
        """Whether the other one has no smaller parts of nodes, and no more racks."""
        return self.chunk <= other.chunk and self.scattered >= other.scattered


def rack_gpus(cluster: ClusterSpec) -> int:
    """GPUs under one switch of the level above nodes; 0: that level connects the whole cluster."""
    return cluster.inter_node.gpus


def of_segments(cluster: ClusterSpec) -> ClusterSpec:
    """The cluster with nodes of what jobs of several NVLink domains take of each (64 of 72 GPUs), if that is less."""
    segment = cluster.intra_node.segment
    return fragmented(cluster, Fragment(segment)) if segment else cluster


def fragmented(cluster: ClusterSpec, fragment: Fragment) -> ClusterSpec:
    """The cluster as seen by a gang that lies so: nodes have so few GPUs, with their part of what a node's GPUs share
    of the network; scattered: what is between nodes goes over the level above racks, with a node's part of what the
    GPUs of a rack share of it."""
    part = fragment.chunk / (cluster.intra_node.segment or cluster.gpus_per_node)
    levels = [
        replace(_of_part(level, part), gpus=level.gpus // cluster.gpus_per_node * fragment.chunk)
        for level in cluster.levels[1:]
    ]
    if fragment.scattered and len(levels) > 1:
        rack, above, *further = levels
        above = _of_part(above, cluster.gpus_per_node / cluster.inter_node.gpus)
        levels = [_no_faster(above, rack), *further]
    return replace(
        cluster,
        gpus_per_node=fragment.chunk,
        intra_node=replace(cluster.intra_node, gpus=0, segment=0),
        inter_node=levels[0],
        outer=tuple(levels[1:]),
    )


def _of_part(level: NetworkLevel, part: float) -> NetworkLevel:
    """A level of which the GPUs below share only a part."""
    return replace(
        level, node_bandwidth=level.node_bandwidth * part, p2p_node_bandwidth=level.p2p_node_bandwidth * part
    )


def _no_faster(level: NetworkLevel, other: NetworkLevel) -> NetworkLevel:
    """A level behind another one: no bandwidth is larger than that one's."""
    names = ("bandwidth", "p2p_bandwidth", "node_bandwidth", "p2p_node_bandwidth")
    # 0: not limited.
    known = {name: [rate for rate in (getattr(level, name), getattr(other, name)) if rate] for name in names}
    return replace(level, **{name: min(rates) for name, rates in known.items() if rates})
