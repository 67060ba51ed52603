"""In what order: pipeline schedules, each an object that knows its order, its placement of the model's chunks, the
microbatches that it keeps, and when its stages are done. Found by name: `get`; many pipelines at once: `run`."""

from vtrain_sim.schedules.base import Schedule
from vtrain_sim.schedules.batch import kept_in_flight, run
from vtrain_sim.schedules.dualpipe import DualPipe
from vtrain_sim.schedules.dualpipev import DualPipeV
from vtrain_sim.schedules.gpipe import GPipe
from vtrain_sim.schedules.interleaved import Interleaved
from vtrain_sim.schedules.one_f_one_b import OneFOneB
from vtrain_sim.schedules.passes import Exchange, Instruction, Message, Pass, Receive, ScheduleDeadlock, Send
from vtrain_sim.schedules.placement import PipelineShape, Placement
from vtrain_sim.schedules.registry import get, names, register
from vtrain_sim.schedules.replay import PassSpan, Replay, TransferSpan
from vtrain_sim.schedules.times import PassEnds, PassTimes
from vtrain_sim.schedules.zb_h1 import ZBH1
from vtrain_sim.schedules.zb_h2 import ZBH2
from vtrain_sim.schedules.zb_v import ZBV

for _schedule in (GPipe(), OneFOneB(), Interleaved(), ZBH1(), ZBH2(), ZBV(), DualPipe(), DualPipeV()):
    register(_schedule)

__all__ = [
    "Exchange",
    "Instruction",
    "Message",
    "Pass",
    "PassEnds",
    "PassSpan",
    "PassTimes",
    "PipelineShape",
    "Placement",
    "Receive",
    "Replay",
    "Schedule",
    "ScheduleDeadlock",
    "Send",
    "TransferSpan",
    "get",
    "kept_in_flight",
    "names",
    "register",
    "run",
]
