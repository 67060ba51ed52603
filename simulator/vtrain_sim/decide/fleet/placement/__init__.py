"""On which nodes gangs run. Found by name: `get`."""

from vtrain_sim.decide.fleet.placement.base import Placement
from vtrain_sim.decide.fleet.placement.gangs import CONSOLIDATED, PACKED, SPREAD
from vtrain_sim.decide.fleet.placement.nodes import Gang, Nodes
from vtrain_sim.decide.fleet.placement.registry import IDEAL, get, names, register

for _placement in (PACKED, CONSOLIDATED, SPREAD):
    register(_placement)

__all__ = ["IDEAL", "Gang", "Nodes", "Placement", "get", "names", "register"]
