"""Instructions of a stage from the order of its passes: which messages come before and after each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vtrain_sim.schedules.passes import (
    BACKWARD,
    FORWARD,
    Exchange,
    Instruction,
    Message,
    Pass,
    Receive,
    Send,
    direction,
)
from vtrain_sim.schedules.placement import Placement


def incoming(placement: Placement, stage: int, one: Pass) -> Message | None:
    """The message that a pass waits for; None if what it needs is made on its stage."""
    towards = direction(one.kind)
    if towards is None:
        return None
    place = placement.place(one.chunk, stage)
    source = placement.previous_place[place] if towards == FORWARD else placement.next_place[place]
    if source < 0 or placement.stage_of(source) == stage:
        return None
    return Message(towards, placement.stage_of(source), placement.chunk_of(source), one.microbatch)


def outgoing(placement: Placement, stage: int, one: Pass) -> Message | None:
    """The message that a pass makes; None if its result stays on the stage."""
    towards = direction(one.kind)
    if towards is None:
        return None
    target = _target(placement, placement.place(one.chunk, stage), towards)
    if target < 0 or placement.stage_of(target) == stage:
        return None
    return Message(towards, stage, one.chunk, one.microbatch)


def boundary(placement: Placement, message: Message) -> int:
    """The place whose boundary to the next virtual stage a message crosses."""
    place = placement.place(message.chunk, message.stage)
    return place if message.direction == FORWARD else placement.previous_place[place]


def overlapping(placement: Placement, stage: int, order: Sequence[Pass]) -> list[Instruction]:
    """Passes with receives that were posted earlier and sends that nobody waits for."""
    todo: list[Instruction] = []
    for unit in units(order):
        coming = [incoming(placement, stage, one) for one in unit]
        going = [outgoing(placement, stage, one) for one in unit]
        todo += [Receive(message) for message in coming if message]
        todo += unit
        todo += [Send(message) for message in going if message]
    return todo


def units(order: Sequence[Pass]) -> Iterator[list[Pass]]:
    """Passes that run as one: single ones and pairs."""
    unit: list[Pass] = []
    for one in order:
        unit.append(one)
        if not one.paired:
            yield unit
            unit = []


def blocking(placement: Placement, stage: int, order: Sequence[Pass]) -> list[Instruction]:
    """Passes with blocking exchanges: what goes to and comes from the same neighbour between two passes is one
    call, as Megatron-Core issues it; otherwise the send comes first."""
    todo: list[Instruction] = []
    going: Message | None = None
    for one in order:
        coming = incoming(placement, stage, one)
        if going and coming and _receiver(placement, going) == coming.stage:
            todo.append(Exchange((going,), (coming,)))
        else:
            todo += [Exchange((going,), ())] if going else []
            todo += [Exchange((), (coming,))] if coming else []
        todo.append(one)
        going = outgoing(placement, stage, one)
    return [*todo, Exchange((going,), ())] if going else todo


def _target(placement: Placement, place: int, towards: str) -> int:
    return placement.previous_place[place] if towards == BACKWARD else placement.next_place[place]


def _receiver(placement: Placement, message: Message) -> int:
    place = placement.place(message.chunk, message.stage)
    return placement.stage_of(_target(placement, place, message.direction))
