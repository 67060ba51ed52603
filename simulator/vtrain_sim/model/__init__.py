"""What runs: the operator program of each part of the model, forward and backward.

Sharding rules live here and nowhere else. Time does not: see `vtrain_sim.costs`.
"""

from vtrain_sim.model.program import Communication, Compute, Item, Program
from vtrain_sim.model.stages import (
    OnceProgram,
    Parts,
    StageProgram,
    StepProgram,
    build_step,
    chunk_contents,
    layers_of,
    once_a_step,
)

__all__ = [
    "Communication",
    "Compute",
    "Item",
    "OnceProgram",
    "Parts",
    "Program",
    "StageProgram",
    "StepProgram",
    "build_step",
    "chunk_contents",
    "layers_of",
    "once_a_step",
]
