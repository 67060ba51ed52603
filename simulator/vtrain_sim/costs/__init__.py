"""How long: the time of each operator and communication, with its error band and provenance."""

from vtrain_sim.costs.collectives import CollectiveCosts, MeasuredCollectives
from vtrain_sim.costs.estimate import INTERPOLATED, MEASURED, MODELLED, Estimate
from vtrain_sim.costs.measured import MeasuredOperators
from vtrain_sim.costs.operators import OperatorCosts
from vtrain_sim.costs.profile import Profile, load_profile

__all__ = [
    "INTERPOLATED",
    "MEASURED",
    "MODELLED",
    "CollectiveCosts",
    "Estimate",
    "MeasuredCollectives",
    "MeasuredOperators",
    "OperatorCosts",
    "Profile",
    "load_profile",
]
