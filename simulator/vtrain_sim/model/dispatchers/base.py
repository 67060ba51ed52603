"""What a token dispatcher has to say: the communication before and after the experts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from vtrain_sim.specs.token_routing import Delivery


@dataclass(frozen=True)
class Exchange:
    """One collective. role: of its group; bytes: the larger of input and output on one rank.

    delivery: of an exchange whose bytes are those of one copy of the rank's tokens; None: a plain collective.
    """

    op: str
    role: str
    bytes: int
    delivery: Delivery | None = None


@dataclass(frozen=True)
class Routing:
    """The tokens of one microbatch in one layer, seen from the busiest expert parallel rank: the others wait for it.

    tokens: on one rank, between the tensor-parallel regions. topk: experts of each token. row_bytes: of one token's
    hidden state. num_experts: of the whole layer. ep, expert_tp: expert parallel and expert tensor parallel size.
    imbalance: tokens that the busiest rank receives over the mean. share: of the groups of experts, those that one
    token's experts are from (node-limited routing, DeepSeek-V3, arXiv:2412.19437, section 2.1.2). capacity: the most
    rows of one expert from one rank, what is more is dropped (GShard, arXiv:2006.16668, section 2.2); 0: nothing is.
    padded: every expert gets as many rows from every rank.
    """

    tokens: int
    topk: int
    row_bytes: int
    num_experts: int
    ep: int
    expert_tp: int = 1
    imbalance: float = 1.0
    share: float = 1.0
    capacity: int = 0
    padded: bool = False

    @property
    def sent(self) -> int:
        """Rows that a rank sends; padded ones too."""
        rows = self.tokens * self.topk
        if not self.capacity:
            return rows
        slots = self.capacity * self.num_experts
        return slots if self.padded else min(rows, slots)

    @property
    def kept(self) -> int:
        """Rows of tokens that a rank receives: as many as it sends, times the imbalance, unless they are dropped."""
        rows = round(self.tokens * self.topk * self.imbalance)
        return min(rows, self.capacity * self.num_experts) if self.capacity else rows

    @property
    def received(self) -> int:
        """Rows that a rank's experts get; padded ones too."""
        return self.sent if self.padded else self.kept

    @property
    def expert_rows(self) -> int:
        """Rows that one rank's experts compute: expert tensor parallel ranks share those of all of them."""
        return self.received * self.expert_tp


class Dispatcher(ABC):
    """One way to bring tokens to their experts and back.

    name: as Megatron-Core's ``--moe-token-dispatcher-type`` has it. permutes: its exchange also orders rows by
    expert, and fills them up to what narrow products take.
    """

    name: str
    permutes: bool = False

    def permuted_rows(self, routing: Routing) -> int:
        """Rows that are permuted to the experts and back, each twice: by rank, and by expert."""
        return routing.sent

    @abstractmethod
    def dispatch(self, routing: Routing) -> list[Exchange]:
        """Forward, before the experts."""

    @abstractmethod
    def combine(self, routing: Routing) -> list[Exchange]:
        """Forward, after the experts."""

    def combine_backward(self, routing: Routing) -> list[Exchange]:
        """Backward, before the experts' backward pass: gradients go the way that the tokens came."""
        return self.dispatch(routing)

    def dispatch_backward(self, routing: Routing) -> list[Exchange]:
        """Backward, after the experts' backward pass."""
        return self.combine(routing)
