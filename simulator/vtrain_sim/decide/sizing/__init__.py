"""The largest compute-optimal model that really trains in the given time."""

from vtrain_sim.decide.sizing.candidates import USUAL, candidates
from vtrain_sim.decide.sizing.laws import LAWS, tokens_for
from vtrain_sim.decide.sizing.size import Candidate, SizeResult, size

__all__ = ["LAWS", "USUAL", "Candidate", "SizeResult", "candidates", "size", "tokens_for"]
