"""Tokens go once to each node, and once to each rank, that has any of their experts."""

from __future__ import annotations

from vtrain_schemas.operators.elementwise import PERMUTE_PASSES
from vtrain_sim.model.dispatchers.base import Dispatcher, Exchange, Routing
from vtrain_sim.specs.token_routing import Delivery, domains_reached

# Bytes of one token and expert: whether it goes there.
_MAP_BYTES = 1


class FlexDispatcher(Dispatcher):
    """Megatron-Core's `MoEFlexTokenDispatcher`, with one of its backends (--moe-flex-dispatcher-backend).

    What it moves, forward and backward, is one copy of a token for each domain of a level; the backends differ in
    their kernels, which the rate of a network level stands for. gathers_map: every rank first learns where the tokens
    of all ranks go, once for all exchanges of a layer (HybridEP's metadata preprocessing). permutes: see `Dispatcher`.
    """

    def __init__(self, backend: str, gathers_map: bool = False, permutes: bool = False) -> None:
        self.name = backend
        self.gathers_map = gathers_map
        self.permutes = permutes

    def dispatch(self, routing: Routing) -> list[Exchange]:
        """All tokens of the rank, each once to wherever one of its experts is."""
        exchanges = self._exchange(routing)
        if not (self.gathers_map and exchanges):
            return exchanges
        ranks = routing.ep * routing.expert_tp
        nbytes = routing.tokens * ranks * routing.num_experts * _MAP_BYTES
        return [Exchange("all_gather", exchanges[0].role, nbytes), *exchanges]

    def _exchange(self, routing: Routing) -> list[Exchange]:
        ranks = routing.ep * routing.expert_tp
        if ranks == 1:
            return []
        # A copy is sent if any of its rows is kept; what pads them is made where they arrive.
        tokens = round(routing.kept / routing.topk)
        role = "ep" if routing.expert_tp == 1 else "tp_ep"
        # Each expert is on all ranks of an expert tensor parallel group.
        choices = routing.topk * routing.expert_tp
        delivery = Delivery(choices, routing.share, self.name)
        return [Exchange("all_to_all", role, tokens * routing.row_bytes, delivery)]

    def permuted_rows(self, routing: Routing) -> int:
        """What arrives is copied to each expert of the rank, and summed up again: nothing is ordered by rank before."""
        rows = routing.sent
        arrived = routing.tokens * domains_reached(routing.ep * routing.expert_tp, routing.topk, routing.share)
        return round(2.0 * (rows + arrived) / PERMUTE_PASSES)

    def combine(self, routing: Routing) -> list[Exchange]:
        """The same way back, partial sums where copies meet."""
        return self._exchange(routing)

    def combine_backward(self, routing: Routing) -> list[Exchange]:
        """Gradients go the way that the tokens came, which is known."""
        return self._exchange(routing)
