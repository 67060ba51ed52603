"""Pipelines with the durations of every operator, for any schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from hypothesis import strategies as st

from simulator.schedules.brute_force import PassEnds as BruteForceEnds
from simulator.schedules.brute_force import brute_force
from vtrain_sim.schedules import PassTimes, PipelineShape, Placement, Schedule, get
from vtrain_sim.schedules.interleaved import Interleaved

NAMES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipev")
V_SHAPED = ("zb-v", "dualpipev")


@dataclass(frozen=True)
class Case:
    """A pipeline with the durations of the operators of every place: [place][operator] seconds."""

    schedule: Schedule
    shape: PipelineShape
    forward: Sequence[Sequence[float]]
    backward: Sequence[Sequence[float]]
    weight: Sequence[Sequence[float]]
    transfer: Sequence[float]
    ready: Sequence[float]
    overlapped: bool = True
    aligned: bool = False

    @cached_property
    def placement(self) -> Placement:
        return self.schedule.placement(self.shape.stages, self.shape.chunks)

    @cached_property
    def times(self) -> PassTimes:
        places = PipelineShape(self.shape.stages, self.placement.chunks, self.shape.microbatches)
        forward, backward, weight = ([sum(p) for p in t] for t in (self.forward, self.backward, self.weight))
        return PassTimes.single(
            places, forward, backward, weight, self.transfer, self.ready, self.overlapped, self.aligned
        )

    def brute_force(self) -> tuple[list[float], list[BruteForceEnds]]:
        operators = {
            "F": self.forward.__getitem__,
            "B": self.backward.__getitem__,
            "W": self.weight.__getitem__,
            "BW": lambda place: [*self.backward[place], *self.weight[place]],
        }
        waits = self.schedule.name == "interleaved" and not self.overlapped
        instructions = self.schedule.instructions(self.shape, self.times)
        return brute_force(instructions, operators, self.placement, self.transfer, self.ready, not waits)


def chunks_of(name: str) -> int:
    """Model chunks per stage in tests that need no more than one size."""
    return 2 if name in (*V_SHAPED, "interleaved") else 1


def equal_case(name: str, stages: int, microbatches: int, seconds: tuple[float, float, float] = (1, 1, 1)) -> Case:
    """All places alike: seconds of forward pass, input gradients (or backward pass) and weight gradients."""
    schedule, shape = get(name), PipelineShape(stages, chunks_of(name), microbatches)
    schedule.check(shape)
    places = len(schedule.placement(stages, shape.chunks).virtual_stage)
    tables = [[[s]] * places for s in seconds]
    if not schedule.splits_backward:
        tables[2] = [[0.0]] * places
    return Case(schedule, shape, *tables, [0.0] * places, [0.0] * places)


@st.composite
def shapes(draw: st.DrawFn, name: str) -> tuple[Schedule, PipelineShape]:
    """A schedule and a shape that it accepts."""
    if name == "interleaved":
        stages, chunks = draw(st.integers(1, 4)), draw(st.integers(2, 3))
        if draw(st.booleans()):
            return get(name), PipelineShape(stages, chunks, stages * draw(st.integers(1, 3)))
        group, groups = stages + draw(st.integers(0, 3)), draw(st.integers(1, 2))
        rest = draw(st.sampled_from([0, *range(stages, group)]))
        return Interleaved(group), PipelineShape(stages, chunks, group * groups + rest)
    if name == "dualpipe":
        stages = draw(st.sampled_from([2, 4]))
        return get(name), PipelineShape(stages, 1, 2 * stages + 2 * draw(st.integers(0, 3)))
    if name == "dualpipev":
        stages = draw(st.integers(1, 4))
        return get(name), PipelineShape(stages, 2, 2 * stages + draw(st.integers(0, 4)))
    return get(name), PipelineShape(draw(st.integers(1, 5)), chunks_of(name), draw(st.integers(1, 24)))


@st.composite
def cases(draw: st.DrawFn, names: Sequence[str] = NAMES) -> Case:
    schedule, shape = draw(st.sampled_from(names).flatmap(shapes))
    schedule.check(shape)
    placement = schedule.placement(shape.stages, shape.chunks)
    places = len(placement.virtual_stage)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Equal stages reach a steady state, which 1F1B takes in one stride; a place may be without layers.
    equal, empty = draw(st.booleans()), draw(st.booleans())

    def table() -> list[list[float]]:
        rows = [rng.uniform(0.01, 10.0, rng.integers(1, 4)).tolist() for _ in range(places)]
        if equal:
            rows = [rows[0]] * places
        if empty:
            rows[int(rng.integers(places))] = [0.0]
        return rows

    crosses = np.array([placement.next_stage[p] not in (-1, placement.stage_of(p)) for p in range(places)])
    transfer = draw(st.sampled_from([0.0, 1.0])) * crosses * rng.uniform(0.0, 2.0, 1 if equal else places)
    ready = draw(st.sampled_from([0.0, 10.0, 100.0])) * rng.uniform(0.0, 1.0, places)
    weight = table() if schedule.splits_backward else [[0.0]] * places
    rest = transfer.tolist(), ready.tolist(), draw(st.booleans()), draw(st.booleans())
    return Case(schedule, shape, table(), table(), weight, *rest)
