"""What a stage runs and exchanges: passes of model chunks, and the messages between stages."""

from __future__ import annotations

from typing import NamedTuple

# Kinds of passes. BACKWARD is the whole backward pass, or, where a schedule splits it, its input gradients alone.
# FULL_BACKWARD: a schedule that splits the backward pass runs both parts of it at once.
FORWARD, BACKWARD, WEIGHT, FULL_BACKWARD = "F", "B", "W", "BW"
KINDS = (FORWARD, BACKWARD, WEIGHT, FULL_BACKWARD)


class Pass(NamedTuple):
    """One pass of a model chunk of a stage for one microbatch.

    kind: one of `KINDS`. paired: one unit with the pass that follows it, as where two passes are overlapped: the first
    begins when what both wait for is there, and what both make is sent after the second.
    """

    kind: str
    chunk: int
    microbatch: int
    paired: bool = False


class Message(NamedTuple):
    """One activation (direction F) or gradient (B) that crosses a stage boundary, named by its sender."""

    direction: str
    stage: int
    chunk: int
    microbatch: int


class Exchange(NamedTuple):
    """Blocking point-to-point calls issued together: over when all of them are (rendezvous)."""

    sends: tuple[Message, ...]
    receives: tuple[Message, ...]


class Send(NamedTuple):
    """Send without waiting."""

    message: Message


class Receive(NamedTuple):
    """Wait for a message whose receive was posted earlier."""

    message: Message


Instruction = Pass | Exchange | Send | Receive


class ScheduleDeadlock(RuntimeError):
    """The passes wait for each other in a circle, or run before what they need: a defect of a schedule."""


def direction(kind: str) -> str | None:
    """The direction of what a pass of this kind passes on; None for weight gradients, which stay."""
    if kind == WEIGHT:
        return None
    return FORWARD if kind == FORWARD else BACKWARD


def produces_gradients(kind: str, splits_backward: bool) -> bool:
    """Whether a pass of this kind adds to the gradients of the parameters, and so frees the activations."""
    return kind in ((WEIGHT, FULL_BACKWARD) if splits_backward else (BACKWARD,))
