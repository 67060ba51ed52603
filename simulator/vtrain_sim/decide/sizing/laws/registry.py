"""Scaling laws by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.decide.sizing.laws.base import ScalingLaw
from vtrain_sim.errors import UserError, nearest
from vtrain_sim.extensions import load_extensions

ENTRY_POINTS = "vtrain.scaling_laws"
_laws: dict[str, ScalingLaw] = {}


def register(law: ScalingLaw) -> ScalingLaw:
    """Make a law known by its name; raises `ValueError` if the name is taken by another one."""
    if _laws.setdefault(law.name, law) != law:
        raise ValueError(f"there is a scaling law {law.name!r} already")
    return law


def get(name: str) -> ScalingLaw:
    """The law of a name; raises `UserError` if there is none."""
    if name not in _laws:
        load_extensions(ENTRY_POINTS, register)
    if name not in _laws:
        raise UserError(
            f"there is no scaling law {name!r}{nearest(name, _laws)}; known are {', '.join(_laws)}, a .toml or .yaml "
            "file of your own, and coefficients (coefficient=20,exponent=1 or E=,A=,B=,alpha=,beta=)"
        )
    return _laws[name]


def names() -> tuple[str, ...]:
    """Names of all laws, other packages' included."""
    load_extensions(ENTRY_POINTS, register)
    return tuple(_laws)
