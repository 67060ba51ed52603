"""The plain reference: start and end of everything that the stages do, instruction by instruction.

Identical layers are collapsed into the duration of a chunk before, so the cost is
O(stages x chunks x microbatches).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vtrain_sim.schedules.messages import boundary
from vtrain_sim.schedules.passes import (
    BACKWARD,
    FORWARD,
    FULL_BACKWARD,
    WEIGHT,
    Exchange,
    Instruction,
    Message,
    Pass,
    Receive,
    ScheduleDeadlock,
    Send,
)
from vtrain_sim.schedules.placement import PipelineShape, Placement
from vtrain_sim.schedules.times import PassEnds, PassTimes

if TYPE_CHECKING:
    from vtrain_sim.schedules.base import Schedule


@dataclass(frozen=True)
class PassSpan:
    """One pass on a stage, seconds from the start of the pipeline."""

    stage: int
    kind: str
    chunk: int
    microbatch: int
    start_s: float
    end_s: float


class TransferSpan(NamedTuple):
    """One message on its way, seconds from the start of the pipeline. stage: the one that receives it."""

    stage: int
    message: Message
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Replay:
    """Result of a replay.

    end_s: when each stage has finished its last instruction. busy_s: compute of each stage, seconds.
    spans: the passes, by stage and in it by time. transfers: likewise; those that take time.
    """

    end_s: tuple[float, ...]
    busy_s: tuple[float, ...]
    spans: tuple[PassSpan, ...]
    transfers: tuple[TransferSpan, ...]

    @property
    def waiting_s(self) -> tuple[float, ...]:
        """The rest of end_s: bubble and transfers."""
        return tuple(e - b for e, b in zip(self.end_s, self.busy_s, strict=True))


def replay(schedule: Schedule, shape: PipelineShape, times: PassTimes) -> Replay:
    """Replay a schedule for the durations of one pipeline."""
    placement = schedule.placement(shape.stages, shape.chunks)
    overlapped = bool(times.overlapped[0]) or not schedule.waits_for_sends
    return replay_instructions(schedule.instructions(shape, times), placement, times, overlapped)


# End of a pass of a stage that begins at a time, seconds.
PassEnd = Callable[[int, Pass, float], float]


def replay_instructions(
    instructions: Sequence[Sequence[Instruction]],
    placement: Placement,
    times: PassTimes,
    overlapped: bool = True,
    pass_end: PassEnd | None = None,
) -> Replay:
    """Replay the instructions of all stages of one pipeline; raises `ScheduleDeadlock`.

    overlapped: a stage goes on while it sends (`Send`). pass_end: when a pass ends, for passes that are looked
    into; else the durations of `times` say it.
    """
    run = _Run(placement, times, overlapped, pass_end)
    moved = True
    while moved:
        moved = False
        for stage, todo in enumerate(instructions):
            while run.position[stage] < len(todo):
                done = run.step(stage, todo[run.position[stage]])
                moved |= done or run.newly_posted
                if not done:
                    break
                run.position[stage] += 1
    for stage, todo in enumerate(instructions):
        if run.position[stage] < len(todo):
            raise ScheduleDeadlock(f"stage {stage} waits for ever at {todo[run.position[stage]]}")
    spans = tuple(span for of_stage in run.spans for span in of_stage)
    transfers = tuple(sorted(run.transfers, key=lambda span: (span.stage, span.start_s)))
    return Replay(tuple(run.clock), tuple(run.busy), spans, transfers)


def reduction_starts(schedule: Schedule, shape: PipelineShape, times: PassTimes, result: Replay) -> tuple[float, ...]:
    """[places] from when gradients may be reduced, see `PassEnds`, of a replayed pipeline."""
    starts: list[list[float]] = []
    for stage, order in enumerate(schedule.order(shape, times)):
        pass_ends = [span.end_s for span in result.spans if span.stage == stage] + [result.end_s[stage]]
        after = schedule.reduction_passes(shape, stage, order, bool(times.aligned[0]))
        starts.append([pass_ends[position] for position in after])
    return tuple(starts[stage][chunk] for chunk in range(len(starts[0])) for stage in range(shape.stages))


def replay_all(schedule: Schedule, batch: PassTimes) -> PassEnds:
    """Ends of many pipelines, one replay after the other."""
    ends: list[float] = []
    gradients: list[float] = []
    for number in range(len(batch)):
        shape, times = schedule.shape(batch, number), batch.select(np.array([number]))
        result = replay(schedule, shape, times)
        ends += result.end_s
        gradients += reduction_starts(schedule, shape, times, result)
    return PassEnds(np.array(ends), np.array(gradients))


class _Run:
    """Clocks of the stages, and the messages under way."""

    def __init__(self, placement: Placement, times: PassTimes, overlapped: bool, pass_end: PassEnd | None) -> None:
        self.placement = placement
        self.pass_end = pass_end or self._timed_end
        stages = placement.stages
        forward, backward, weight = times.forward_s.tolist(), times.backward_s.tolist(), times.weight_s.tolist()
        full = (times.backward_s + times.weight_s).tolist()
        self.durations = {FORWARD: forward, BACKWARD: backward, WEIGHT: weight, FULL_BACKWARD: full}
        self.transfer: list[float] = times.transfer_s.tolist()
        self.ready: list[float] = times.ready_s.tolist()
        self.overlapped = overlapped
        self.clock = [0.0] * stages
        self.busy = [0.0] * stages
        self.position = [0] * stages
        self.spans: list[list[PassSpan]] = [[] for _ in range(stages)]
        self.transfers: list[TransferSpan] = []
        self.started: set[int] = set()
        # When each side of a message came to its call.
        self.sent: dict[Message, float] = {}
        self.received: dict[Message, float] = {}
        self.posted = [False] * stages
        self.newly_posted = False

    def step(self, stage: int, instruction: Instruction) -> bool:
        """Do one instruction of a stage; False if it has to wait for another stage."""
        self.newly_posted = False
        if isinstance(instruction, Pass):
            self._run_pass(stage, instruction)
            return True
        if isinstance(instruction, Send):
            self.sent[instruction.message] = self.clock[stage]
            if not self.overlapped:
                self.clock[stage] += self._transfer_s(instruction.message)
            return True
        if isinstance(instruction, Receive):
            sent = self.sent.get(instruction.message)
            if sent is not None:
                self.clock[stage] = max(self.clock[stage], self._arrival(stage, instruction.message, sent))
            return sent is not None
        return self._exchange(stage, instruction)

    def _run_pass(self, stage: int, one: Pass) -> None:
        begin = self.clock[stage]
        end = self.pass_end(stage, one, begin)
        self.clock[stage] = end
        self.busy[stage] += self.durations[one.kind][self.placement.place(one.chunk, stage)]
        self.spans[stage].append(PassSpan(stage, one.kind, one.chunk, one.microbatch, begin, end))

    def _timed_end(self, stage: int, one: Pass, begin: float) -> float:
        place = self.placement.place(one.chunk, stage)
        end: float = begin + self.durations[one.kind][place]
        if place not in self.started:
            self.started.add(place)
            end = max(end, self.ready[place])
        return end

    def _exchange(self, stage: int, exchange: Exchange) -> bool:
        """A rendezvous: a transfer begins when both sides have come to it."""
        if not self.posted[stage]:
            self.posted[stage] = self.newly_posted = True
            self.sent.update(dict.fromkeys(exchange.sends, self.clock[stage]))
            self.received.update(dict.fromkeys(exchange.receives, self.clock[stage]))
        ends = []
        for message in (*exchange.sends, *exchange.receives):
            if message not in self.sent or message not in self.received:
                return False
            ends.append(max(self.sent[message], self.received[message]) + self._transfer_s(message))
        for message in exchange.receives:
            self._arrival(stage, message, max(self.sent[message], self.received[message]))
        self.clock[stage] = max(ends)
        self.posted[stage] = False
        return True

    def _arrival(self, stage: int, message: Message, start: float) -> float:
        """When a message that starts now has arrived on a stage; it is kept."""
        end = start + self._transfer_s(message)
        if end > start:
            self.transfers.append(TransferSpan(stage, message, start, end))
        return end

    def _transfer_s(self, message: Message) -> float:
        return self.transfer[boundary(self.placement, message)]
