"""Zero-bubble schedules as instructions (Qi et al., ICLR 2024), from the order in which passes are taken."""

from __future__ import annotations

from collections.abc import Sequence

from vtrain_sim.schedules.instructions import (
    BACKWARD,
    FORWARD,
    WEIGHT,
    Instruction,
    Message,
    Receive,
    Run,
    Send,
)

_KINDS = (FORWARD, BACKWARD, WEIGHT)


def zero_bubble(orders: Sequence[Sequence[int]]) -> list[list[Instruction]]:
    """Instructions of every stage; orders: by stage, 0 forward, 1 input gradient, 2 weight gradient."""
    stages = len(orders)
    result = []
    for stage, order in enumerate(orders):
        todo: list[Instruction] = []
        counts = [0, 0, 0]
        for kind in order:
            microbatch = counts[kind]
            counts[kind] += 1
            direction = _KINDS[kind]
            if direction == FORWARD and stage > 0:
                todo.append(Receive(Message(FORWARD, stage - 1, 0, microbatch)))
            if direction == BACKWARD and stage < stages - 1:
                todo.append(Receive(Message(BACKWARD, stage + 1, 0, microbatch)))
            todo.append(Run(direction, 0, microbatch))
            if direction == FORWARD and stage < stages - 1:
                todo.append(Send(Message(FORWARD, stage, 0, microbatch)))
            if direction == BACKWARD and stage > 0:
                todo.append(Send(Message(BACKWARD, stage, 0, microbatch)))
        result.append(todo)
    return result
