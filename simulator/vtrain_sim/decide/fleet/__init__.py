"""Many training jobs that share one cluster."""

from vtrain_sim.decide.fleet.conditions import Conditions
from vtrain_sim.decide.fleet.jobs import Job, generate, read_trace
from vtrain_sim.decide.fleet.outcome import Outcome, Stretch
from vtrain_sim.decide.fleet.policies import ClusterPolicy
from vtrain_sim.decide.fleet.result import FleetResult
from vtrain_sim.decide.fleet.simulate import simulate
from vtrain_sim.decide.fleet.speeds import Speeds, SpeedTable, project_speeds

__all__ = [
    "ClusterPolicy",
    "Conditions",
    "FleetResult",
    "Job",
    "Outcome",
    "SpeedTable",
    "Speeds",
    "Stretch",
    "generate",
    "project_speeds",
    "read_trace",
    "simulate",
]
