"""What runs: the operator program of each part of the model, forward and backward, on streams.

Sharding rules live here and nowhere else; parameters and memory are sums over the operators. Time is not
here: see `vtrain_sim.costs`.
"""

from vtrain_sim.model.chunks import Parts
from vtrain_sim.model.program import (
    Communication,
    Compute,
    Item,
    Program,
    Stream,
    Wait,
    communications_of,
    operators_of,
)
from vtrain_sim.model.step import StageProgram, StepProgram, build_step

__all__ = [
    "Communication",
    "Compute",
    "Item",
    "Parts",
    "Program",
    "StageProgram",
    "StepProgram",
    "Stream",
    "Wait",
    "build_step",
    "communications_of",
    "operators_of",
]
