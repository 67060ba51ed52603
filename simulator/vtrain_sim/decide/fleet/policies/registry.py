"""Policies by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.decide.fleet.policies.base import ClusterPolicy
from vtrain_sim.extensions import Registry

ENTRY_POINTS = "vtrain.cluster_policies"
_policies: Registry[ClusterPolicy] = Registry(ENTRY_POINTS, "cluster policy", "--policies has {name}: it takes {names}")
register = _policies.register
names = _policies.names
get = _policies.get
