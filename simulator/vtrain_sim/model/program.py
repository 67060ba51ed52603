"""The pieces of an operator program."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators import Operator

# Communication that hides behind whatever the same direction of the same program computes.
EVERYTHING = "*"


@dataclass(frozen=True)
class Compute:
    """An operator on the compute stream. `name` says where in the model it is."""

    name: str
    operator: Operator


@dataclass(frozen=True)
class Communication:
    """A collective among `size` ranks of a role.

    bytes: payload, the larger of input and output on one rank. hidden_behind: name of the operator
    that runs beside it (`EVERYTHING`: all of the direction's); empty for one that blocks. cover: share
    of that operator's time during which the two can run together.
    """

    name: str
    op: str
    role: str
    size: int
    bytes: int
    hidden_behind: str = ""
    cover: float = 1.0


Item = Compute | Communication


@dataclass(frozen=True)
class Program:
    """Forward and backward of one part of the model, in the order in which they run.

    weight: what a zero-bubble schedule may put off: the weight gradients (else part of backward).
    """

    name: str
    forward: tuple[Item, ...]
    backward: tuple[Item, ...]
    parameters: int = 0
    # Parameters held by expert parallel ranks, which are reduced over fewer data parallel ranks.
    expert_parameters: int = 0
    weight: tuple[Item, ...] = ()
