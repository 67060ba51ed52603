"""What is asked: model, parallel layout, training step and cluster. Frozen and validated."""

from vtrain_sim.specs.cluster import ClusterSpec, DeviceSpec, NetworkSpec
from vtrain_sim.specs.config import Configuration
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.parallel import ParallelSpec
from vtrain_sim.specs.train import TrainSpec
from vtrain_sim.specs.validation import SpecError

__all__ = [
    "ClusterSpec",
    "Configuration",
    "DeviceSpec",
    "ModelSpec",
    "NetworkSpec",
    "ParallelSpec",
    "SpecError",
    "TrainSpec",
]
