"""What schedules of one model chunk per stage have in common."""

from __future__ import annotations

from vtrain_sim.schedules.base import Schedule
from vtrain_sim.schedules.placement import PipelineShape, Placement
from vtrain_sim.schedules.rules import refuse_chunks


class OneChunkSchedule(Schedule):
    """A schedule without interleaving: virtual stage n is stage n."""

    def check(self, shape: PipelineShape) -> None:
        refuse_chunks(self.name, shape)

    def placement(self, stages: int, chunks: int) -> Placement:
        return Placement.in_turn(stages, chunks)
