"""Algorithms of collectives, one file each: what each runs, and its time over the links that a group crosses."""

from vtrain_sim.costs.algorithms.base import Algorithm
from vtrain_sim.costs.algorithms.pairwise import Pairwise
from vtrain_sim.costs.algorithms.point_to_point import PointToPoint
from vtrain_sim.costs.algorithms.registry import fastest_s, register
from vtrain_sim.costs.algorithms.ring import Ring, bus_factor
from vtrain_sim.costs.algorithms.tree import Tree

for _algorithm in (Ring(), Tree(), Pairwise(), PointToPoint()):
    register(_algorithm)

__all__ = ["Algorithm", "Pairwise", "PointToPoint", "Ring", "Tree", "bus_factor", "fastest_s", "register"]
