"""When: start and end of everything that the stages do, from their instructions and durations.

Identical layers are collapsed into the duration of a chunk before, so the cost is
O(stages x chunks x microbatches).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtrain_sim.schedules import Exchange, Instruction, Message, Receive, Run, Send
from vtrain_sim.schedules.instructions import BACKWARD, FORWARD, WEIGHT


@dataclass(frozen=True)
class Slot:
    """One forward or backward pass on a stage, seconds from the start of the pipeline."""

    stage: int
    direction: str
    chunk: int
    microbatch: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Replay:
    """Result of a replay.

    end_s: when each stage has finished its last instruction. busy_s: compute of each stage.
    waiting_s: the rest of end_s: bubble and transfers.
    """

    end_s: tuple[float, ...]
    busy_s: tuple[float, ...]
    slots: tuple[Slot, ...]

    @property
    def waiting_s(self) -> tuple[float, ...]:
        return tuple(e - b for e, b in zip(self.end_s, self.busy_s, strict=True))


class ScheduleDeadlock(RuntimeError):
    """The instructions wait for each other in a circle: a defect of a schedule."""


def replay(
    instructions: Sequence[Sequence[Instruction]],
    forward_s: Sequence[Sequence[float]],
    backward_s: Sequence[Sequence[float]],
    transfer_s: float,
    keep_slots: bool = False,
    weight_s: Sequence[Sequence[float]] = (),
    overlapped: bool = True,
) -> Replay:
    """Replay the instructions of all stages.

    forward_s, backward_s, weight_s: duration by [stage][chunk], seconds. transfer_s: one transfer between
    stages. overlapped: whether a stage goes on while it sends without waiting. Blocking exchanges are a
    rendezvous: a transfer begins when both sides have come to it.
    """
    tables = {FORWARD: forward_s, BACKWARD: backward_s, WEIGHT: weight_s}
    stages = len(instructions)
    clock = [0.0] * stages
    busy = [0.0] * stages
    position = [0] * stages
    # Blocking: when each side came to the call. Non-blocking: when the message is there.
    sender_at: dict[Message, float] = {}
    receiver_at: dict[Message, float] = {}
    posted: list[bool] = [False] * stages
    slots: list[Slot] = []
    progress = True
    while progress:
        progress = False
        for stage in range(stages):
            todo = instructions[stage]
            while position[stage] < len(todo):
                instruction = todo[position[stage]]
                if isinstance(instruction, Run):
                    table = tables[instruction.direction]
                    duration = table[stage][instruction.chunk]
                    begin = clock[stage]
                    clock[stage] += duration
                    busy[stage] += duration
                    if keep_slots:
                        slots.append(
                            Slot(
                                stage,
                                instruction.direction,
                                instruction.chunk,
                                instruction.microbatch,
                                begin,
                                clock[stage],
                            )
                        )
                elif isinstance(instruction, Send):
                    sender_at[instruction.message] = clock[stage]
                    clock[stage] += 0.0 if overlapped else transfer_s
                elif isinstance(instruction, Receive):
                    sent = sender_at.get(instruction.message)
                    if sent is None:
                        break
                    clock[stage] = max(clock[stage], sent + transfer_s)
                else:
                    if not posted[stage]:
                        posted[stage] = True
                        progress = True
                        for message in instruction.sends:
                            sender_at[message] = clock[stage]
                        for message in instruction.receives:
                            receiver_at[message] = clock[stage]
                    done = _exchange_end(instruction, sender_at, receiver_at, transfer_s)
                    if done is None:
                        break
                    clock[stage] = done
                    posted[stage] = False
                position[stage] += 1
                progress = True
    if any(position[s] < len(instructions[s]) for s in range(stages)):
        stuck = next(s for s in range(stages) if position[s] < len(instructions[s]))
        raise ScheduleDeadlock(f"stage {stuck} waits for ever at {instructions[stuck][position[stuck]]}")
    return Replay(tuple(clock), tuple(busy), tuple(slots))


def _exchange_end(
    exchange: Exchange,
    sender_at: dict[Message, float],
    receiver_at: dict[Message, float],
    transfer_s: float,
) -> float | None:
    """When all transfers of a blocking exchange are over; None while a partner is missing."""
    end = 0.0
    for message in (*exchange.sends, *exchange.receives):
        sent, received = sender_at.get(message), receiver_at.get(message)
        if sent is None or received is None:
            return None
        end = max(end, max(sent, received) + transfer_s)
    return end
