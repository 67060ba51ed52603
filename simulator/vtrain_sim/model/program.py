"""The pieces of an operator program: what is issued, in which order, on which stream.

A program is read as CUDA code is: items are issued in order; each stream runs its own in that order.
A `Compute` runs on the compute stream. A `Communication` runs on the stream of its role; it begins when
what was issued before it on the compute stream has ended, and the compute stream goes on beside it until
a `Wait` for it, at once if the communication is blocking.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import TypeAlias

from vtrain_schemas.operators import Operator
from vtrain_sim.frozen import changed
from vtrain_sim.specs.groups import Group
from vtrain_sim.specs.token_routing import Delivery


class Stream(IntEnum):
    """The queues of one device, and the host that fills them.

    DP: what data parallel ranks exchange shares links, so that it queues: gradients that are scattered and
    parameters that are gathered too. COPY: between the device and the host's memory.
    """

    COMPUTE = 0
    TP = 1
    CP = 2
    EP = 3
    DP = 4
    PP = 5
    HOST = 6
    COPY = 7


# Expert tensor parallel communication shares the queue of the expert parallel one: it is between its two halves.
# Groups that span stages communicate after the passes, when no transfer between stages is under way.
_STREAM_OF_ROLE = {
    "tp": Stream.TP,
    "cp": Stream.CP,
    "ep": Stream.EP,
    "expert_tp": Stream.EP,
    "tp_ep": Stream.EP,
    "dp": Stream.DP,
    "expert_dp": Stream.DP,
    "pp": Stream.PP,
    "embedding": Stream.PP,
    "mp": Stream.PP,
    "host": Stream.COPY,
}


def stream_of(role: str) -> str:
    """Name of the stream that communication of a role runs on; the role itself where it has none."""
    stream = _STREAM_OF_ROLE.get(role)
    return role if stream is None else stream.name.lower()


@dataclass(frozen=True)
class Compute:
    """An operator on the compute stream. `name` says where in the model it is.

    share: part of the operator's time that this item stands for; an operator whose halves communicate at
    different moments is several items with the same name. part: which of them, from 0.
    parameters, expert_parameters: of the operator on one rank; those of experts are reduced over fewer
    data parallel ranks. replicated_parameters: of the former, those that every tensor parallel rank has. saves: bytes
    that it keeps for its backward pass. launches: kernels that the host launches for it; None: as its kind says.
    host_share: part of its layer's host time beside launches that it takes, where several items are one layer.
    host_waits: the host launches it, and what follows, only when the compute stream has done all before it.
    """

    name: str
    operator: Operator
    share: float = 1.0
    part: int = 0
    parameters: int = 0
    expert_parameters: int = 0
    replicated_parameters: int = 0
    saves: int = 0
    launches: int | None = None
    host_share: float = 1.0
    host_waits: bool = False

    def replicated(self) -> Compute:
        """The same operator, whose parameters every tensor parallel rank has."""
        return changed(self, replicated_parameters=self.parameters)

    def without_tensors(self) -> Compute:
        """The same work, whose parameters and saved tensors are another item's."""
        return changed(self, parameters=0, expert_parameters=0, replicated_parameters=0, saves=0)


@dataclass(frozen=True)
class Communication:
    """A collective of one group on the stream of its role.

    nbytes: payload, the larger of input and output on one rank. blocking: the compute stream waits for it at once.
    for_weights: in a backward pass, only weight gradients need it. delivery: of a token exchange, see
    `vtrain_sim.model.dispatchers.Exchange`.
    """

    name: str
    op: str
    group: Group
    nbytes: int
    blocking: bool = True
    for_weights: bool = False
    delivery: Delivery | None = None

    @property
    def role(self) -> str:
        """Role of the group, a word of the collectives table."""
        return self.group.role

    @property
    def size(self) -> int:
        """Ranks of the group."""
        return self.group.size

    @property
    def stream(self) -> Stream:
        """The stream that it runs on; raises `ValueError` for a role that has none."""
        stream = _STREAM_OF_ROLE.get(self.group.role)
        if stream is None:
            raise ValueError(
                f"communication of role {self.group.role!r} has no stream: {', '.join(_STREAM_OF_ROLE)} do"
            )
        return stream


