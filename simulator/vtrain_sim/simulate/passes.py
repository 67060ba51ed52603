"""Durations of the passes of a model chunk, from the programs of its parts.

A pass begins and ends with all streams of its device at rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vtrain_sim.model import Compute, Parts, Program, Stream
from vtrain_sim.model.chunks import PartName
from vtrain_sim.simulate.cost_model import CostModel, TimedDirection, TimedProgram
from vtrain_sim.simulate.streams import STREAMS, Floats, after, before, one_by_one
from vtrain_sim.specs.shard import ChunkSpec, ShardSpec


class ChunkTimes(NamedTuple):
    """One model chunk, one microbatch, one rank. Seconds, FLOPs and bytes.

    backward_s holds the weight gradients where no pass of their own (weight_s) does. executed_flops: of matrix
    products and attention, in all passes. kept_bytes: activations that stay until the backward pass.
    """

    forward_s: float
    backward_s: float
    weight_s: float
    executed_flops: float
    kept_bytes: float


class ChunkTimer:
    """Times the chunks of one shard; programs and chunks are timed once."""

    def __init__(self, spec: ShardSpec, costs: CostModel) -> None:
        self.parts = Parts(spec)
        self.costs = costs
        self._programs: dict[int, TimedProgram] = {}
        self._chunks: dict[ChunkSpec, ChunkTimes] = {}

    def runs(self, chunk: ChunkSpec) -> list[tuple[TimedProgram, int]]:
        """The programs of a chunk in forward order, each with how many times in a row."""
        return [(self._timed(program), count) for program, count in self.parts.runs(chunk)]

    def timed(self, part: PartName) -> TimedProgram:
        """The program of a part."""
        return self._timed(self.parts.program(part))

    def _timed(self, program: Program) -> TimedProgram:
        # `Parts` makes each program once and keeps it, so that its identity is its key.
        timed = self._programs.get(id(program))
        if timed is None:
            timed = self._programs[id(program)] = TimedProgram.of(program, self.costs, self.parts.shard.model)
        return timed

    def times(self, chunk: ChunkSpec) -> ChunkTimes:
        """Durations of the passes of a chunk."""
        times = self._chunks.get(chunk)
        if times is None:
            times = self._chunks[chunk] = self._time(chunk)
        return times

    def _time(self, chunk: ChunkSpec) -> ChunkTimes:
        runs = self.runs(chunk)
        back = runs[::-1]
        return ChunkTimes(
            duration([(p.forward, n) for p, n in runs]),
            duration([(p.backward, n) for p, n in back]),
            duration([(p.weight, n) for p, n in back]),
            sum(p.executed_flops * n for p, n in runs),
            sum(p.program.kept_bytes * n for p, n in runs),
        )


def duration(runs: Sequence[tuple[TimedDirection, int]]) -> float:
    """Seconds of a pass."""
    clocks = np.zeros(STREAMS)
    for direction, count in runs:
        if direction.steps:
            for matrix in direction.map.repeated(count):
                clocks = after(matrix, clocks)
    return float(clocks.max())


def remaining_at_start(runs: Sequence[tuple[TimedDirection, int]]) -> float:
    """Seconds from the start of a pass on the compute stream to its end."""
    rest: Floats = np.zeros(STREAMS)
    for direction, count in reversed(runs):
        for matrix in direction.map.repeated(count):
            rest = before(matrix, rest)
    return float(rest[Stream.COMPUTE])


def leads(runs: Sequence[tuple[TimedDirection, int]]) -> Floats:
    """[programs] when the compute stream has passed each program of a pass, seconds from its start."""
    clocks = np.zeros(STREAMS)
    times: list[Floats] = []
    for direction, count in runs:
        all_clocks = one_by_one(direction.map.powers(count), count, clocks)
        times.append(all_clocks[1:, Stream.COMPUTE])
        clocks = all_clocks[-1]
    return np.concatenate(times)


def remaining(runs: Sequence[tuple[TimedDirection, int]]) -> Floats:
    """[programs] seconds from the start of each program of a pass on the compute stream to the end of the pass."""
    rest: Floats = np.zeros(STREAMS)
    times: list[Floats] = []
    for direction, count in reversed(runs):
        all_rests = one_by_one([power.T for power in direction.map.powers(count)], count, rest)
        times.append(all_rests[1:, Stream.COMPUTE])
        rest = all_rests[-1]
    return np.concatenate(times)[::-1]


def compute_seconds(direction: TimedDirection) -> float:
    """Seconds of the operators of a program."""
    return sum(step.seconds for step in direction.steps if isinstance(step.item, Compute))
