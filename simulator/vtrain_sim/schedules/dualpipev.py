"""DualPipeV: DualPipe cut in half, without the second copy of the parameters."""

from __future__ import annotations

from vtrain_sim.schedules.base import Schedule
from vtrain_sim.schedules.both_ways import both_ways
from vtrain_sim.schedules.passes import Pass
from vtrain_sim.schedules.placement import PipelineShape, Placement
from vtrain_sim.schedules.rules import need_microbatches, need_two_chunks
from vtrain_sim.schedules.times import PassTimes


class DualPipeV(Schedule):
    """Microbatches pass the first chunks down the stages and the second chunks back up.

    A forward and a backward pass that the published code overlaps begin and end as one, and take as long as both.
    """

    name = "dualpipev"
    title = "DualPipeV"
    source = "DeepSeek-AI, DualPipe (github.com/deepseek-ai/DualPipe), dualpipev.py; Sea AI Lab, Cut-in-half"
    splits_backward = True
    fills_in_warmup = True

    def takes_chunks(self, chunks: int) -> bool:
        return chunks == 2

    def check(self, shape: PipelineShape) -> None:
        need_two_chunks(self.name, shape)
        need_microbatches(self.name, shape, 2 * shape.stages)

    def placement(self, stages: int, chunks: int) -> Placement:
        return Placement.v_shape(stages)

    def order(self, shape: PipelineShape, times: PassTimes | None = None) -> list[list[Pass]]:
        return [both_ways(stage, shape.stages, shape.microbatches) for stage in range(shape.stages)]
