"""Every rank gets all tokens of the expert parallel ranks, and takes those of its own experts."""

from __future__ import annotations

from vtrain_sim.model.dispatchers.base import Dispatcher, Exchange, Routing

# Bytes of one token and expert: whether it goes there (bool), and its probability (float32).
_MAP_BYTES, _PROBABILITY_BYTES = 1, 4


class AllGatherDispatcher(Dispatcher):
    """Megatron-Core's `MoEAllGatherTokenDispatcher`: all-gather over expert tp and ep, reduce-scatter back.

    What it moves depends neither on how many experts a token has nor on how evenly they are chosen.
    """

    name = "allgather"

    def dispatch(self, routing: Routing) -> list[Exchange]:
        """Routing map, probabilities and hidden states of all tokens."""
        choices = routing.num_experts
        return self._over_all(
            "all_gather", routing, choices * _MAP_BYTES, choices * _PROBABILITY_BYTES, routing.row_bytes
        )

    def combine(self, routing: Routing) -> list[Exchange]:
        """Each rank's contribution to every token is summed up where the token came from."""
        return self._over_all("reduce_scatter", routing, routing.row_bytes)

    def combine_backward(self, routing: Routing) -> list[Exchange]:
        """Gradients of all tokens' outputs."""
        return self._over_all("all_gather", routing, routing.row_bytes)

    def dispatch_backward(self, routing: Routing) -> list[Exchange]:
        """Gradients of hidden states and of probabilities; the routing map has none."""
        probabilities = routing.num_experts * _PROBABILITY_BYTES
        return self._over_all("reduce_scatter", routing, routing.row_bytes, probabilities)

    @staticmethod
    def _over_all(op: str, routing: Routing, *bytes_per_token: int) -> list[Exchange]:
        ranks = routing.ep * routing.expert_tp
        if ranks == 1:
            return []
        return [Exchange(op, "tp_ep", routing.tokens * ranks * each) for each in bytes_per_token]
