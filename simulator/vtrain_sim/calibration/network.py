"""Fits a network's alpha-beta coefficients to a table of collectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vtrain_sim.calibration.measurements import columns_of, query
from vtrain_sim.calibration.surfaces import descend
from vtrain_sim.costs.algorithms import bus_factor
from vtrain_sim.costs.collectives import CollectiveCosts
from vtrain_sim.errors import UserError
from vtrain_sim.results import Row
from vtrain_sim.specs import ClusterSpec, NetworkLevel
from vtrain_sim.specs.checks import finite, positive

# Smaller calls are decided by protocol thresholds that no smooth curve follows.
SMALLEST_BYTES = 1 << 18
_OPS = {"alltoall": "all_to_all", "send_recv": "p2p"}
_RINGS = ("all_reduce", "all_gather", "reduce_scatter")


@dataclass(frozen=True)
class Measured:
    """One measured collective; nbytes: payload, the larger of input and output on one rank."""

    op: str
    ranks: int
    nbytes: int
    nodes: int
    seconds: float


def read_collectives(path: Path, source: str = "", system: str = "") -> list[Measured]:
    """Rows of a Parquet or CSV table with collective, gpus, nodes, bytes and duration_us (and source, system); or of
    one node's with op_name, num_gpus, message_size (elements), dtype and duration_us."""
    columns = columns_of(path)
    table, origin = "table", "source" if "source" in columns else "stack"
    if "op_name" in columns:
        table = (
            "(SELECT *, op_name AS collective, num_gpus AS gpus, 1 AS nodes, "
            "message_size * CASE dtype WHEN 'half' THEN 2 ELSE 1 END AS bytes FROM table)"
        )
    where, values = "", {}
    for column, text in ((origin, source), ("system", system)):
        if text:
            where += f" AND contains({column}, ${column})"
            values[column] = text
    rows = query(
        path,
        f"SELECT collective, gpus, bytes, nodes, median(duration_us) / 1e6 FROM {table} "
        f"WHERE bytes >= $least AND gpus > 1 AND duration_us > 0{where} GROUP BY ALL ORDER BY ALL",
        {"least": SMALLEST_BYTES, **values},
    )
    if not rows:
        raise UserError(
            f"{path} has no collective of {SMALLEST_BYTES} bytes or more" + (f" from {source}" if source else "")
        )
    measured = []
    for op, *numbers, seconds in rows:
        gpus, nbytes, nodes = (
            _whole(path, name, n) for name, n in zip(("gpus", "bytes", "nodes"), numbers, strict=True)
        )
        finite(f"{path}: duration_us", seconds)
        measured.append(Measured(_OPS.get(op, op), gpus, nbytes, nodes, float(seconds)))
    return measured


def _whole(path: Path, column: str, value: object) -> int:
    """A number of a cell. Raises `UserError`."""
    try:
        number = int(float(str(value)))
    except (ValueError, OverflowError):
        raise UserError(f"{path}: {column} is {value!r}: it takes a whole number") from None
    positive(f"{path}: {column}", number)
    return number


def fit_intra_node(cluster: ClusterSpec, rows: list[Measured]) -> tuple[NetworkLevel, str]:
    """Latency, ramp, ring and copy bandwidth of the links inside a node, from ring collectives."""
    rings = [r for r in rows if r.nodes == 1 and r.op in _RINGS]
    if len(rings) < 8:
        raise UserError(f"{len(rings)} measurements inside a node are too few to fit its links: 8 are needed")

    def network(values: np.ndarray) -> NetworkLevel:
        latency, ramp, half, bandwidth, copy = np.exp(values)
        return replace(
            cluster.intra_node,
            latency_s=latency,
            hop_latency_s=0.0,
            ramp_s=ramp,
            ramp_bytes=half,
            bandwidth=bandwidth,
            copy_bandwidth=copy,
        )

    start = np.log([3e-5, 3e-5, 4e6, cluster.intra_node.bandwidth, 3 * cluster.intra_node.bandwidth])
    return _fit(cluster, "intra_node", network, start, rings)


def fit_inter_node(cluster: ClusterSpec, rows: list[Measured]) -> tuple[NetworkLevel, str]:
    """Latency, latency of a step and bandwidth of a node, from ring collectives over whole nodes."""
    rings = [r for r in rows if r.nodes > 1 and r.ranks == r.nodes * cluster.gpus_per_node and r.op in _RINGS]
    if len(rings) < 8:
        raise UserError(f"{len(rings)} measurements over whole nodes are too few to fit the network: 8 are needed")

    def network(values: np.ndarray) -> NetworkLevel:
        latency, hop, node = np.exp(values)
        return replace(cluster.inter_node, latency_s=latency, hop_latency_s=hop, node_bandwidth=node)

    start = np.log([6e-5, 5e-6, max(cluster.inter_node.node_bandwidth, 1e9)])
    return _fit(cluster, "inter_node", network, start, rings)


def _fit(
    cluster: ClusterSpec,
    level: str,
    network: Callable[[np.ndarray], NetworkLevel],
    start: np.ndarray,
    rows: list[Measured],
) -> tuple[NetworkLevel, str]:
    measured = np.array([r.seconds for r in rows])

    def predict(values: np.ndarray) -> np.ndarray:
        costs = CollectiveCosts(replace(cluster, **{level: network(values)}))  # type: ignore[arg-type]
        return np.array([costs.over_nodes(r.op, r.ranks, r.nbytes, r.nodes).seconds for r in rows])

    def loss(values: np.ndarray) -> float:
        return float(np.abs(np.log(predict(values) / measured)).mean())

    best = descend(loss, start)
    residual = np.log(predict(best) / measured)
    fitted = replace(network(best), sigma=round(float(residual.std()), 3))
    return fitted, f"{level}: {len(rows)} measurements, mean error {np.abs(np.expm1(residual)).mean():.1%}"


def beside_fit(cluster: ClusterSpec, rows: list[Measured]) -> list[Row]:
    """Each measurement beside what the cluster's links say: seconds, bus bandwidth in bytes/s, error as a fraction."""
    costs = CollectiveCosts(cluster)
    table: list[Row] = []
    for row in rows:
        fitted = costs.over_nodes(row.op, row.ranks, row.nbytes, row.nodes).seconds
        carried = row.nbytes * bus_factor(row.op, row.ranks)
        table.append(
            {
                "op": row.op,
                "ranks": row.ranks,
                "nodes": row.nodes,
                "bytes": row.nbytes,
                "transfer_s": row.seconds,
                "fitted_s": fitted,
                "bus_bytes_per_s": carried / row.seconds,
                "fitted_bytes_per_s": carried / fitted,
                "error": fitted / row.seconds - 1,
            }
        )
    return table


def network_toml(name: str, network: NetworkLevel) -> str:
    """The section of a cluster preset."""
    names = (
        "bandwidth",
        "latency_s",
        "hop_latency_s",
        "p2p_bandwidth",
        "node_bandwidth",
        "p2p_node_bandwidth",
        "ramp_s",
        "ramp_bytes",
        "copy_bandwidth",
        "sigma",
    )
    return f"[{name}]\n" + "".join(f"{n} = {getattr(network, n):.4g}\n" for n in names if getattr(network, n))
