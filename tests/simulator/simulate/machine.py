"""A machine whose every operator and communication takes a chosen number of seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from vtrain_schemas.operators import Operator
from vtrain_sim.costs import MODELLED, CollectiveCosts, Estimate
from vtrain_sim.costs.paths import Path
from vtrain_sim.inputs import presets
from vtrain_sim.model import Item
from vtrain_sim.simulate.cost_model import CostModel
from vtrain_sim.simulate.streams import STREAMS, issue
from vtrain_sim.specs import ClusterSpec
from vtrain_sim.specs.groups import Group


def cluster(overlap_efficiency: float = 1.0, overlap_slowdown: float = 1.0, p2p_sync_s: float = 0.0) -> ClusterSpec:
    """Nothing but these decides how communication, compute and the host share the device."""
    return replace(
        presets.cluster("dgx-a100-80gb"),
        overlap_efficiency=overlap_efficiency,
        overlap_slowdown=overlap_slowdown,
        contention=1.0,
        straggler_sigma=0.0,
        p2p_sync_s=p2p_sync_s,
    )


class FixedOperators:
    """Stands in for `OperatorCosts`. seconds: by "kind" or "kind/phase"; what is not named takes no time."""

    def __init__(self, seconds: Mapping[str, float], launch_s: float = 0.0) -> None:
        self.seconds = seconds
        self.surface: Any = SimpleNamespace(
            launch_seconds=lambda operator, share: launch_s, surfaces=SimpleNamespace(launch_s=launch_s, step_sigma=0.0)
        )

    def estimate(self, operator: Operator) -> Estimate:
        by_phase = self.seconds.get(f"{operator.kind}/{operator.phase}", self.seconds.get(operator.kind, 0.0))
        return Estimate(by_phase, 0.0, MODELLED)


class FixedCollectives:
    """Stands in for `CollectiveCosts`. seconds: by role; with per_byte, seconds of each byte of it."""

    def __init__(self, seconds: Mapping[str, float], per_byte: Mapping[str, float] | None = None) -> None:
        self.seconds, self.per_byte = seconds, per_byte or {}
        self._paths = CollectiveCosts(cluster())

    def estimate(self, op: str, group: Group, nbytes: int) -> Estimate:
        if group.size == 1:
            return Estimate(0.0, 0.0, MODELLED)
        fixed = self.seconds.get(f"{group.role}/{op}", self.seconds.get(group.role, 0.0))
        return Estimate(fixed + nbytes * self.per_byte.get(group.role, 0.0), 0.0, MODELLED)

    def transfer(self, boundary: Group, nbytes: int) -> Estimate:
        return Estimate(self.seconds.get("pp", 0.0), 0.0, MODELLED)

    def path(self, group: Group) -> Path:
        return self._paths.path(group)


def costs(
    operators: Mapping[str, float],
    collectives: Mapping[str, float] | None = None,
    launch_s: float = 0.0,
    **overlap: float,
) -> CostModel:
    """A cost model of this machine."""
    chosen: Any = (FixedOperators(operators, launch_s), FixedCollectives(collectives or {}))
    return CostModel(cluster(**overlap), *chosen)


def seconds_of(items: list[Item] | tuple[Item, ...], model: CostModel) -> float:
    """Duration of a program on streams that are at rest, until all of them are again."""
    clocks = [0.0] * STREAMS
    issue(model.steps(items), clocks, max)
    return max(clocks)
