"""Policies by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.decide.fleet.policies.base import ClusterPolicy
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.extensions import Registry

ENTRY_POINTS = "vtrain.cluster_policies"
_policies: Registry[ClusterPolicy] = Registry(ENTRY_POINTS, "cluster policy")
register = _policies.register
names = _policies.names


def get(name: str) -> ClusterPolicy:
    """The policy of a name; raises `UserError` if there is none."""
    found = _policies.find(name)
    if found is None:
        known = names()
        raise UserError(f"--policies has {name!r}{nearest(name, known)}: it takes {', '.join(known)}")
    return found
