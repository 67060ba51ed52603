"""Durations of the passes of many pipelines, and when their stages are done, as arrays with named columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vtrain_sim.schedules.placement import PipelineShape

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class PassTimes:
    """[count] pipelines. Arrays by place: all places of the first pipeline (chunk by chunk, in it stage by
    stage), then those of the second, and so on.

    stages, chunks, microbatches: [count]; chunks are places per stage.
    forward_s, backward_s, weight_s: [places] seconds of one pass; weight_s is 0 where the schedule does not
    split the backward pass, and backward_s is then all of it.
    transfer_s: [places] seconds of one transfer, in either direction, across the boundary between this place's
    virtual stage and the next one; 0 where both are on one stage; not used for the last virtual stage.
    ready_s: [places] the first forward pass that the place runs ends no earlier than this (its parameters are
    still being gathered); 0 where nothing holds it up.
    overlapped: [count] whether a stage goes on while it sends; matters to schedules that otherwise wait
    (`Schedule.waits_for_sends`).
    aligned: [count] Megatron's align_grad_reduce, see `PassEnds`.
    """

    stages: Integers
    chunks: Integers
    microbatches: Integers
    forward_s: Floats
    backward_s: Floats
    weight_s: Floats
    transfer_s: Floats
    ready_s: Floats
    overlapped: Booleans
    aligned: Booleans

    @classmethod
    def single(
        cls,
        shape: PipelineShape,
        forward_s: Sequence[float],
        backward_s: Sequence[float],
        weight_s: Sequence[float] | None = None,
        transfer_s: Sequence[float] | None = None,
        ready_s: Sequence[float] | None = None,
        overlapped: bool = True,
        aligned: bool = False,
    ) -> PassTimes:
        """One pipeline; durations by place, what is left out is 0. The chunks are places per stage."""

        def by_place(values: Sequence[float] | None) -> Floats:
            return np.zeros(shape.stages * shape.chunks) if values is None else np.array(values, dtype=np.float64)

        return cls(
            np.array([shape.stages]),
            np.array([shape.chunks]),
            np.array([shape.microbatches]),
            by_place(forward_s),
            by_place(backward_s),
            by_place(weight_s),
            by_place(transfer_s),
            by_place(ready_s),
            np.array([overlapped]),
            np.array([aligned]),
        )

    @cached_property
    def places(self) -> Integers:
        """[count] places of each pipeline."""
        return self.stages * self.chunks

    @cached_property
    def first_place(self) -> Integers:
        """[count] where the places of each pipeline begin."""
        return np.cumsum(self.places) - self.places

    @cached_property
    def first_stage(self) -> Integers:
        """[count] where the stages of each pipeline begin among all stages."""
        return np.cumsum(self.stages) - self.stages

    @property
    def passes(self) -> int:
        """Microbatches through places, of all pipelines together: what an evaluation's work grows with."""
        return int((self.places * self.microbatches).sum())

    def select(self, chosen: Integers) -> PassTimes:
        """Some of the pipelines, by their numbers."""
        at = rows_of(self.first_place[chosen], self.places[chosen])
        return PassTimes(
            self.stages[chosen],
            self.chunks[chosen],
            self.microbatches[chosen],
            self.forward_s[at],
            self.backward_s[at],
            self.weight_s[at],
            self.transfer_s[at],
            self.ready_s[at],
            self.overlapped[chosen],
            self.aligned[chosen],
        )

    def __len__(self) -> int:
        return len(self.stages)


@dataclass(frozen=True)
class PassEnds:
    """When stages and chunks are done, seconds.

    end_s: [stages of all pipelines] when each stage has finished its last pass and what it sends after it.
    gradients_s: [places of all pipelines] from when the place's gradient reduction may run. Not aligned: the
    end of the last pass that adds to its gradients. Aligned (Megatron-Core with ``grad_sync_func``), interleaved:
    on stage r the end of the stage's backward pass number k + r, where k is the number of the chunk's last
    backward pass, or `end_s` if there is no such pass; other schedules: stage 0 as if not aligned, other stages
    the end of the last pass that adds to gradients of the stage.
    """

    end_s: Floats
    gradients_s: Floats

    @classmethod
    def of_nothing(cls, batch: PassTimes) -> PassEnds:
        """All zero, for a recurrence to write to."""
        return cls(np.zeros(int(batch.stages.sum())), np.zeros(len(batch.forward_s)))


def rows_of(first: Integers, count: Integers) -> Integers:
    """``first[i], first[i] + 1, ...``, count[i] of them, for each i in turn."""
    begin = np.cumsum(count) - count
    rows: Integers = np.repeat(first - begin, count) + np.arange(int(count.sum()))
    return rows
