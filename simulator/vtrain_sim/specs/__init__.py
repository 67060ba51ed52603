"""What to simulate: model, parallel layout, training step and cluster. Frozen and validated."""

from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.cluster import ClusterSpec, DeviceSpec, NetworkLevel
from vtrain_sim.specs.config import Configuration
from vtrain_sim.specs.groups import Group, Groups
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.parallel import ParallelSpec
from vtrain_sim.specs.precision import Precision
from vtrain_sim.specs.train import TrainSpec

__all__ = [
    "ClusterSpec",
    "Configuration",
    "DeviceSpec",
    "Group",
    "Groups",
    "ModelSpec",
    "NetworkLevel",
    "ParallelSpec",
    "Precision",
    "SpecError",
    "TrainSpec",
]
