"""Searches over many configurations: every layout of a model on a cluster, ranked."""

from vtrain_sim.decide.failures import Failures
from vtrain_sim.decide.plan import RANKINGS, Plan, PlanResult, Request, plan
from vtrain_sim.decide.space import Bounds, configurations

__all__ = ["RANKINGS", "Bounds", "Failures", "Plan", "PlanResult", "Request", "configurations", "plan"]
