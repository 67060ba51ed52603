"""What a job would run on: a cluster, its cost surfaces, and what was measured on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vtrain_sim.api.arguments import name_of
from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.errors import UserError
from vtrain_sim.inputs import presets
from vtrain_sim.inputs.lookup import find_cluster
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import ClusterSpec
from vtrain_sim.specs.cluster import PRICE

if TYPE_CHECKING:
    from vtrain_sim.costs.profile import Profile


@dataclass(frozen=True, eq=False)
class Machine:
    """A cluster with its device's coefficients. profile: measured operators and collectives that go before them.

    Two machines are equal only if they are the same object: it holds the projector and all that it has estimated.
    """

    cluster: ClusterSpec
    surfaces: Surfaces
    profile: Profile | None = None

    @cached_property
    def projector(self) -> Projector:
        """Projects configurations on this machine; what configurations share is estimated once."""
        if self.profile is None:
            return Projector.modelled(self.cluster, self.surfaces)
        from vtrain_sim.costs import CollectiveCosts, OperatorCosts
        from vtrain_sim.costs.surfaces import DeviceSurface

        operators = OperatorCosts(DeviceSurface(self.cluster.device, self.surfaces), self.profile.operators)
        collectives = CollectiveCosts(self.cluster, self.profile.collectives)
        return Projector(self.cluster, operators, collectives, self.profile.step_spread)

    def priced(self, price_per_gpu_hour: float) -> Machine:
        """The same at another price, in US dollars. Raises `UserError` for one that is none."""
        PRICE.check("--price-per-gpu-hour", price_per_gpu_hour)
        return replace(self, cluster=replace(self.cluster, price_per_gpu_hour=price_per_gpu_hour))


def machine_of(cluster: str | Path | Machine, price_per_gpu_hour: float | None = None) -> Machine:
    """The machine of a cluster preset or file. price_per_gpu_hour: US dollars, instead of the cluster's own.

    Raises `UserError` for an unknown name, with the nearest.
    """
    machine = cluster if isinstance(cluster, Machine) else _named(name_of("cluster", cluster))
    if price_per_gpu_hour is None:
        return machine
    return machine.priced(price_per_gpu_hour)


def _named(name: str) -> Machine:
    if not name:
        raise UserError(f"on which cluster is not said: give one of {', '.join(presets.names('clusters'))}, or a file")
    return _of_file(name) if name.endswith((".toml", ".yaml", ".yml")) else _of_preset(name)


def _of_file(name: str) -> Machine:
    cluster, surfaces = find_cluster(name)
    return Machine(cluster, Surfaces.from_dict(surfaces))


# A preset does not change: jobs on it share one projector and all that it has estimated.
_of_preset = cache(_of_file)
