"""What runs: the operator program of each part of the model, forward and backward.

Sharding rules live here and nowhere else. Time does not: see `vtrain_sim.costs`.
"""

from vtrain_sim.operators.program import Communication, Compute, Item, Program
from vtrain_sim.operators.stages import StageProgram, StepProgram, build_step

__all__ = ["Communication", "Compute", "Item", "Program", "StageProgram", "StepProgram", "build_step"]
