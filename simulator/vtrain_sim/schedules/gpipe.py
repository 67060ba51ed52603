"""GPipe: every forward pass, then every backward pass."""

from __future__ import annotations

import numpy as np

from vtrain_sim.schedules import compiled
from vtrain_sim.schedules.one_chunk import OneChunkSchedule
from vtrain_sim.schedules.passes import BACKWARD, FORWARD, Pass
from vtrain_sim.schedules.placement import PipelineShape
from vtrain_sim.schedules.times import Floats, Integers, PassEnds, PassTimes


class GPipe(OneChunkSchedule):
    """GPipe with blocking exchanges."""

    name = "gpipe"
    title = "GPipe"
    source = "Huang et al., NeurIPS 2019, section 2.2"
    blocking = True

    def order(self, shape: PipelineShape, times: PassTimes | None = None) -> list[list[Pass]]:
        order = [Pass(kind, 0, i) for kind in (FORWARD, BACKWARD) for i in range(shape.microbatches)]
        return [order] * shape.stages

    def in_flight(self, shape: PipelineShape) -> Floats:
        return np.full((1, shape.stages), float(shape.microbatches))

    def ends(self, batch: PassTimes) -> PassEnds:
        ends = PassEnds.of_nothing(batch)
        sizes = [batch.first_stage, batch.stages, batch.microbatches]
        times = [batch.forward_s, batch.backward_s, batch.transfer_s, batch.ready_s]
        fast = compiled.worth_compiling(batch.passes)
        compiled.call(recurrence, [*sizes, *times, ends.end_s, ends.gradients_s], fast)
        return ends


def recurrence(
    first_stage: Integers,
    stages: Integers,
    microbatches: Integers,
    forward: Floats,
    backward: Floats,
    transfer: Floats,
    ready: Floats,
    end: Floats,
    gradients: Floats,
) -> None:
    """Kernel: clocks of the stages, exchange by exchange; writes end and gradients."""
    for i in range(len(stages)):
        p, m, at = stages[i], microbatches[i], first_stage[i]
        last = at + p - 1
        for s in range(at, at + p):
            end[s] = 0.0
        for j in range(m):
            for s in range(at, at + p):
                end[s] += forward[s]
                if j == 0:
                    end[s] = max(end[s], ready[s])
                if s < last:
                    met = max(end[s], end[s + 1]) + transfer[s]
                    end[s] = met
                    end[s + 1] = met
        for _ in range(m):
            for s in range(last, at - 1, -1):
                if s < last:
                    met = max(end[s], end[s + 1]) + transfer[s]
                    end[s] = met
                    end[s + 1] = met
                end[s] += backward[s]
                gradients[s] = end[s]
