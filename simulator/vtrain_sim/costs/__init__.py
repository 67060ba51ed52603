"""How long: the time of each operator and communication, with its error band and provenance."""

from vtrain_sim.costs.collectives import CollectiveCosts, MeasuredCollectives
from vtrain_sim.costs.measured import MeasuredOperators
from vtrain_sim.costs.operators import OperatorCosts
from vtrain_sim.costs.price import INTERPOLATED, MEASURED, MODELLED, Price
from vtrain_sim.costs.profile import Profile, load_profile

__all__ = [
    "INTERPOLATED",
    "MEASURED",
    "MODELLED",
    "CollectiveCosts",
    "MeasuredCollectives",
    "MeasuredOperators",
    "OperatorCosts",
    "Price",
    "Profile",
    "load_profile",
]
