"""Many training jobs that share one cluster."""

from vtrain_sim.decide.fleet.jobs import Job, generate, read_trace
from vtrain_sim.decide.fleet.policies import POLICIES
from vtrain_sim.decide.fleet.result import FleetResult
from vtrain_sim.decide.fleet.simulate import Outcome, Stretch, simulate
from vtrain_sim.decide.fleet.speeds import SpeedTable, speed_tables

__all__ = [
    "POLICIES",
    "FleetResult",
    "Job",
    "Outcome",
    "SpeedTable",
    "Stretch",
    "generate",
    "read_trace",
    "simulate",
    "speed_tables",
]
