"""The same machine with one of its resources faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from vtrain_sim.costs import CollectiveCosts, OperatorCosts
from vtrain_sim.costs.measured import MeasuredOperators
from vtrain_sim.costs.measured_collectives import MeasuredCollectives
from vtrain_sim.costs.surfaces import DeviceSurface, Surfaces
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ClusterSpec, NetworkLevel

_LINKS = ("bandwidth", "p2p_bandwidth", "node_bandwidth", "p2p_node_bandwidth", "exchange_bandwidth")


@dataclass(frozen=True)
class Resource:
    """Something of a machine that can be faster. title: what it is called; factor: how many times as fast it is made.

    cluster, surfaces: what that makes of them. inside_node: whether collectives measured inside a node are faster too.
    unknown: why nobody can say what it brings on a machine; "": it can be said.
    """

    name: str
    title: str
    factor: float
    cluster: Callable[[ClusterSpec, float], ClusterSpec] = lambda cluster, factor: cluster
    surfaces: Callable[[Surfaces, float], Surfaces] = lambda surfaces, factor: surfaces
    inside_node: bool = False
    unknown: Callable[[Projector], str] = lambda projector: ""

    def of(self, projector: Projector) -> Projector:
        """A projector of the machine with this resource faster."""
        operators, collectives = projector.evaluator.operators, projector.evaluator.collectives
        cluster = self.cluster(projector.cluster, self.factor)
        old = operators.surface
        new = DeviceSurface(cluster.device, self.surfaces(old.surfaces, self.factor))
        measured = MeasuredOperators(
            (operator, replace(one, seconds=one.seconds * _ratio(new.seconds(operator), old.seconds(operator))))
            for operator, one in operators.measured
        )
        transfers = _faster(collectives.measured, self.factor) if self.inside_node else collectives.measured
        return Projector(
            cluster, OperatorCosts(new, measured), CollectiveCosts(cluster, transfers), projector.step_sigma
        )


def _products(cluster: ClusterSpec, factor: float) -> ClusterSpec:
    peaks = {dtype: rate * factor for dtype, rate in cluster.device.peak_flops.items()}
    return replace(cluster, device=replace(cluster.device, peak_flops=peaks))


def _memory(cluster: ClusterSpec, factor: float) -> ClusterSpec:
    device = replace(cluster.device, memory_bandwidth=cluster.device.memory_bandwidth * factor)

    def copying(level: NetworkLevel) -> NetworkLevel:
        return replace(level, copy_bandwidth=level.copy_bandwidth * factor)

    return replace(
        cluster,
        device=device,
        intra_node=copying(cluster.intra_node),
        inter_node=copying(cluster.inter_node),
        outer=tuple(map(copying, cluster.outer)),
    )


def _waves(surfaces: Surfaces, factor: float) -> Surfaces:
    gemm = {dtype: replace(one, wave_s=one.wave_s / factor) for dtype, one in surfaces.gemm.items()}
    return replace(surfaces, gemm=gemm)


def _inside(cluster: ClusterSpec, factor: float) -> ClusterSpec:
    return replace(cluster, intra_node=_links(cluster.intra_node, factor))


def _between(cluster: ClusterSpec, factor: float) -> ClusterSpec:
    outer = tuple(_links(level, factor) for level in cluster.outer)
    return replace(cluster, inter_node=_links(cluster.inter_node, factor), outer=outer)


def _links(level: NetworkLevel, factor: float) -> NetworkLevel:
    # Of a network of which nothing is known, nothing is faster.
    return replace(level, **{name: getattr(level, name) * factor for name in _LINKS}) if level.is_known else level


def _host(surfaces: Surfaces, factor: float) -> Surfaces:
    def divided(table: Mapping[str, float]) -> dict[str, float]:
        return {name: seconds / factor for name, seconds in table.items()}

    return replace(
        surfaces,
        launch_s=surfaces.launch_s / factor,
        host_s=divided(surfaces.host_s),
        host_each_s=divided(surfaces.host_each_s),
    )


def _faster(measured: MeasuredCollectives, factor: float) -> MeasuredCollectives:
    """Measured transfers at `factor` times the bandwidth: what the smallest of them takes stays."""
    faster = MeasuredCollectives()
    for (op, size), points in measured.points.items():
        latency_s = points[0].seconds
        for point in points:
            seconds = latency_s + max(0.0, point.seconds - latency_s) / factor
            faster.add(op, size, point.nbytes, seconds, point.spread)
    return faster


def _ratio(new_s: float, old_s: float) -> float:
    return new_s / old_s if old_s > 0 else 1.0


def _unknown_network(projector: Projector) -> str:
    return "" if projector.cluster.inter_node.is_known else "nothing is known of a network between nodes"


def _unknown_launches(projector: Projector) -> str:
    surfaces = projector.evaluator.operators.surface.surfaces
    known = surfaces.launch_s or surfaces.host_s or surfaces.host_each_s
    return "" if known else "nothing says how long launches take on this machine"


# What of a machine can be faster: by a tenth, and launches twice as fast.
RESOURCES = (
    Resource("products", "matrix products, attention +10%", 1.1, _products, _waves),
    Resource("memory_bandwidth", "memory bandwidth +10%", 1.1, _memory),
    Resource("inside_node", "links inside a node +10%", 1.1, _inside, inside_node=True),
    Resource("between_nodes", "network between nodes +10%", 1.1, _between, unknown=_unknown_network),
    Resource("host", "kernel launches, half the time", 2.0, surfaces=_host, unknown=_unknown_launches),
)
