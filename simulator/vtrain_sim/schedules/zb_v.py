"""ZB-V: no bubble with the memory of 1F1B, by two chunks per stage in the shape of a V."""

from __future__ import annotations

from collections import Counter

from vtrain_sim.schedules.base import Schedule
from vtrain_sim.schedules.passes import BACKWARD, FORWARD, WEIGHT, Pass
from vtrain_sim.schedules.placement import PipelineShape, Placement
from vtrain_sim.schedules.rules import need_two_chunks
from vtrain_sim.schedules.times import PassTimes


class ZBV(Schedule):
    """The fixed order for equal durations of forward pass, input gradients and weight gradients.

    A microbatch passes the first chunks down the stages and the second chunks back up, so that the stage
    that begins is the stage that ends, and every stage can start its backward passes soon.
    """

    name = "zb-v"
    title = "ZB-V"
    source = (
        "Qi et al., Zero Bubble Pipeline Parallelism, ICLR 2024, section 6; "
        "Qi et al., Pipeline Parallelism with Controllable Memory, NeurIPS 2024"
    )
    splits_backward = True
    fills_in_warmup = True
    overlaps_optimizer = True

    def takes_chunks(self, chunks: int) -> bool:
        return chunks == 2

    def check(self, shape: PipelineShape) -> None:
        need_two_chunks(self.name, shape)

    def placement(self, stages: int, chunks: int) -> Placement:
        return Placement.v_shape(stages)

    def order(self, shape: PipelineShape, times: PassTimes | None = None) -> list[list[Pass]]:
        return [self._of_stage(stage, shape) for stage in range(shape.stages)]

    def _of_stage(self, stage: int, shape: PipelineShape) -> list[Pass]:
        # The order is made for a pipeline that fills; of a shorter one it is what remains.
        full = max(shape.microbatches, 2 * shape.stages - 1)
        count: Counter[tuple[str, int]] = Counter()
        order = []
        for kind, chunk in _kinds(stage, shape.stages, full):
            if count[kind, chunk] < shape.microbatches:
                order.append(Pass(kind, chunk, count[kind, chunk]))
            count[kind, chunk] += 1
        return order


def _kinds(stage: int, stages: int, microbatches: int) -> list[tuple[str, int]]:
    """(kind, chunk) of a stage's passes."""
    below = stages - stage
    first = [(BACKWARD, 0), (WEIGHT, 0)]
    second = [(FORWARD, 1), (BACKWARD, 1), (WEIGHT, 1)]
    # Down the V, until the first microbatch is back on the second chunk and its backward passes can begin.
    warmup = [(FORWARD, 0)] * (2 * below - 1) + [(FORWARD, 1), (FORWARD, 0)] * stage + second * below
    # All six passes take turns; once the first chunk's forward passes are over, the second chunk catches up.
    steady = [(FORWARD, 0), *first, *second] * (microbatches - stages - below + 1)
    steady += [*first, *second] * (below - 1)
    # Input gradients first: other stages wait for them, for the weight gradients nobody does.
    drain = [(BACKWARD, 0), (BACKWARD, 1)] * stage + first * below
    return [*warmup, *steady, *drain, *[(WEIGHT, 1)] * stage, *[(WEIGHT, 0)] * stage]
