"""The passes of a whole pipeline in one line, each after all that it needs: what the executor runs through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vtrain_sim.schedules.passes import BACKWARD, FORWARD, FULL_BACKWARD, KINDS, WEIGHT, Pass, ScheduleDeadlock
from vtrain_sim.schedules.placement import PipelineShape, Placement
from vtrain_sim.schedules.times import Booleans, Integers, PassTimes

if TYPE_CHECKING:
    from vtrain_sim.schedules.base import Schedule

_NUMBER = {kind: number for number, kind in enumerate(KINDS)}
# Directions of results, by kind of pass: activations, gradients, weight gradients.
_ACTIVATIONS, _GRADIENTS, _WEIGHTS = 0, 1, 2
_MAKES = {FORWARD: _ACTIVATIONS, BACKWARD: _GRADIENTS, WEIGHT: _WEIGHTS, FULL_BACKWARD: _GRADIENTS}


@dataclass(frozen=True)
class Program:
    """Passes of a whole pipeline, each after all that it needs; -1 where there is none.

    stage: [passes]. work: [passes] kind (position in `KINDS`) x places + place. first: [passes] the place, if
    this is its first pass. sources: [2, passes] passes on other stages whose results it waits for (two, if it is the
    first of a pair). boundaries: [2, passes] the places whose boundaries those results cross. sends: [2, passes]
    the places whose boundaries are crossed by what is sent after it.
    reduction: [2, places] the pass at whose end a place's gradients may be reduced, not aligned and aligned; -1:
    when its stage has finished.
    """

    stage: Integers
    work: Integers
    first: Integers
    sources: Integers
    boundaries: Integers
    sends: Integers
    reduction: Integers


@dataclass(frozen=True)
class _Passes:
    """[passes] of all stages, one stage after the other. begin, last: first and last pass of its pair (itself, if it
    is in none)."""

    stage: Integers
    kind: Integers
    place: Integers
    microbatch: Integers
    begin: Integers
    last: Integers

    def are(self, kind: str) -> Booleans:
        """[passes] whether they are of a kind."""
        chosen: Booleans = self.kind == _NUMBER[kind]
        return chosen


def make_program(schedule: Schedule, shape: PipelineShape, times: PassTimes | None) -> Program:
    """Put the passes of all stages into one line; raises `ScheduleDeadlock` if there is none."""
    placement = schedule.placement(shape.stages, shape.chunks)
    orders = schedule.order(shape, times)
    passes = _flatten(placement, orders)
    places, count = len(placement.virtual_stage), len(passes.stage)
    first, sources, boundaries, sends = _connect(placement, passes, orders)
    line = _in_line(passes.stage, sources, orders)
    number = np.full(count + 1, -1, dtype=np.int64)
    number[line] = np.arange(count)
    begin = np.cumsum([0, *(len(order) for order in orders)])
    reduction = []
    for aligned in (False, True):
        by_stage = [schedule.reduction_passes(shape, s, order, aligned) for s, order in enumerate(orders)]
        after = [
            begin[s] + by_stage[s][chunk] if by_stage[s][chunk] < len(orders[s]) else count
            for chunk in range(len(by_stage[0]))
            for s in range(len(orders))
        ]
        reduction.append(number[np.array(after)])
    return Program(
        stage=passes.stage[line],
        work=(passes.kind * places + passes.place)[line],
        first=first[line],
        sources=number[sources[:, line]],
        boundaries=boundaries[:, line],
        sends=sends[:, line],
        reduction=np.array(reduction),
    )


def _flatten(placement: Placement, orders: list[list[Pass]]) -> _Passes:
    stage = np.repeat(np.arange(len(orders)), [len(order) for order in orders])
    rows = [(_NUMBER[one.kind], one.chunk, one.microbatch, one.paired) for order in orders for one in order]
    kind, chunk, microbatch, paired = np.array(rows, dtype=np.int64).T
    index = np.arange(len(rows))
    second = np.concatenate([[0], paired[:-1]])
    begin, last = np.where(second == 1, index - 1, index), np.where(paired == 1, index + 1, index)
    return _Passes(stage, kind, chunk * placement.stages + stage, microbatch, begin, last)


def _connect(
    placement: Placement, passes: _Passes, orders: list[list[Pass]]
) -> tuple[Integers, Integers, Integers, Integers]:
    """first, sources, boundaries and sends of a `Program`, of passes that are not in line yet."""
    stage, place, index = passes.stage, passes.place, np.arange(len(passes.stage))
    forward, weight = passes.are(FORWARD), passes.are(WEIGHT)
    previous, following = np.array(placement.previous_place), np.array(placement.next_place)
    from_place = np.where(forward, previous[place], np.where(weight, place, following[place]))
    to_place = np.where(forward, following[place], np.where(weight, -1, previous[place]))
    maker = _Makers(placement, passes)
    source = maker.of(np.where(forward, _ACTIVATIONS, _GRADIENTS), from_place)
    activations = maker.of(np.full(len(index), _ACTIVATIONS), np.where(forward | weight, -1, place))
    away = (from_place >= 0) & (from_place % placement.stages != stage)
    # What is made on the same stage comes earlier in its order, and everything is made.
    wrong = (from_place >= 0) & ((source < 0) | (~away & (source >= index)))
    wrong |= ~forward & ~weight & ((activations < 0) | (activations >= index))
    if wrong.any():
        _refuse(int(np.flatnonzero(wrong)[0]), stage, orders)
    first = np.full(len(index), -1, dtype=np.int64)
    which, at = np.unique(place, return_index=True)
    first[at] = which
    sources, boundaries, sends = np.full((3, 2, len(index)), -1, dtype=np.int64)
    turn = index - passes.begin
    sources[turn, passes.begin] = np.where(away, source, -1)
    boundaries[turn, passes.begin] = np.where(away, np.where(forward, from_place, place), -1)
    leaves = (to_place >= 0) & (to_place % placement.stages != stage)
    sends[turn, passes.last] = np.where(leaves, np.where(forward, place, to_place), -1)
    return first, sources, boundaries, sends


class _Makers:
    """After which pass a result is there: of a pair, the second."""

    def __init__(self, placement: Placement, passes: _Passes) -> None:
        self._microbatch = passes.microbatch
        self._places = len(placement.virtual_stage)
        self._columns = int(passes.microbatch.max()) + 1
        self._maker = np.full(3 * self._places * self._columns, -1, dtype=np.int64)
        direction = np.array([_MAKES[kind] for kind in KINDS])[passes.kind]
        self._maker[self._key(direction, passes.place)] = passes.last

    def of(self, direction: Integers, place: Integers) -> Integers:
        """[passes] the pass that makes what comes from a place (-1: nothing does) for the pass's microbatch."""
        maker: Integers = np.where(place >= 0, self._maker[self._key(direction, place)], -1)
        return maker

    def _key(self, direction: Integers, place: Integers) -> Integers:
        return (direction * self._places + place) * self._columns + self._microbatch


def _in_line(stage: Integers, sources: Integers, orders: list[list[Pass]]) -> Integers:
    """The passes in an order in which each comes after its sources."""
    one_source, other_source = sources.tolist()
    end = np.cumsum([len(order) for order in orders]).tolist()
    position = [0, *end[:-1]]
    line: list[int] = []
    done = [False] * len(one_source)
    # Stages that may be able to go on, and which stage waits for a pass.
    awake = list(range(len(orders) - 1, -1, -1))
    waiting = [-1] * len(one_source)
    while awake:
        s = awake.pop()
        while position[s] < end[s]:
            i = position[s]
            missing = next((m for m in (one_source[i], other_source[i]) if m >= 0 and not done[m]), -1)
            if missing >= 0:
                waiting[missing] = s
                break
            line.append(i)
            done[i] = True
            position[s] += 1
            if waiting[i] >= 0:
                awake.append(waiting[i])
    for s, at in enumerate(position):
        if at < end[s]:
            _refuse(at, stage, orders)
    return np.array(line, dtype=np.int64)


def _refuse(index: int, stage: Integers, orders: list[list[Pass]]) -> None:
    one = [one for order in orders for one in order][index]
    raise ScheduleDeadlock(f"stage {int(stage[index])} waits for ever at {one}")
