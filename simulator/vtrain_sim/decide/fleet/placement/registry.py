"""Placements by name: those that come with vtrain, those that were registered, and those of other packages."""

from __future__ import annotations

from vtrain_sim.decide.fleet.placement.base import Placement
from vtrain_sim.extensions import Registry

ENTRY_POINTS = "vtrain.placements"
# Gangs are counted, not placed: each is as fast as on as few nodes as hold it.
IDEAL = "ideal"
_placements: Registry[Placement] = Registry(
    ENTRY_POINTS, "placement", "--placement is {name}: it takes {names}", also=(IDEAL,)
)
register = _placements.register
names = _placements.names


def get(name: str) -> Placement | None:
    """The placement of a name, None for that of none at all; raises `UserError` if there is no such name."""
    return None if name == IDEAL else _placements.get(name)
