"""Searches over many configurations: every layout of a model on a cluster, ranked."""

from vtrain_sim.decide.failures import Failures
from vtrain_sim.decide.objective import RANKINGS
from vtrain_sim.decide.plan import plan
from vtrain_sim.decide.plan_result import Plan, PlanResult
from vtrain_sim.decide.request import Request
from vtrain_sim.decide.search.bounds import Bounds
from vtrain_sim.decide.search.space import configurations

__all__ = ["RANKINGS", "Bounds", "Failures", "Plan", "PlanResult", "Request", "configurations", "plan"]
