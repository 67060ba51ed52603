"""Estimate of a collective or point-to-point transfer: measured sizes, or alpha-beta over the links.

bytes is the payload: the larger of input and output on one rank. Ring algorithms move
bus_factor(op, n) times that over each link (NCCL's performance notes).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

import duckdb

from vtrain_schemas.words import TRACES
from vtrain_sim.costs.estimate import INTERPOLATED, MEASURED, MODELLED, Estimate
from vtrain_sim.errors import UserError
from vtrain_sim.specs import ClusterSpec, NetworkSpec

_P2P = "p2p"


def bus_factor(op: str, size: int) -> float:
    """Payloads that cross one rank's link in a ring of `size` ranks."""
    if op == "all_reduce":
        return 2.0 * (size - 1) / size
    if op in ("reduce_scatter", "all_gather", "all_to_all"):
        return (size - 1) / size
    return 1.0


@dataclass
class MeasuredCollectives:
    """Transfer times: (op, ranks) -> sorted [(bytes, seconds, spread)]."""

    points: dict[tuple[str, int], list[tuple[int, float, float]]] = field(default_factory=dict)

    def add(self, op: str, size: int, nbytes: int, seconds: float, spread: float) -> None:
        """Add one measured size; points are kept sorted."""
        found = self.points.setdefault((op, size), [])
        found.append((nbytes, seconds, spread))
        found.sort()

    def estimate(self, op: str, size: int, nbytes: int) -> Estimate | None:
        """Estimate of an op that was measured with this number of ranks, or None."""
        points = self.points.get((op, size))
        if not points:
            return None
        sizes = [p[0] for p in points]
        at = bisect_left(sizes, nbytes)
        if at < len(points) and points[at][0] == nbytes:
            return Estimate(points[at][1], max(0.02, points[at][2]), MEASURED)
        if at == 0:
            return Estimate(points[0][1], 0.15, INTERPOLATED)
        if at == len(points):
            return self._beyond(points, nbytes)
        (b0, s0, d0), (b1, s1, d1) = points[at - 1], points[at]
        share = (math.log(nbytes) - math.log(b0)) / (math.log(b1) - math.log(b0))
        seconds = math.exp(math.log(s0) + share * (math.log(s1) - math.log(s0)))
        return Estimate(seconds, max(0.04, d0, d1), INTERPOLATED)

    @staticmethod
    def _beyond(points: list[tuple[int, float, float]], nbytes: int) -> Estimate:
        """Above the largest size: the time grows with the bytes at the rate of the last two."""
        b1, s1, _ = points[-1]
        rate = b1 / s1
        if len(points) > 1:
            b0, s0, _ = points[-2]
            if s1 > s0:
                rate = (b1 - b0) / (s1 - s0)
        distance = math.log(nbytes / b1)
        return Estimate(s1 + (nbytes - b1) / rate, 0.05 + 0.1 * distance, INTERPOLATED if distance < 1 else MODELLED)

    def alpha_beta(self) -> tuple[float, float] | None:
        """Latency (s) and bus bandwidth (bytes/s) that the measurements of any op suggest."""
        largest = [(s, n * bus_factor(op, size)) for (op, size), ps in self.points.items() for n, s, _ in ps[-1:]]
        smallest = [s for ps in self.points.values() for _, s, _ in ps[:1]]
        if not largest:
            return None
        rates = sorted(moved / s for s, moved in largest if s > 0)
        return min(smallest), rates[len(rates) // 2]


# Seen from one rank alone, a transfer includes an unknown wait.
ONE_SIDED_SPREAD = 0.2


def load_collectives(connection: duckdb.DuckDBPyConnection, run_ids: list[str]) -> MeasuredCollectives:
    """Transfers of microbenchmarks and traces, inside one node: the shortest duration over the ranks of each
    call, then the middle over the repetitions. Of calls that only one rank recorded, the shortest tenth."""
    rows = connection.execute(
        """
        WITH calls AS (
            SELECT t.*, c.nodes
            FROM collective_transfers t
            JOIN (SELECT run_id, rank, step, group_ranks, sequence, any_value(nodes) AS nodes,
                         CASE WHEN op IN ('send', 'recv') THEN 'p2p' ELSE op END AS op
                  FROM collectives GROUP BY ALL) c USING (run_id, rank, step, op, group_ranks, sequence)
            WHERE list_contains(?, run_id) AND bytes > 0 AND len(group_ranks) > 1 AND coalesce(c.nodes, 1) = 1
        ),
        transfers AS (
            SELECT DISTINCT run_id, step, op, group_ranks, sequence, bytes, transfer_ns, ranks_seen,
                   len(group_ranks) AS size
            FROM calls
            WHERE ranks_seen > 1 OR run_id IN (SELECT run_id FROM runs WHERE list_contains(?, source))
        )
        SELECT op, size, bytes, max(ranks_seen) > 1 AS both, median(transfer_ns),
               quantile_cont(transfer_ns, 0.84), quantile_cont(transfer_ns, 0.1), count(*)
        FROM transfers GROUP BY op, size, bytes ORDER BY ALL
        """,
        [run_ids, list(TRACES)],
    ).fetchall()
    measured = MeasuredCollectives()
    for op, size, nbytes, both, median, high, low, calls in rows:
        if both and median and median > 0:
            spread = max(0.0, high / median - 1) / math.sqrt(max(1, calls))
            measured.add(op, size, nbytes, median / 1e9, spread)
        elif low and low > 0:
            measured.add(op, size, nbytes, low / 1e9, ONE_SIDED_SPREAD)
    return measured


class CollectiveCosts:
    """Estimates communication on one cluster."""

    def __init__(self, cluster: ClusterSpec, measured: MeasuredCollectives | None = None) -> None:
        self.cluster = cluster
        self.measured = measured or MeasuredCollectives()
        self._estimates: dict[tuple[str, int, int, int, int], Estimate] = {}

    def estimate(self, op: str, size: int, nbytes: int, nodes: int = 1, sharers: int = 1) -> Estimate:
        """Duration of one call.

        size: ranks of the group; nodes: nodes that it spans; sharers: groups of the same kind that
        use one node's network at once. Raises `UserError` where nothing says how fast it is.
        """
        key = (op, size, nbytes, nodes, sharers)
        found = self._estimates.get(key)
        if found is None:
            found = self._estimate(*key)
            self._estimates[key] = found
        return found

    def _estimate(self, op: str, size: int, nbytes: int, nodes: int, sharers: int) -> Estimate:
        if size <= 1 or nbytes <= 0:
            return Estimate(0.0, 0.0, MEASURED)
        if nodes == 1:
            measured = self.measured.estimate(op, size, nbytes)
            if measured is not None:
                return measured
        network = self.cluster.intra_node if nodes == 1 else self.cluster.inter_node
        if network.bandwidth <= 1.0:
            guess = self.measured.alpha_beta()
            if guess is None:
                raise UserError(
                    f"nothing says how long {op} among {size} ranks takes on {self.cluster.name}: measure it "
                    f"with vtrain-profile collectives and add that to the catalog, or give --cluster"
                )
            latency, bandwidth = guess
            return Estimate(latency + nbytes * bus_factor(op, size) / bandwidth, 0.5, MODELLED)
        return Estimate(self._alpha_beta(network, op, size, nbytes, nodes, sharers), network.sigma, MODELLED)

    def _alpha_beta(self, network: NetworkSpec, op: str, size: int, nbytes: int, nodes: int, sharers: int) -> float:
        """Latency of the algorithm's steps, and bytes over the slowest link that they cross."""
        per_node = max(1, size // nodes)
        node_rate = network.node_bandwidth / network.oversubscription
        ramp = network.ramp_s * nbytes / (nbytes + network.ramp_bytes) if network.ramp_s else 0.0
        start = network.latency_s + ramp
        if network.copy_bandwidth:
            # Every rank also reads and writes the whole payload in its own memory.
            start += nbytes / network.copy_bandwidth
        if op in (_P2P, "send", "recv"):
            rate = network.p2p_bandwidth or network.bandwidth
            if nodes > 1 and network.p2p_node_bandwidth:
                rate = min(rate, network.p2p_node_bandwidth / network.oversubscription / sharers)
            return network.latency_s + nbytes / rate
        if op == "all_to_all":
            # Pairwise: what stays in the node goes over its links, the rest out of the node.
            inside = self.cluster.intra_node.bandwidth
            local_s = nbytes * (per_node - 1) / size / inside
            if nodes == 1:
                return start + (size - 1) * network.hop_latency_s + local_s
            leaving = nbytes * (size - per_node) / size
            out_s = leaving / network.bandwidth
            if node_rate:
                out_s = max(out_s, leaving * per_node * sharers / node_rate)
            return start + (nodes - 1) * network.hop_latency_s + max(local_s, out_s)
        rate = network.bandwidth
        if nodes > 1 and node_rate:
            # A group's rings leave a node through as many links as it has ranks there.
            rate = min(network.bandwidth * per_node, node_rate / max(1, sharers))
            rate = min(rate, self.cluster.intra_node.bandwidth) if per_node > 1 else rate
        hops = size - 1 if nodes == 1 else nodes - 1
        ring = start + hops * network.hop_latency_s + nbytes * bus_factor(op, size) / rate
        if op != "all_reduce" or nodes == 1:
            return ring
        # Double binary tree: fewer steps, every byte up and down (NCCL 2.4).
        steps = 2 * math.ceil(math.log2(nodes))
        return min(ring, start + steps * network.hop_latency_s + nbytes * 2.0 / rate)
