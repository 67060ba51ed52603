"""Exchange of tokens with their experts where a token crosses each level once for each domain that it goes to.

DeepEP and HybridEP send one copy of a token to each node that has any of its experts, and from there over NVLink one to
each rank that has (DeepSeek-V3, arXiv:2412.19437, section 3.2.2; NVIDIA, HybridEP). An all-to-all sends one for each
expert. Expectations are over balanced routing.
"""

from __future__ import annotations

from vtrain_sim.costs.paths import Path
from vtrain_sim.specs.token_routing import domains_reached


def exchange_s(nbytes: int, path: Path, choices: int, share: float = 1.0) -> float:
    """Seconds of one exchange. nbytes: one copy of all tokens of a rank; choices: experts of each; share: see
    `domains_reached`.

    NVLink and network work at the same time: the slowest level decides.
    """
    inside = path.crossings[0].ranks if path.crossings else path.size
    copies = domains_reached(path.size, choices, share) * (inside - 1) / inside
    slowest = nbytes * copies / (path.inside.exchange_bandwidth or path.inside.bandwidth)
    for crossing in path.crossings:
        nodes = crossing.domains
        leaving = nbytes * domains_reached(nodes, choices, share) * (nodes - 1) / nodes
        level = crossing.level
        rate = (level.exchange_bandwidth or level.bandwidth) / level.oversubscription
        slowest = max(slowest, leaving / rate)
    return path.call_s(nbytes) + slowest