@dataclass(frozen=True)
class Wait:
    """The compute stream goes on when every communication of this name that was issued before has ended."""

    name: str


Item: TypeAlias = Compute | Communication | Wait


@dataclass(frozen=True)
class Program:
    """Forward and backward of one part of the model, in the order in which they are issued.

    weight: what a schedule that splits the backward pass runs apart: the weight gradients (else part of
    backward). checkpoint_bytes: kept instead of what its operators save when the part runs again in the
    backward pass, or when what they save is in the host's memory; None
    else. borrowed_parameters, borrowed_expert_parameters: of another part of the same rank, which it uses too.
    """

    name: str
    forward: tuple[Item, ...]
    backward: tuple[Item, ...]
    weight: tuple[Item, ...] = ()
    checkpoint_bytes: int | None = None
    borrowed_parameters: int = 0
    borrowed_expert_parameters: int = 0

    @cached_property
    def parameters(self) -> int:
        """Parameters on one rank that all data parallel ranks share."""
        return sum(i.parameters for i in self.forward if isinstance(i, Compute))

    @cached_property
    def expert_parameters(self) -> int:
        """Parameters of experts on one rank."""
        return sum(i.expert_parameters for i in self.forward if isinstance(i, Compute))

    @cached_property
    def replicated_parameters(self) -> int:
        """Parameters that tensor parallel ranks do not split: where the sequence is spread over these, each has a part
        of their gradients, which are then summed."""
        return sum(i.replicated_parameters for i in self.forward if isinstance(i, Compute))

    @property
    def used_parameters(self) -> int:
        """Parameters that it needs on the rank while it runs."""
        return self.parameters + self.expert_parameters + self.borrowed_parameters + self.borrowed_expert_parameters

    def parameters_in(self, dtype: str) -> int:
        """Parameters of products in this type, those of experts too."""
        products = (i for i in self.forward if isinstance(i, Compute) and i.operator.dtype == dtype)
        return sum(i.parameters + i.expert_parameters for i in products)

    @cached_property
    def saved_bytes(self) -> int:
        """Bytes that the forward pass saves for the backward pass, of one microbatch on one rank."""
        return sum(i.saves for i in self.forward if isinstance(i, Compute))

    @property
    def kept_bytes(self) -> int:
        """Bytes that stay until the backward pass: the saved ones, or the checkpoint of a recomputed part."""
        return self.saved_bytes if self.checkpoint_bytes is None else self.checkpoint_bytes


def borrowing(program: Program) -> Program:
    """The same work with the parameters of another part of the rank."""
    forward = tuple(
        changed(i, parameters=0, expert_parameters=0, replicated_parameters=0) if isinstance(i, Compute) else i
        for i in program.forward
    )
    return replace(
        program,
        forward=forward,
        borrowed_parameters=program.parameters + program.borrowed_parameters,
        borrowed_expert_parameters=program.expert_parameters + program.borrowed_expert_parameters,
    )


def operators_of(items: Iterable[Item]) -> Iterator[Compute]:
    """Every operator of a program once, also where several items stand for its parts."""
    return (i for i in items if isinstance(i, Compute) and i.part == 0)


def communications_of(items: Iterable[Item]) -> Iterator[Communication]:
    """Every communication of a program."""
    return (i for i in items if isinstance(i, Communication))


def in_parts(item: Compute, *shares: float) -> tuple[Compute, ...]:
    """One operator as several items, which together take its time; shares add up to 1."""
    return tuple(
        changed(item if part == 0 else item.without_tensors(), share=share, part=part)
        for part, share in enumerate(shares)
    )
