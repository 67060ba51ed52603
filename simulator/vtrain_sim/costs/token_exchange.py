"""Exchange of tokens with their experts where a token crosses each level once for each domain that it goes to.

DeepEP and HybridEP send one copy of a token to each node that has any of its experts, and from there over NVLink one to
each rank that has (DeepSeek-V3, arXiv:2412.19437, section 3.2.2; NVIDIA, HybridEP). An all-to-all sends one for each
expert. Expectations are over balanced routing.
"""

from __future__ import annotations

from vtrain_sim.costs.paths import Path
from vtrain_sim.specs import NetworkLevel
from vtrain_sim.specs.token_routing import HYBRIDEP, Delivery, domains_reached


def exchange_s(nbytes: int, path: Path, delivery: Delivery) -> float:
    """Seconds of one exchange. nbytes: one copy of all tokens of a rank.

    NVLink and network work at the same time: the slowest level decides.
    """
    choices, share = delivery.choices, delivery.share
    inside = path.crossings[0].ranks if path.crossings else path.size
    copies = domains_reached(path.size, choices, share) * (inside - 1) / inside
    slowest = nbytes * copies / _rate(path.inside, delivery)
    for crossing in path.crossings:
        nodes = crossing.domains
        leaving = nbytes * domains_reached(nodes, choices, share) * (nodes - 1) / nodes
        level = crossing.level
        slowest = max(slowest, leaving * level.oversubscription / _rate(level, delivery))
    return path.call_s(nbytes) + slowest


def _rate(level: NetworkLevel, delivery: Delivery) -> float:
    """Bytes/s of one rank with the library's kernels."""
    known = level.exchange_bandwidth or level.bandwidth
    return (level.hybridep_bandwidth or known) if delivery.library == HYBRIDEP else known
