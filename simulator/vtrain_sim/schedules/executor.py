"""Ends of the passes of any schedule without blocking exchanges, from the order of its passes.

The passes of a shape are put once into a line (`Program`); running them through for given durations is then one
loop, O(passes), compiled.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from vtrain_sim.schedules import compiled
from vtrain_sim.schedules.placement import PipelineShape
from vtrain_sim.schedules.program import Program, make_program
from vtrain_sim.schedules.times import Floats, Integers, PassEnds, PassTimes

if TYPE_CHECKING:
    from vtrain_sim.schedules.base import Schedule


def execute(schedule: Schedule, batch: PassTimes) -> PassEnds:
    """Ends of many pipelines of one schedule."""
    fast = compiled.worth_compiling(batch.passes)
    ends = PassEnds.of_nothing(batch)
    for i in range(len(batch)):
        program = _program(schedule, batch, i)
        at = slice(int(batch.first_place[i]), int(batch.first_place[i] + batch.places[i]))
        forward, backward, weight = batch.forward_s[at], batch.backward_s[at], batch.weight_s[at]
        durations: Floats = np.concatenate([forward, backward, weight, backward + weight])
        transfer = batch.transfer_s[at]
        waits = schedule.waits_for_sends and not batch.overlapped[i]
        times = [durations, transfer, transfer if waits else np.zeros(len(transfer)), batch.ready_s[at]]
        clock, pass_end = np.zeros(int(batch.stages[i])), np.zeros(len(program.stage))
        steps = [program.stage, program.work, program.first, *program.sources, *program.boundaries, *program.sends]
        compiled.call(run_through, [*steps, *times, clock, pass_end], fast)
        ends.end_s[batch.first_stage[i] : batch.first_stage[i] + batch.stages[i]] = clock
        after = program.reduction[int(batch.aligned[i])]
        stage = np.arange(len(after)) % len(clock)
        ends.gradients_s[at] = np.where(after >= 0, pass_end[after], clock[stage])
    return ends


def run_through(
    stage: Integers,
    work: Integers,
    first: Integers,
    source: Integers,
    other_source: Integers,
    boundary: Integers,
    other_boundary: Integers,
    sends: Integers,
    other_sends: Integers,
    durations: Floats,
    transfer: Floats,
    sending: Floats,
    ready: Floats,
    clock: Floats,
    end: Floats,
) -> None:
    """Kernel: ends of the passes of a `Program`; durations by work, clock by stage, the rest by place.

    sending: for how long a stage waits for what it sends.
    """
    for i in range(len(stage)):
        s = stage[i]
        begin = clock[s]
        if source[i] >= 0:
            begin = max(begin, end[source[i]] + transfer[boundary[i]])
        if other_source[i] >= 0:
            begin = max(begin, end[other_source[i]] + transfer[other_boundary[i]])
        done = begin + durations[work[i]]
        if first[i] >= 0:
            done = max(done, ready[first[i]])
        end[i] = done
        clock[s] = done
        if sends[i] >= 0:
            clock[s] += sending[sends[i]]
        if other_sends[i] >= 0:
            clock[s] += sending[other_sends[i]]


def _program(schedule: Schedule, batch: PassTimes, number: int) -> Program:
    shape = schedule.shape(batch, number)
    if schedule.adaptive:
        return make_program(schedule, shape, batch.select(np.array([number])))
    return _cached_program(schedule, shape)


@lru_cache(maxsize=64)
def _cached_program(schedule: Schedule, shape: PipelineShape) -> Program:
    return make_program(schedule, shape, None)
