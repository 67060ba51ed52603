"""The largest compute-optimal model that really trains in the given time."""

from vtrain_sim.decide.sizing.budget import SIZED
from vtrain_sim.decide.sizing.candidates import candidates
from vtrain_sim.decide.sizing.laws import find_law
from vtrain_sim.decide.sizing.result import Candidate, SizeResult
from vtrain_sim.decide.sizing.shapes import GPT, Shape, find_shape
from vtrain_sim.decide.sizing.size import size
from vtrain_sim.decide.sizing.tokens import TokenRule

__all__ = [
    "GPT",
    "SIZED",
    "Candidate",
    "Shape",
    "SizeResult",
    "TokenRule",
    "candidates",
    "find_law",
    "find_shape",
    "size",
]
