"""Estimate of a collective or point-to-point transfer: measured sizes, or the fastest algorithm over the links.

bytes is the payload: the larger of input and output on one rank.
"""

from __future__ import annotations

from vtrain_sim.costs.algorithms import bus_factor, fastest_s
from vtrain_sim.costs.estimate import MEASURED, MODELLED, Estimate
from vtrain_sim.costs.measured_collectives import MeasuredCollectives
from vtrain_sim.costs.paths import Path
from vtrain_sim.costs.token_exchange import exchange_s
from vtrain_sim.errors import UserError
from vtrain_sim.specs import ClusterSpec, Group
from vtrain_sim.specs.token_routing import Delivery, domains_reached

# Kernels of token exchanges differ by that between libraries and their versions (standard deviation of the logarithm);
# published steps of one configuration differ up to 1.8 times between containers.
_EXCHANGE_SIGMA = 0.6


class CollectiveCosts:
    """Estimates communication on one cluster. Each distinct call is estimated once."""

    def __init__(self, cluster: ClusterSpec, measured: MeasuredCollectives | None = None) -> None:
        self.cluster = cluster
        self.measured = measured or MeasuredCollectives()
        self._paths: dict[Group, Path] = {}
        self._estimates: dict[tuple[str, Group, int], Estimate] = {}

    def estimate(self, op: str, group: Group, nbytes: int) -> Estimate:
        """Duration of one call of a collective, of the slowest group of a role while all of them communicate.

        Raises `UserError` where nothing says how fast it is, and for an op that no algorithm runs.
        """
        key = (op, group, nbytes)
        estimate = self._estimates.get(key)
        if estimate is None:
            estimate = self._estimates[key] = self.over_path(op, self.path(group), nbytes)
        return estimate

    def transfer(self, boundary: Group, nbytes: int) -> Estimate:
        """Duration of one point-to-point transfer between two pipeline stages (`Groups.boundary`)."""
        return self.estimate("p2p", boundary, nbytes)

    def exchange(self, group: Group, nbytes: int, delivery: Delivery) -> Estimate:
        """Duration of one exchange of tokens that each go once to every domain with one of their experts.

        nbytes: one copy of a rank's tokens. On a network of which nothing is known, as an all-to-all of all copies.
        """
        path = self.path(group)
        if path.size <= 1 or nbytes <= 0:
            return Estimate(0.0, 0.0, MEASURED)
        if not path.top.is_known:
            copies = domains_reached(path.size, delivery.choices, delivery.share)
            return self.over_path("all_to_all", path, round(nbytes * copies))
        return Estimate(exchange_s(nbytes, path, delivery), max(path.top.sigma, _EXCHANGE_SIGMA), MODELLED)

    def path(self, group: Group) -> Path:
        """What the group's communication crosses: groups with the same path take the same time."""
        path = self._paths.get(group)
        if path is None:
            path = self._paths[group] = Path.of_group(group, self.cluster.levels)
        return path

    def over_nodes(self, op: str, size: int, nbytes: int, nodes: int = 1, sharers: int = 1) -> Estimate:
        """Duration of a call of which only the number of ranks and of nodes is known, as in tables of measurements."""
        return self.over_path(op, Path.over_nodes(size, nodes, sharers, self.cluster.levels), nbytes)

    def over_path(self, op: str, path: Path, nbytes: int) -> Estimate:
        """Duration of one call over a path."""
        if path.size <= 1 or nbytes <= 0:
            return Estimate(0.0, 0.0, MEASURED)
        if not path.crossings:
            measured = self.measured.estimate(op, path.size, nbytes)
            if measured is not None:
                return measured
        if not path.top.is_known:
            return self._guess(op, path.size, nbytes)
        return Estimate(fastest_s(op, nbytes, path), path.top.sigma, MODELLED)

    def _guess(self, op: str, size: int, nbytes: int) -> Estimate:
        """On a network of which nothing is known: the latency and bandwidth of whatever was measured."""
        guess = self.measured.alpha_beta()
        if guess is None:
            raise UserError(
                f"nothing says how long {op} among {size} ranks takes on {self.cluster.name}: measure it "
                f"with vtrain-profile collectives and add that to the catalog, or give --cluster"
            )
        latency, bandwidth = guess
        return Estimate(latency + nbytes * bus_factor(op, size) / bandwidth, 0.5, MODELLED)
