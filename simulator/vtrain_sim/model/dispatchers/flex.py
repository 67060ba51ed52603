"""Tokens go once to each node, and once to each rank, that has any of their experts."""

from __future__ import annotations

from vtrain_sim.model.dispatchers.base import Dispatcher, Exchange, Routing


class FlexDispatcher(Dispatcher):
    """Megatron-Core's `MoEFlexTokenDispatcher`, with one of its backends (--moe-flex-dispatcher-backend).

    What it moves, forward and backward, is one copy of a token for each domain of a level; the backends differ in
    their kernels, which the rate of a network level stands for.
    """

    def __init__(self, backend: str) -> None:
        self.name = backend

    def dispatch(self, routing: Routing) -> list[Exchange]:
        """All tokens of the rank, each once to wherever one of its experts is."""
        ranks = routing.ep * routing.expert_tp
        if ranks == 1:
            return []
        tokens = round(routing.tokens * routing.imbalance)
        role = "ep" if routing.expert_tp == 1 else "tp_ep"
        # Each expert is on all ranks of an expert tensor parallel group.
        choices = routing.topk * routing.expert_tp
        return [Exchange("all_to_all", role, tokens * routing.row_bytes, choices, routing.share)]

    def permuted_rows(self, routing: Routing) -> int:
        """What arrives is copied to each expert of the rank, and summed up again: nothing is ordered by rank before."""
        rows = routing.tokens * routing.topk
        ranks = routing.ep * routing.expert_tp
        within = max(1.0, ranks * routing.share)
        arrived = routing.tokens * within * (1.0 - (1.0 - 1.0 / within) ** routing.topk)
        return round(2.0 * (rows + arrived) / 6.25)

    def combine(self, routing: Routing) -> list[Exchange]:
        """The same way back, partial sums where copies meet."""
        return self.dispatch(routing)
