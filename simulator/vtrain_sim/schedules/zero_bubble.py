"""Zero-bubble schedules that choose their order as they go: the engine of ZB-H1 and ZB-H2."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from vtrain_sim.schedules import compiled
from vtrain_sim.schedules.one_chunk import OneChunkSchedule
from vtrain_sim.schedules.passes import BACKWARD, FORWARD, WEIGHT, Pass
from vtrain_sim.schedules.placement import PipelineShape
from vtrain_sim.schedules.times import Floats, Integers, PassEnds, PassTimes

NEVER = 1e300
# What a stage chooses from, by the numbers that the kernel uses.
_KINDS = (FORWARD, BACKWARD, WEIGHT)


class ZeroBubble(OneChunkSchedule):
    """A free stage takes an input gradient that waits for it, else a forward pass while it may keep another
    microbatch, else a weight gradient (Qi et al., ICLR 2024, section 3)."""

    splits_backward = True
    adaptive = True
    overlaps_optimizer = True

    @abstractmethod
    def most_in_flight(self, stages: int) -> int:
        """Microbatches that a stage may keep."""

    @abstractmethod
    def warmup(self, stage: int, stages: int) -> int:
        """Forward passes before the first input gradient."""

    def order(self, shape: PipelineShape, times: PassTimes | None = None) -> list[list[Pass]]:
        equal = [1.0] * shape.stages
        chosen = self._run(times or PassTimes.single(shape, equal, equal, equal))[1]
        orders = []
        for kinds in chosen.reshape(shape.stages, 3 * shape.microbatches).tolist():
            count = [0, 0, 0]
            order = []
            for kind in kinds:
                order.append(Pass(_KINDS[kind], 0, count[kind]))
                count[kind] += 1
            orders.append(order)
        return orders

    def in_flight(self, shape: PipelineShape) -> Floats:
        """What a stage may keep; it does where that keeps it busy."""
        return np.full((1, shape.stages), float(min(self.most_in_flight(shape.stages), shape.microbatches)))

    def ends(self, batch: PassTimes) -> PassEnds:
        end = self._run(batch)[0]
        # The last pass of every stage is a weight gradient.
        return PassEnds(end, end.copy())

    def _run(self, batch: PassTimes) -> tuple[Floats, Integers]:
        """Ends of all stages; order of the last pipeline: [stages, 3 x microbatches] positions in `_KINDS`."""
        most, pipelines = int(batch.stages.max()), batch.stages.tolist()
        warmup = np.array([self.warmup(s, p) for p in pipelines for s in range(p)])
        limit = np.array([self.most_in_flight(p) for p in pipelines])
        passes = int((batch.stages * batch.microbatches).max())
        end, order = np.zeros(int(batch.stages.sum())), np.zeros(3 * passes, dtype=np.int64)
        times = [batch.forward_s, batch.backward_s, batch.weight_s, batch.transfer_s, batch.ready_s]
        scratch = [*np.zeros((2, passes)), np.zeros(most), *np.zeros((4, most), dtype=np.int64)]
        sizes = [batch.first_stage, batch.stages, batch.microbatches, limit, warmup]
        arguments = [*sizes, *times, end, order, *scratch]
        compiled.call(recurrence, arguments, compiled.worth_compiling(batch.passes))
        return end, order[: 3 * int(batch.stages[-1] * batch.microbatches[-1])]


def recurrence(
    first_stage: Integers,
    stages: Integers,
    microbatches: Integers,
    limit: Integers,
    warmup: Integers,
    forward: Floats,
    backward: Floats,
    weight: Floats,
    transfer: Floats,
    ready: Floats,
    end: Floats,
    order: Integers,
    forward_end: Floats,
    backward_end: Floats,
    starts: Floats,
    choice: Integers,
    forwards: Integers,
    inputs: Integers,
    weights: Integers,
) -> None:
    """Kernel: writes end and order.

    order: by stage, 3 x microbatches of 0 (forward), 1 (input gradient), 2 (weight gradient), of the pipeline
    that ran last. forward_end, backward_end: scratch, by stage and microbatch. starts, choice: scratch, by stage, when
    the pass that it chose begins, and which kind that is; forwards, inputs, weights: passes that it has taken.
    """
    for i in range(len(stages)):
        p, m, at = stages[i], microbatches[i], first_stage[i]
        for s in range(p):
            end[at + s] = 0.0
            starts[s] = 0.0 if s == 0 else NEVER
            choice[s], forwards[s], inputs[s], weights[s] = 0, 0, 0, 0
        for _ in range(3 * m * p):
            # What starts first is decided first: nothing that is decided later can reach it.
            s = 0
            for other in range(1, p):
                if starts[other] < starts[s]:
                    s = other
            order[s * 3 * m + forwards[s] + inputs[s] + weights[s]] = choice[s]
            if choice[s] == 0:
                done = starts[s] + forward[at + s]
                if forwards[s] == 0:
                    done = max(done, ready[at + s])
                forward_end[s * m + forwards[s]] = done
                forwards[s] += 1
            elif choice[s] == 1:
                done = starts[s] + backward[at + s]
                backward_end[s * m + inputs[s]] = done
                inputs[s] += 1
            else:
                done = starts[s] + weight[at + s]
                weights[s] += 1
            end[at + s] = done
            # The stage and its neighbours choose anew.
            for near in range(max(0, s - 1), min(p, s + 2)):
                f, b, w = forwards[near], inputs[near], weights[near]
                free = end[at + near]
                b_at = NEVER
                if b < f:
                    if near == p - 1:
                        b_at = max(free, forward_end[near * m + b])
                    elif inputs[near + 1] > b:
                        arrived = backward_end[(near + 1) * m + b] + transfer[at + near]
                        b_at = max(free, forward_end[near * m + b], arrived)
                f_at = NEVER
                if f < m and f - w < limit[i] and (b > 0 or f < warmup[at + near]):
                    if near == 0:
                        f_at = free
                    elif forwards[near - 1] > f:
                        f_at = max(free, forward_end[(near - 1) * m + f] + transfer[at + near - 1])
                w_at = free if w < b else NEVER
                if b_at <= f_at and b_at <= w_at:
                    starts[near], choice[near] = b_at, 1
                elif f_at <= w_at:
                    starts[near], choice[near] = f_at, 0
                else:
                    starts[near], choice[near] = w_at, 2
