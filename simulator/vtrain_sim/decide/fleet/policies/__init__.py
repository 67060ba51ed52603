"""Policies: which jobs of a cluster get how many GPUs. Found by name: `get`."""

from vtrain_sim.decide.fleet.policies.base import ClusterPolicy, Jobs, Scheduler
from vtrain_sim.decide.fleet.policies.elastic_flow import ELASTIC_PLANS, ELASTICFLOW
from vtrain_sim.decide.fleet.policies.gandiva import GANDIVA
from vtrain_sim.decide.fleet.policies.in_order import EDF, FIFO, PRIORITY, SRTF
from vtrain_sim.decide.fleet.policies.pollux import POLLUX
from vtrain_sim.decide.fleet.policies.registry import get, names, register
from vtrain_sim.decide.fleet.policies.tiresias import TIRESIAS
from vtrain_sim.decide.fleet.queue import by_arrival, by_deadline

# Those that are compared where nothing else is said.
USUAL = tuple(policy.name for policy in (FIFO, SRTF, EDF, ELASTICFLOW, ELASTIC_PLANS))

for _policy in (FIFO, SRTF, EDF, ELASTICFLOW, ELASTIC_PLANS, PRIORITY, TIRESIAS, GANDIVA, POLLUX):
    register(_policy)

__all__ = ["USUAL", "ClusterPolicy", "Jobs", "Scheduler", "by_arrival", "by_deadline", "get", "names", "register"]
