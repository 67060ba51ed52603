"""DualPipe: microbatches enter the pipeline at both ends."""

from __future__ import annotations

from vtrain_sim.errors import SpecError
from vtrain_sim.schedules.base import Schedule
from vtrain_sim.schedules.both_ways import FAR, NEAR, both_ways
from vtrain_sim.schedules.passes import Pass
from vtrain_sim.schedules.placement import PipelineShape, Placement
from vtrain_sim.schedules.rules import need_microbatches, refuse_chunks
from vtrain_sim.schedules.times import PassTimes


class DualPipe(Schedule):
    """Half of the microbatches pass the stages down, the others up, each through a copy of the model of its own.

    The first half of the microbatches (by number) goes down, through the places of chunk 0. A forward and a
    backward pass that the published code overlaps begin and end as one, and take as long as both.
    """

    name = "dualpipe"
    title = "DualPipe"
    source = "DeepSeek-AI, DeepSeek-V3 Technical Report, section 3.2.1; github.com/deepseek-ai/DualPipe, dualpipe.py"
    splits_backward = True
    fills_in_warmup = True
    parameter_copies = 2

    def check(self, shape: PipelineShape) -> None:
        refuse_chunks(self.name, shape)
        if shape.stages % 2:
            raise SpecError(
                f"--schedule {self.name} needs an even --pipeline-model-parallel-size, not {shape.stages}: "
                f"{shape.stages + 1} would be"
            )
        need_microbatches(self.name, shape, 2 * shape.stages)
        if shape.microbatches % 2:
            raise SpecError(
                f"--schedule {self.name} needs an even number of microbatches, not {shape.microbatches}: "
                "change --global-batch-size or --micro-batch-size"
            )

    def placement(self, stages: int, chunks: int) -> Placement:
        return Placement.both_ways(stages)

    def order(self, shape: PipelineShape, times: PassTimes | None = None) -> list[list[Pass]]:
        return [self._of_stage(stage, shape) for stage in range(shape.stages)]

    def _of_stage(self, stage: int, shape: PipelineShape) -> list[Pass]:
        half, each_way = shape.stages // 2, shape.microbatches // 2
        mirrored = shape.stages - 1 - stage
        down, up = (NEAR, FAR) if stage < half else (FAR, NEAR)
        chunk = {down: 0, up: 1}
        return [
            Pass(kind, chunk[way], microbatch + each_way * chunk[way], paired)
            for kind, way, microbatch, paired in both_ways(min(stage, mirrored), half, each_way)
        ]
