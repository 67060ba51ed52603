"""In what order: the instructions of each pipeline stage, as Megatron-Core's schedules issue them."""

from vtrain_sim.schedules.instructions import Exchange, Instruction, Message, Receive, Run, Send
from vtrain_sim.schedules.interleaved import interleaved
from vtrain_sim.schedules.plain import gpipe, one_f_one_b
from vtrain_sim.schedules.zero_bubble import zero_bubble


def schedule(name: str, stages: int, chunks: int, microbatches: int) -> list[list[Instruction]]:
    """Instructions of every stage: ``schedule("1f1b", 4, 1, 8)[stage]``.

    Zero-bubble schedules depend on the durations: see `zero_bubble`.
    """
    if name == "interleaved":
        return interleaved(stages, chunks, microbatches)
    makers = {"1f1b": one_f_one_b, "gpipe": gpipe}
    return makers[name](stages, microbatches)


__all__ = ["Exchange", "Instruction", "Message", "Receive", "Run", "Send", "schedule", "zero_bubble"]
