"""The pieces of an operator program."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_schemas.operators import Operator


@dataclass(frozen=True)
class Compute:
    """An operator on the compute stream. `name` says where in the model it is."""

    name: str
    operator: Operator


@dataclass(frozen=True)
class Communication:
    """A collective among `size` ranks of a role.

    bytes: payload, the larger of input and output on one rank. hidden_behind: name of the operator
    that runs beside it; empty for one that blocks.
    """

    name: str
    op: str
    role: str
    size: int
    bytes: int
    hidden_behind: str = ""


Item = Compute | Communication


@dataclass(frozen=True)
class Program:
    """Forward and backward of one part of the model, in the order in which they run."""

    name: str
    forward: tuple[Item, ...]
    backward: tuple[Item, ...]
    parameters: int = 0
    # Parameters held by expert parallel ranks, which are reduced over fewer data parallel ranks.
    expert_parameters: int = 0
