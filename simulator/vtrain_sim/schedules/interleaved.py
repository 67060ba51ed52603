"""Interleaved 1F1B: each stage has several chunks of the model, and microbatches pass them in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vtrain_sim.errors import SpecError
from vtrain_sim.schedules import compiled
from vtrain_sim.schedules.base import Schedule
from vtrain_sim.schedules.in_flight import moments_of
from vtrain_sim.schedules.passes import BACKWARD, FORWARD, Pass
from vtrain_sim.schedules.placement import PipelineShape, Placement
from vtrain_sim.schedules.times import Booleans, Floats, Integers, PassEnds, PassTimes

# Shifts of two passes that differ by less than this part of their end are the same.
STEADY = 1e-12


@dataclass(frozen=True)
class Interleaved(Schedule):
    """Interleaved 1F1B as Megatron-Core runs it.

    group_size: microbatches that pass one chunk of a stage before the stage turns to the next chunk
    (--microbatch-group-size-per-virtual-pipeline-stage); 0 is Megatron-Core's default, the number of stages.
    """

    group_size: int = 0

    name = "interleaved"
    title = "Interleaved 1F1B"
    source = "Narayanan et al., SC'21, section 2.2.2; Megatron-Core's get_schedule_table"
    waits_for_sends = True

    def takes_chunks(self, chunks: int) -> bool:
        return chunks > 1

    def with_group_size(self, group_size: int) -> Schedule:
        return replace(self, group_size=group_size)

    def check(self, shape: PipelineShape) -> None:
        if shape.chunks == 1:
            raise SpecError("--schedule interleaved needs --num-layers-per-virtual-pipeline-stage")
        p, m, group = shape.stages, shape.microbatches, self.group(shape.stages)
        if self.group_size == 0 and m % p:
            raise SpecError(
                f"the interleaved schedule needs a number of microbatches ({m}) that "
                f"--pipeline-model-parallel-size ({p}) divides: change --global-batch-size or --micro-batch-size"
            )
        if not p <= group <= m:
            raise SpecError(
                f"--microbatch-group-size-per-virtual-pipeline-stage is {group}: it must be from {p} "
                f"(--pipeline-model-parallel-size) to {m} (microbatches)"
            )
        if 0 < m % group < p:
            raise SpecError(
                f"--microbatch-group-size-per-virtual-pipeline-stage is {group}, which leaves {m % group} of {m} "
                f"microbatches for the last group: 0 or at least {p} (--pipeline-model-parallel-size) would be valid"
            )

    def group(self, stages: int) -> int:
        """Microbatches in each group but the last, which may be smaller."""
        return self.group_size or stages

    def placement(self, stages: int, chunks: int) -> Placement:
        return Placement.in_turn(stages, chunks)

    def table(self, shape: PipelineShape) -> list[tuple[int, int]]:
        """(microbatch, chunk) of each forward pass of a stage, in order: the same on every stage."""
        m, group = shape.microbatches, self.group(shape.stages)
        return [
            (microbatch, chunk)
            for first in range(0, m, group)
            for chunk in range(shape.chunks)
            for microbatch in range(first, min(first + group, m))
        ]

    def warmup(self, stage: int, shape: PipelineShape) -> int:
        """Forward passes before the first backward pass."""
        ahead = (shape.stages - stage - 1) * 2 + (shape.chunks - 1) * self.group(shape.stages)
        return min(ahead, shape.microbatches * shape.chunks)

    def order(self, shape: PipelineShape, times: PassTimes | None = None) -> list[list[Pass]]:
        table = self.table(shape)
        forward = [Pass(FORWARD, chunk, microbatch) for microbatch, chunk in table]
        backward = [Pass(BACKWARD, shape.chunks - 1 - chunk, microbatch) for microbatch, chunk in table]
        orders = []
        for stage in range(shape.stages):
            warmup = self.warmup(stage, shape)
            steady = zip(forward[warmup:], backward, strict=False)
            orders.append(forward[:warmup] + [p for pair in steady for p in pair] + backward[len(table) - warmup :])
        return orders

    def in_flight(self, shape: PipelineShape) -> Floats:
        """After the warm-up a backward pass follows each forward pass: what is held goes round with the groups."""
        return moments_of(self._in_flight_of(stage, shape) for stage in range(shape.stages))

    def _in_flight_of(self, stage: int, shape: PipelineShape) -> Floats:
        """[moments, chunks] what a stage holds after the first forward passes behind the warm-up, and the last."""
        passes, period = shape.microbatches * shape.chunks, self.group(shape.stages) * shape.chunks
        warmup = min(self.warmup(stage, shape), passes - 1)
        pairs = passes - warmup
        back = np.unique(np.concatenate([np.arange(min(pairs, period)), np.arange(max(0, pairs - 3 * period), pairs)]))
        forward = self._of_chunks(warmup + 1 + back, shape)
        # Gradients come through the chunks the other way round.
        counts: Floats = (forward - self._of_chunks(back, shape)[:, ::-1]).astype(np.float64)
        return counts

    def _of_chunks(self, passes: Integers, shape: PipelineShape) -> Integers:
        """[numbers, chunks] how many of the first passes in one direction are of each chunk. passes: [numbers]."""
        group, chunks = self.group(shape.stages), shape.chunks
        whole = shape.microbatches // group
        groups = np.minimum(passes // (group * chunks), whole)
        size = np.where(groups < whole, group, shape.microbatches - whole * group)
        rest = passes - groups * group * chunks
        begun = rest[:, None] - np.arange(chunks) * size[:, None]
        of_chunks: Integers = groups[:, None] * group + np.clip(begun, 0, size[:, None])
        return of_chunks

    def reduction_passes(
        self, shape: PipelineShape, stage: int, order: Sequence[Pass], aligned: bool
    ) -> tuple[int, ...]:
        """Aligned: all stages begin together, so stage r begins r backward passes after the chunk's last one."""
        if not aligned:
            return super().reduction_passes(shape, stage, order, aligned)
        backward = [position for position, one in enumerate(order) if one.kind == BACKWARD]
        last = {order[position].chunk: number for number, position in enumerate(backward)}
        numbers = [last[chunk] + stage for chunk in range(shape.chunks)]
        return tuple(backward[k] if k < len(backward) else len(order) for k in numbers)

    def ends(self, batch: PassTimes) -> PassEnds:
        ends = PassEnds.of_nothing(batch)
        group = np.array([self.group(p) for p in batch.stages.tolist()])
        sizes = [batch.first_place, batch.first_stage, batch.stages, batch.chunks, batch.microbatches, group]
        times = [batch.forward_s, batch.backward_s, batch.transfer_s, batch.ready_s]
        passes = batch.places * batch.microbatches
        scratch = [*np.zeros((2, int(passes.max()))), np.zeros(int((passes // batch.stages).max()), dtype=np.int64)]
        arguments = [*sizes, *times, batch.overlapped, batch.aligned, ends.end_s, ends.gradients_s, *scratch]
        compiled.call(recurrence, arguments, compiled.worth_compiling(batch.passes))
        return ends


def recurrence(
    first_place: Integers,
    first_stage: Integers,
    stages: Integers,
    chunks: Integers,
    microbatches: Integers,
    group: Integers,
    forward: Floats,
    backward: Floats,
    transfer: Floats,
    ready: Floats,
    overlapped: Booleans,
    aligned: Booleans,
    end: Floats,
    gradients: Floats,
    forward_end: Floats,
    backward_end: Floats,
    chunk_of: Integers,
) -> None:
    """Kernel: writes end and gradients.

    Pass k of a stage's forward (or backward) passes is the same chunk and microbatch on every stage,
    so it needs pass k of its neighbour, or, where a chunk begins, pass k - (size of its group) of the stage at
    the other end. The steady state repeats itself with each group of microbatches: what a pass does depends on the
    clocks and on the ends that later passes need, and a shift of all of them is a shift of the result. Once all of
    these are later than one group before by the same time, so is all that follows, and the whole groups that are left
    are taken in one stride: as if there were fewer microbatches, with all clocks moved on.
    forward_end, backward_end: scratch, passes of the largest pipeline, by pass and stage; chunk_of: scratch, chunk of
    pass k.
    """
    for i in range(len(stages)):
        p, v, m, g, at, out = stages[i], chunks[i], microbatches[i], group[i], first_place[i], first_stage[i]
        waits = 0.0 if overlapped[i] else 1.0
        n, period, rest = m * v, g * v, m % g
        # Passes of whole groups: a smaller one may follow.
        whole = n - rest * v
        for s in range(p):
            end[out + s] = 0.0
        for k in range(n):
            chunk_of[k] = k % period // g if k < whole else (k - whole) // rest
        ahead = (p - 1) * 2 + (v - 1) * g
        # From here on all stages are in the steady state and have been for a group of microbatches; no first pass
        # (which may wait for parameters) is among those compared.
        compared_from = ahead + 2 + 2 * period
        shift, alike = 0.0, 0
        turn = 0
        while turn < 2 * n:
            steady = turn >= compared_from
            same = True
            # Within a turn forward passes follow the stages down, backward passes up.
            for s in range(p):
                warm = min((p - s - 1) * 2 + (v - 1) * g, n)
                if turn < warm:
                    k = turn
                elif turn < 2 * n - warm and (turn - warm) % 2 == 0:
                    k = (turn + warm) // 2
                else:
                    continue
                chunk = chunk_of[k]
                place = at + chunk * p + s
                begin = end[out + s]
                if s > 0:
                    begin = max(begin, forward_end[k * p + s - 1] + transfer[place - 1])
                elif chunk > 0:
                    size = g if k < whole else rest
                    begin = max(begin, forward_end[(k - size) * p + p - 1] + transfer[place - 1])
                done = begin + forward[place]
                if k == chunk * g:
                    done = max(done, ready[place])
                if steady:
                    later = done - forward_end[(k - period) * p + s]
                    if abs(later - shift) > STEADY * done:
                        shift, same = later, False
                forward_end[k * p + s] = done
                end[out + s] = done + (waits * transfer[place] if s < p - 1 or chunk < v - 1 else 0.0)
            for s in range(p - 1, -1, -1):
                warm = min((p - s - 1) * 2 + (v - 1) * g, n)
                if turn >= 2 * n - warm:
                    k = turn - n
                elif turn > warm and (turn - warm) % 2 == 1:
                    k = (turn - warm) // 2
                else:
                    continue
                chunk = chunk_of[k]
                place = at + (v - 1 - chunk) * p + s
                begin = end[out + s]
                if s < p - 1:
                    begin = max(begin, backward_end[k * p + s + 1] + transfer[place])
                elif chunk > 0:
                    size = g if k < whole else rest
                    begin = max(begin, backward_end[(k - size) * p] + transfer[place])
                done = begin + backward[place]
                if steady:
                    later = done - backward_end[(k - period) * p + s]
                    if abs(later - shift) > STEADY * done:
                        shift, same = later, False
                backward_end[k * p + s] = done
                end[out + s] = done + (waits * transfer[place - 1] if place > at else 0.0)
            turn += 1
            if not steady:
                continue
            alike = alike + 1 if same else 0
            # Later passes need ends of no more than the g - p + 1 last passes, each of which is two turns.
            if alike < 2 * (g - p + 2) or (turn - ahead) % 2 == 1:
                continue
            groups = (2 * whole - ahead - 2 - turn) // (2 * period)
            if groups > 0:
                for s in range(p):
                    end[out + s] += groups * shift
                    for k in range((turn + ahead) // 2 - s - g - 1, (turn + ahead) // 2 - s):
                        forward_end[k * p + s] += groups * shift
                    for k in range((turn - ahead) // 2 + s - g - 1, (turn - ahead) // 2 + s):
                        backward_end[k * p + s] += groups * shift
                n, whole = n - groups * period, whole - groups * period
                for k in range(whole, n):
                    chunk_of[k] = chunk_of[k + groups * period]
            compared_from = 2 * n
        for chunk in range(v):
            # The chunk's last backward pass.
            k = n - 1 - chunk * (rest if rest > 0 else g)
            for s in range(p):
                after = k + s if aligned[i] else k
                gradients[at + chunk * p + s] = backward_end[after * p + s] if after < n else end[out + s]
