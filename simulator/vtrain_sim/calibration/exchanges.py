"""Fits the rate at which ranks exchange tokens with their experts (DeepEP, NVLink all-to-all kernels) to a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vtrain_sim.calibration.measurements import columns_of, equal_to, query
from vtrain_sim.calibration.surfaces import descend
from vtrain_sim.costs.paths import Path as NetworkPath
from vtrain_sim.costs.token_exchange import exchange_s
from vtrain_sim.errors import UserError
from vtrain_sim.specs import ClusterSpec, NetworkLevel
from vtrain_sim.specs.token_routing import Delivery

# Smaller microbatches are none that a training step has.
FEWEST_TOKENS = 1024
# More nodes than these choose among groups of nodes in DeepEP's own benchmark.
MOST_NODES = 4
_BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class MeasuredExchange:
    """One measured combine. nbytes: one copy of a rank's tokens, in 16 bits; choices: experts of each. once: a token is
    sent once to each rank, whatever experts it has there; else once for each expert."""

    nodes: int
    ranks: int
    nbytes: int
    choices: int
    seconds: float
    once: bool = True

    def predicted_s(self, levels: tuple[NetworkLevel, ...]) -> float:
        """What the model says."""
        path = NetworkPath.over_nodes(self.ranks, self.nodes, 1, levels)
        if self.once:
            return exchange_s(self.nbytes, path, Delivery(self.choices))
        sent = self.nbytes * self.choices * (self.ranks - 1) / self.ranks
        return path.call_s(self.nbytes) + sent / path.inside.exchange_bandwidth


def read_exchanges(path: Path, system: str = "", node: int = 8) -> list[MeasuredExchange]:
    """Combines (bf16; a dispatch may be in 8 bits) of DeepEP's table (node_num, hidden_size, num_token, num_topk,
    combine_transmit_us; the fastest number of SMs) or of an NVLink table (op_name, num_tokens, topk, moe_ep_size,
    duration_us; the fastest kernel, whose times show a copy for each expert). node: ranks of one node where the table
    counts nodes."""
    where, values = equal_to({"system": system})
    once = "node_num" in columns_of(path)
    if once:
        sql = (
            f"SELECT node_num, {node} * node_num, num_token * hidden_size, num_topk, min(combine_transmit_us) "
            f"FROM table WHERE num_token >= $least AND node_num <= {MOST_NODES}{where} "
            "GROUP BY node_num, hidden_size, num_token, num_topk, num_experts ORDER BY ALL"
        )
    else:
        sql = (
            "SELECT 1, moe_ep_size, num_tokens * hidden_size, topk, min(duration_us) FROM table "
            "WHERE num_tokens >= $least AND op_name = 'alltoall_combine' AND moe_ep_size >= 8"
            f"{where} GROUP BY ALL ORDER BY ALL"
        )
    rows = query(path, sql, {"least": FEWEST_TOKENS, **values})
    if not rows:
        raise UserError(f"{path} has no exchange of {FEWEST_TOKENS} tokens or more")
    return [
        MeasuredExchange(int(n), int(r), int(e) * _BFLOAT16_BYTES, int(k), float(us) / 1e6, once)
        for n, r, e, k, us in rows
    ]


def fit_exchanges(cluster: ClusterSpec, rows: list[MeasuredExchange]) -> tuple[dict[str, float], tuple[str, ...]]:
    """`exchange_bandwidth` by level, and a line on each fit: inside a domain, then over nodes with that."""
    levels = cluster.levels
    fitted: dict[str, float] = {}
    report: list[str] = []
    for position, name in enumerate(("intra_node", "inter_node")):
        chosen = [r for r in rows if (r.nodes > 1) == (position == 1)]
        if chosen:
            levels, error = _fit(levels, position, chosen)
            fitted[name] = levels[position].exchange_bandwidth
            report.append(f"{name}: exchange of tokens, {len(chosen)} measurements, mean error {error:.1%}")
    return fitted, tuple(report)


def _fit(
    levels: tuple[NetworkLevel, ...], position: int, rows: list[MeasuredExchange]
) -> tuple[tuple[NetworkLevel, ...], float]:
    """The levels with the rate of one of them fitted, and the mean error."""
    measured = np.array([r.seconds for r in rows])

    def changed(rate: float) -> tuple[NetworkLevel, ...]:
        return (*levels[:position], replace(levels[position], exchange_bandwidth=rate), *levels[position + 1 :])

    def predict(rate: float) -> np.ndarray:
        return np.array([r.predicted_s(changed(rate)) for r in rows])

    def loss(values: np.ndarray) -> float:
        return float(np.abs(np.log(predict(float(np.exp(values[0]))) / measured)).mean())

    rate = float(f"{np.exp(descend(loss, np.log([levels[position].bandwidth]))[0]):.3g}")
    return changed(rate), float(np.abs(predict(rate) / measured - 1).mean())
