"""Each token goes to the ranks of its experts, and only there."""

from __future__ import annotations

from vtrain_sim.model.dispatchers.base import Dispatcher, Exchange, Routing


class AllToAllDispatcher(Dispatcher):
    """Megatron-Core's `MoEAlltoAllTokenDispatcher`: all-to-all over ep, then all-gather over expert tp."""

    name = "alltoall"

    def dispatch(self, routing: Routing) -> list[Exchange]:
        """Tokens to the ranks of their experts; all expert tensor parallel ranks need each others' rows."""
        return [*self._swap(routing), *self._over_expert_tp("all_gather", routing)]

    def combine(self, routing: Routing) -> list[Exchange]:
        """Partial sums of the experts' outputs are reduced, and go back to where their tokens are."""
        return [*self._over_expert_tp("reduce_scatter", routing), *self._swap(routing)]

    @staticmethod
    def _swap(routing: Routing) -> list[Exchange]:
        return [Exchange("all_to_all", "ep", routing.received * routing.row_bytes)] if routing.ep > 1 else []

    @staticmethod
    def _over_expert_tp(op: str, routing: Routing) -> list[Exchange]:
        if routing.expert_tp == 1:
            return []
        return [Exchange(op, "expert_tp", routing.expert_rows * routing.row_bytes)]
