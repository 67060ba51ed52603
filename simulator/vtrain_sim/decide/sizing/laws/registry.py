"""Scaling laws by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.decide.sizing.laws.base import ScalingLaw
from vtrain_sim.extensions import Registry

ENTRY_POINTS = "vtrain.scaling_laws"
_laws: Registry[ScalingLaw] = Registry(
    ENTRY_POINTS,
    "scaling law",
    "there is no scaling law {name}; known are {names}, a .toml or .yaml file of your own, and coefficients "
    "(coefficient=20,exponent=1 or E=,A=,B=,alpha=,beta=)",
)
register = _laws.register
names = _laws.names
get = _laws.get
