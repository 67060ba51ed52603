"""Searches over many configurations: every layout of a model on a cluster, ranked."""

from vtrain_sim.search.failures import Failures
from vtrain_sim.search.plan import RANKINGS, Plan, PlanResult, Request, plan
from vtrain_sim.search.space import Bounds, configurations

__all__ = ["RANKINGS", "Bounds", "Failures", "Plan", "PlanResult", "Request", "configurations", "plan"]
