"""Scaling laws: how many tokens a model should see. Found by name: `get`; also of a user's own: `find_law`."""

from vtrain_sim.decide.sizing.laws import published
from vtrain_sim.decide.sizing.laws.base import SERVING_FLOPS, TRAINING_FLOPS, LossLaw, PowerLaw, ScalingLaw
from vtrain_sim.decide.sizing.laws.own import find_law
from vtrain_sim.decide.sizing.laws.registry import get, names, register

for _law in (
    published.CHINCHILLA_20,
    published.APPROACH_1,
    published.APPROACH_2,
    published.APPROACH_3,
    published.BESIROGLU,
):
    register(_law)

__all__ = [
    "SERVING_FLOPS",
    "TRAINING_FLOPS",
    "LossLaw",
    "PowerLaw",
    "ScalingLaw",
    "find_law",
    "get",
    "names",
    "register",
]
