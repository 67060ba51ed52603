"""1F1B: warm up, then one forward and one backward pass in turn, then drain."""

from __future__ import annotations

import numpy as np

from vtrain_sim.schedules import compiled
from vtrain_sim.schedules.one_chunk import OneChunkSchedule
from vtrain_sim.schedules.passes import BACKWARD, FORWARD, Pass
from vtrain_sim.schedules.placement import PipelineShape
from vtrain_sim.schedules.times import Floats, Integers, PassEnds, PassTimes

# Shifts of two clocks that differ by less than this part are the same.
STEADY = 1e-12


class OneFOneB(OneChunkSchedule):
    """1F1B as Megatron-Core issues it: blocking exchanges, sends and receives of the steady state in one call."""

    name = "1f1b"
    title = "1F1B"
    source = "Narayanan et al., SC'21, section 2.2.1 (PipeDream-Flush); Megatron-Core without interleaving"
    blocking = True

    def order(self, shape: PipelineShape, times: PassTimes | None = None) -> list[list[Pass]]:
        return [self._of_stage(stage, shape) for stage in range(shape.stages)]

    def _of_stage(self, stage: int, shape: PipelineShape) -> list[Pass]:
        m = shape.microbatches
        warmup = min(shape.stages - stage - 1, m)
        order = [Pass(FORWARD, 0, i) for i in range(warmup)]
        for i in range(m - warmup):
            order += [Pass(FORWARD, 0, warmup + i), Pass(BACKWARD, 0, i)]
        return order + [Pass(BACKWARD, 0, i) for i in range(m - warmup, m)]

    def in_flight(self, shape: PipelineShape) -> Floats:
        return np.array([[float(min(shape.stages - s, shape.microbatches)) for s in range(shape.stages)]])

    def ends(self, batch: PassTimes) -> PassEnds:
        ends = PassEnds.of_nothing(batch)
        sizes = [batch.first_stage, batch.stages, batch.microbatches]
        times = [batch.forward_s, batch.backward_s, batch.transfer_s, batch.ready_s]
        results = [ends.end_s, ends.gradients_s, np.zeros(int(batch.stages.max()))]
        fast = compiled.worth_compiling(batch.passes)
        compiled.call(recurrence, [*sizes, *times, *results], fast)
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
    before: Floats,
) -> None:
    """Kernel: clocks of the stages, exchange by exchange; writes end and gradients.

    Each exchange is a rendezvous of two neighbours: both leave it when the later one has come and
    the transfer is over. In the steady state the clocks after an iteration depend on those before it
    alone, and a shift of all is a shift of the result: once an iteration shifts all clocks alike, so
    do all that follow, and they are taken in one stride.
    before: scratch, as long as the largest number of stages.
    """
    for i in range(len(stages)):
        p, m, at = stages[i], microbatches[i], first_stage[i]
        for s in range(at, at + p):
            end[s] = 0.0
        warm = min(p - 1, m)
        for j in range(warm):
            for s in range(at, at + p - 1):
                if j >= min(p - (s - at) - 1, m):
                    break
                done = end[s] + forward[s]
                if j == 0:
                    done = max(done, ready[s])
                met = max(done, end[s + 1]) + transfer[s]
                end[s] = met
                end[s + 1] = met
        last = at + p - 1
        j = 0
        while j < m:
            for s in range(at, at + p):
                before[s - at] = end[s]
                if j < m - min(p - (s - at) - 1, m):
                    end[s] += forward[s]
            if j == 0:
                end[last] = max(end[last], ready[last])
            end[last] += backward[last]
            gradients[last] = end[last]
            for s in range(last - 1, at - 1, -1):
                met = max(end[s], end[s + 1]) + transfer[s]
                end[s] = met + backward[s]
                gradients[s] = end[s]
                end[s + 1] = met
            j += 1
            # Iterations in which every stage still runs a forward pass. The first may wait for parameters.
            left = m - warm - j
            if left > 0 and j > 1:
                shift = end[at] - before[0]
                steady = True
                for s in range(at + 1, at + p):
                    if abs(end[s] - before[s - at] - shift) > STEADY * end[s]:
                        steady = False
                        break
                if steady:
                    for s in range(at, at + p):
                        end[s] += left * shift
                        gradients[s] += left * shift
                    j += left
