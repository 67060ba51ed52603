"""Interleaved 1F1B (Narayanan et al., SC'21, section 2.2) with overlapped communication.

Microbatches run in groups of as many as there are stages: each group passes through all chunks of
a stage before the next group starts.
"""

from __future__ import annotations

from vtrain_sim.schedules.instructions import (
    BACKWARD,
    FORWARD,
    Instruction,
    Message,
    Receive,
    Run,
    Send,
)


def order(stages: int, chunks: int, microbatches: int) -> list[tuple[int, int]]:
    """(chunk, microbatch) of each forward step of a stage, in order."""
    table = []
    for first in range(0, microbatches, stages):
        group = range(first, min(first + stages, microbatches))
        table += [(chunk, microbatch) for chunk in range(chunks) for microbatch in group]
    return table


def warmup_steps(stage: int, stages: int, chunks: int, microbatches: int) -> int:
    """Forward steps before the first backward step."""
    return min((stages - stage - 1) * 2 + (chunks - 1) * stages, microbatches * chunks)


def interleaved(stages: int, chunks: int, microbatches: int) -> list[list[Instruction]]:
    """Instructions of every stage."""
    forward = order(stages, chunks, microbatches)
    backward = [(chunks - 1 - chunk, microbatch) for chunk, microbatch in forward]
    result = []
    for stage in range(stages):
        warmup = warmup_steps(stage, stages, chunks, microbatches)
        todo: list[Instruction] = []
        for step in range(warmup):
            todo += _forward(stage, stages, chunks, *forward[step])
        for step in range(len(forward) - warmup):
            todo += _forward(stage, stages, chunks, *forward[warmup + step])
            todo += _backward(stage, stages, chunks, *backward[step])
        for step in range(len(forward) - warmup, len(forward)):
            todo += _backward(stage, stages, chunks, *backward[step])
        result.append(todo)
    return result


def _forward(stage: int, stages: int, chunks: int, chunk: int, microbatch: int) -> list[Instruction]:
    todo: list[Instruction] = []
    if stage > 0:
        todo.append(Receive(Message(FORWARD, stage - 1, chunk, microbatch)))
    elif chunk > 0:
        todo.append(Receive(Message(FORWARD, stages - 1, chunk - 1, microbatch)))
    todo.append(Run(FORWARD, chunk, microbatch))
    if stage < stages - 1 or chunk < chunks - 1:
        todo.append(Send(Message(FORWARD, stage, chunk, microbatch)))
    return todo


def _backward(stage: int, stages: int, chunks: int, chunk: int, microbatch: int) -> list[Instruction]:
    todo: list[Instruction] = []
    if stage < stages - 1:
        todo.append(Receive(Message(BACKWARD, stage + 1, chunk, microbatch)))
    elif chunk < chunks - 1:
        todo.append(Receive(Message(BACKWARD, 0, chunk + 1, microbatch)))
    todo.append(Run(BACKWARD, chunk, microbatch))
    if stage > 0 or chunk > 0:
        todo.append(Send(Message(BACKWARD, stage, chunk, microbatch)))
    return todo
