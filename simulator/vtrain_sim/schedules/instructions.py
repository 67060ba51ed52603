"""What a stage is told to do."""

from __future__ import annotations

from typing import NamedTuple

FORWARD, BACKWARD, WEIGHT = "F", "B", "W"


class Message(NamedTuple):
    """One activation (F) or gradient (B) that crosses a stage boundary, named by its sender."""

    direction: str
    stage: int
    chunk: int
    microbatch: int


class Run(NamedTuple):
    """Run a chunk forward (F), backward (B) or its weight gradients (W) for one microbatch."""

    direction: str
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


Instruction = Run | Exchange | Send | Receive
