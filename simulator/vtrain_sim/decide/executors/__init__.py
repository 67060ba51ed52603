"""Where the tasks of long work run: in this process, in several of this machine, or on a Ray cluster."""

from vtrain_sim.decide.executors.base import RETRIES, Executor, GivenUp
from vtrain_sim.decide.executors.local import Local
from vtrain_sim.decide.executors.on_ray import OnRay
from vtrain_sim.decide.executors.registry import ENTRY_POINTS, names, register
from vtrain_sim.decide.executors.workers import Workers

for _executor in (Local(), OnRay()):
    register(_executor)
IN_THIS_PROCESS = Workers(processes=1)

__all__ = ["ENTRY_POINTS", "IN_THIS_PROCESS", "RETRIES", "Executor", "GivenUp", "Workers", "names", "register"]
