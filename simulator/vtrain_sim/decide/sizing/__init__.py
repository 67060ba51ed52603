"""The largest compute-optimal model that really trains in the given time."""

from vtrain_sim.decide.sizing.candidates import USUAL, candidates
from vtrain_sim.decide.sizing.laws import find_law
from vtrain_sim.decide.sizing.size import Candidate, SizeResult, size
from vtrain_sim.decide.sizing.tokens import TokenRule

__all__ = ["USUAL", "Candidate", "SizeResult", "TokenRule", "candidates", "find_law", "size"]
