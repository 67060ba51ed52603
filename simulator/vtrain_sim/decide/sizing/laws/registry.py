"""Scaling laws by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.decide.sizing.laws.base import ScalingLaw
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.extensions import Registry

ENTRY_POINTS = "vtrain.scaling_laws"
_laws: Registry[ScalingLaw] = Registry(ENTRY_POINTS, "scaling law")
register = _laws.register
names = _laws.names


def get(name: str) -> ScalingLaw:
    """The law of a name; raises `UserError` if there is none."""
    found = _laws.find(name)
    if found is None:
        known = names()
        raise UserError(
            f"there is no scaling law {name!r}{nearest(name, known)}; known are {', '.join(known)}, a .toml or .yaml "
            "file of your own, and coefficients (coefficient=20,exponent=1 or E=,A=,B=,alpha=,beta=)"
        )
    return found
