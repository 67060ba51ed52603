"""The order that DualPipe and DualPipeV share: microbatches pass a stage both ways at once.

A stage has two chunks. What reaches it first in its half of the pipeline is its near chunk, what comes
from the other end its far chunk.
"""

from __future__ import annotations

from collections import Counter, deque

from vtrain_sim.schedules.passes import BACKWARD, FORWARD, FULL_BACKWARD, WEIGHT, Pass

NEAR, FAR = 0, 1


def both_ways(depth: int, stages: int, microbatches: int) -> list[Pass]:
    """Passes of a stage, its chunks named `NEAR` and `FAR`, the microbatches of each numbered from 0.

    depth: stages between it and its end of the pipeline. stages: from that end to the middle (or to the turn
    of the V). microbatches: of each chunk.
    """
    below = stages - depth - 1
    far, near = _pair(NEAR, FAR), _pair(FAR, NEAR)
    # The stage in the middle overlaps its first two passes with nothing: its backward pass can then begin sooner.
    turn = [(FORWARD, NEAR, False), (FULL_BACKWARD, FAR, False)] if below == 0 else far
    kinds = [(FORWARD, NEAR, False)] * (2 * below)
    kinds += [(FORWARD, NEAR, False), (FORWARD, FAR, False)] * (depth + 1)
    kinds += [(BACKWARD, FAR, False), (WEIGHT, FAR, False), (FORWARD, FAR, False)] * below
    kinds += [*turn, *near]
    kinds += [*far, *near] * (microbatches - 2 * stages + depth)
    kinds += [(FULL_BACKWARD, FAR, False), *near] * below
    kinds += _drain(depth)
    kinds += [(WEIGHT, NEAR, False), (BACKWARD, NEAR, False)] * below
    kinds += [(WEIGHT, NEAR, False)] * (depth + 1)
    return _numbered(kinds)


Kind = tuple[str, int, bool]


def _pair(forward: int, backward: int) -> list[Kind]:
    """A forward and a backward pass that are overlapped."""
    return [(FORWARD, forward, True), (FULL_BACKWARD, backward, False)]


def _drain(depth: int) -> list[Kind]:
    """Backward passes of both chunks in turn; the second half leaves its weight gradients for later."""
    chunks = [FAR, NEAR] * (depth + 1)
    return [(FULL_BACKWARD if i <= depth else BACKWARD, chunk, False) for i, chunk in enumerate(chunks)]


def _numbered(kinds: list[Kind]) -> list[Pass]:
    """Passes with their microbatches; weight gradients are taken in the order in which they were left."""
    count: Counter[tuple[str, int]] = Counter()
    left: deque[tuple[int, int]] = deque()
    order = []
    for kind, chunk, paired in kinds:
        if kind == WEIGHT:
            order.append(Pass(WEIGHT, *left.popleft()))
            continue
        direction = FORWARD if kind == FORWARD else BACKWARD
        microbatch = count[direction, chunk]
        count[direction, chunk] += 1
        order.append(Pass(kind, chunk, microbatch, paired))
        if kind == BACKWARD:
            left.append((chunk, microbatch))
    return order
