"""How long: the time of each operator and communication, with its error band and provenance.

What reads profiles (`vtrain_sim.costs.profile`) is imported from there: it needs the catalog and its libraries, which
a projection from bundled coefficients need not wait for.
"""

from vtrain_sim.costs.collectives import CollectiveCosts
from vtrain_sim.costs.estimate import INTERPOLATED, MEASURED, MODELLED, Estimate
from vtrain_sim.costs.measured import MeasuredOperators
from vtrain_sim.costs.measured_collectives import MeasuredCollectives
from vtrain_sim.costs.operators import OperatorCosts

__all__ = [
    "INTERPOLATED",
    "MEASURED",
    "MODELLED",
    "CollectiveCosts",
    "Estimate",
    "MeasuredCollectives",
    "MeasuredOperators",
    "OperatorCosts",
]
