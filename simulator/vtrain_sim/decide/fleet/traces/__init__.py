"""Published traces of clusters. Found by name: `get`; by a file: `detect`."""

from vtrain_sim.decide.fleet.traces.alibaba import Alibaba2020, Alibaba2023
from vtrain_sim.decide.fleet.traces.base import Recorded, Recording, TraceFormat
from vtrain_sim.decide.fleet.traces.philly import Philly
from vtrain_sim.decide.fleet.traces.registry import detect, get, names, register
from vtrain_sim.decide.fleet.traces.slurm import Acme, Helios

for _format in (Philly(), Helios(), Acme(), Alibaba2020(), Alibaba2023()):
    register(_format)

__all__ = ["Recorded", "Recording", "TraceFormat", "detect", "get", "names", "register"]
