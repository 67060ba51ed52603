"""A schedule: in what order each stage of a pipeline runs its passes, and everything that follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from vtrain_sim.errors import SpecError
from vtrain_sim.schedules import executor, messages, replay
from vtrain_sim.schedules.in_flight import in_flight_after_forward, moments_of
from vtrain_sim.schedules.passes import Instruction, Pass, produces_gradients
from vtrain_sim.schedules.placement import PipelineShape, Placement
from vtrain_sim.schedules.times import Floats, PassEnds, PassTimes

__all__ = ["PassEnds", "PassTimes", "PipelineShape", "Placement", "Schedule"]


class Schedule(ABC):
    """One pipeline schedule. A new one needs `name`, `placement` and `order`; the rest follows from them.

    Objects are shared and hashed: they keep nothing about the pipelines that they are asked about.
    """

    name: str
    """As in ``--schedule``."""
    title = ""
    """What documentation calls it."""
    source = ""
    """Paper and section, or code, that the order is from."""
    splits_backward = False
    """Input gradients (B) and weight gradients (W) are separate passes."""
    blocking = False
    """Exchanges are a rendezvous of neighbours (Megatron-Core without interleaving)."""
    waits_for_sends = False
    """Where transfers are not overlapped (`PassTimes.overlapped`), a stage waits until what it sends has arrived."""
    adaptive = False
    """The order depends on the durations of the passes."""
    fills_in_warmup = False
    """Memory peaks before a stage's steady state: with more than 4 microbatches for each stage it grows no further."""
    parameter_copies = 1
    """Copies of the parameters in a pipeline: places per stage for each model chunk."""
    overlaps_optimizer = False
    """The optimizer step is validated afterwards: a stage need not wait for the others (Qi et al., section 4)."""

    @abstractmethod
    def placement(self, stages: int, chunks: int) -> Placement:
        """Where the virtual stages are; chunks: model chunks per stage as Megatron counts them."""

    @abstractmethod
    def order(self, shape: PipelineShape, times: PassTimes | None = None) -> list[list[Pass]]:
        """The passes of each stage, in the order in which it runs them.

        times: durations of this one pipeline, for a schedule that is `adaptive` (without them: all passes
        take equally long, transfers no time).
        """

    def takes_chunks(self, chunks: int) -> bool:
        """Whether it runs with so many model chunks per stage; what a search tries."""
        return chunks == 1

    def with_group_size(self, group_size: int) -> Schedule:
        """The same schedule with so many microbatches in a group; 0 is its default. Raises `SpecError` for a schedule
        that has no groups."""
        if group_size:
            raise SpecError(
                "--microbatch-group-size-per-virtual-pipeline-stage needs the interleaved schedule: "
                f"{self.name} has no groups of microbatches"
            )
        return self

    def check(self, shape: PipelineShape) -> None:  # noqa: B027 (no shape is refused unless a schedule says so)
        """Raises `SpecError` for shapes that the schedule cannot run."""

    def instructions(self, shape: PipelineShape, times: PassTimes | None = None) -> list[list[Instruction]]:
        """What each stage is told to do: its passes, with the messages between them."""
        placement = self.placement(shape.stages, shape.chunks)
        spell_out = messages.blocking if self.blocking else messages.overlapping
        return [spell_out(placement, stage, order) for stage, order in enumerate(self.order(shape, times))]

    def in_flight(self, shape: PipelineShape) -> Floats:
        """[moments, places] microbatches of each chunk whose activations its stage holds, at every moment at which
        that can be most (see `in_flight`): a stage's peak is the largest of the moments' sums over its places of
        microbatches times the bytes that the chunk keeps for one."""
        if self.fills_in_warmup:
            shape = replace(shape, microbatches=min(shape.microbatches, 4 * shape.stages))
        return _count_in_flight(self, shape)

    def ends(self, batch: PassTimes) -> PassEnds:
        """When the stages and chunks of many pipelines are done: as `replay.replay` says, one at a time."""
        return replay.replay_all(self, batch) if self.blocking else executor.execute(self, batch)

    def shape(self, batch: PassTimes, number: int) -> PipelineShape:
        """Shape of one of the pipelines."""
        chunks = int(batch.chunks[number]) // self.parameter_copies
        return PipelineShape(int(batch.stages[number]), chunks, int(batch.microbatches[number]))

    def reduction_passes(
        self, shape: PipelineShape, stage: int, order: Sequence[Pass], aligned: bool
    ) -> tuple[int, ...]:
        """For each chunk (place) of a stage, the position in the stage's order of the pass at whose end its gradient
        reduction may run (see `PassEnds`); ``len(order)``: when the stage has finished."""
        last: dict[int, int] = {}
        for position, one in enumerate(order):
            if produces_gradients(one.kind, self.splits_backward):
                last[one.chunk] = position
        if aligned and stage > 0:
            return (max(last.values()),) * len(last)
        return tuple(last[chunk] for chunk in range(len(last)))


@lru_cache(maxsize=1024)
def _count_in_flight(schedule: Schedule, shape: PipelineShape) -> Floats:
    chunks = schedule.placement(shape.stages, shape.chunks).chunks
    orders = schedule.order(shape)
    return moments_of(in_flight_after_forward(order, chunks, schedule.splits_backward) for order in orders)
