"""GPipe (Huang et al. 2019) and 1F1B (Narayanan et al. 2019/2021), without interleaving.

Communication is grouped and blocking as Megatron-Core issues it: in the steady state a stage sends
forward and receives backward in one call, and the other way round.
"""

from __future__ import annotations

from vtrain_sim.schedules.instructions import BACKWARD, FORWARD, Exchange, Instruction, Message, Run


def _forward_in(stage: int, microbatch: int) -> tuple[Message, ...]:
    return (Message(FORWARD, stage - 1, 0, microbatch),) if stage > 0 else ()


def _forward_out(stage: int, stages: int, microbatch: int) -> tuple[Message, ...]:
    return (Message(FORWARD, stage, 0, microbatch),) if stage < stages - 1 else ()


def _backward_in(stage: int, stages: int, microbatch: int) -> tuple[Message, ...]:
    return (Message(BACKWARD, stage + 1, 0, microbatch),) if stage < stages - 1 else ()


def _backward_out(stage: int, microbatch: int) -> tuple[Message, ...]:
    return (Message(BACKWARD, stage, 0, microbatch),) if stage > 0 else ()


def _exchange(sends: tuple[Message, ...], receives: tuple[Message, ...]) -> list[Instruction]:
    return [Exchange(sends, receives)] if sends or receives else []


def one_f_one_b(stages: int, microbatches: int) -> list[list[Instruction]]:
    """1F1B: warm up, then one forward and one backward in turn, then drain."""
    result = []
    for stage in range(stages):
        warmup = min(stages - stage - 1, microbatches)
        steady = microbatches - warmup
        todo: list[Instruction] = []
        for i in range(warmup):
            todo += _exchange((), _forward_in(stage, i))
            todo.append(Run(FORWARD, 0, i))
            todo += _exchange(_forward_out(stage, stages, i), ())
        if steady:
            todo += _exchange((), _forward_in(stage, warmup))
        for i in range(steady):
            todo.append(Run(FORWARD, 0, warmup + i))
            todo += _exchange(_forward_out(stage, stages, warmup + i), _backward_in(stage, stages, i))
            todo.append(Run(BACKWARD, 0, i))
            last = i == steady - 1
            coming = () if last else _forward_in(stage, warmup + i + 1)
            todo += _exchange(_backward_out(stage, i), coming)
        for i in range(steady, microbatches):
            todo += _exchange((), _backward_in(stage, stages, i))
            todo.append(Run(BACKWARD, 0, i))
            todo += _exchange(_backward_out(stage, i), ())
        result.append(todo)
    return result


def gpipe(stages: int, microbatches: int) -> list[list[Instruction]]:
    """GPipe: every forward, then every backward."""
    result = []
    for stage in range(stages):
        todo: list[Instruction] = []
        for i in range(microbatches):
            todo += _exchange((), _forward_in(stage, i))
            todo.append(Run(FORWARD, 0, i))
            todo += _exchange(_forward_out(stage, stages, i), ())
        for i in range(microbatches):
            todo += _exchange((), _backward_in(stage, stages, i))
            todo.append(Run(BACKWARD, 0, i))
            todo += _exchange(_backward_out(stage, i), ())
        result.append(todo)
    return result
