"""What token dispatchers move."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtrain_schemas.words import COLLECTIVE_OPS
from vtrain_sim.errors import UserError
from vtrain_sim.model import Communication
from vtrain_sim.model.dispatchers import Dispatcher, Exchange, Routing, dispatcher, names, register, registry
from vtrain_sim.model.experts import moe_block
from vtrain_sim.model.shard import Shard
from vtrain_sim.specs import Configuration, Groups, ModelSpec, ParallelSpec, TrainSpec

# 512 tokens a rank, hidden size 1024 in 16 bits.
ROUTING = Routing(tokens=512, topk=2, row_bytes=2048, num_experts=8, ep=4, expert_tp=2)


def test_all_to_all_moves_each_token_to_its_experts() -> None:
    assert dispatcher("alltoall").dispatch(ROUTING) == [
        Exchange("all_to_all", "ep", 1024 * 2048),
        Exchange("all_gather", "expert_tp", 2 * 1024 * 2048),
    ]
    assert dispatcher("alltoall").combine(ROUTING) == [
        Exchange("reduce_scatter", "expert_tp", 2 * 1024 * 2048),
        Exchange("all_to_all", "ep", 1024 * 2048),
    ]
    busiest = replace(ROUTING, imbalance=1.5)
    assert busiest.expert_rows == 2 * 1536
    assert dispatcher("alltoall").dispatch(busiest)[0].bytes == 1536 * 2048


def test_all_gather_moves_all_tokens_whoever_needs_them() -> None:
    all_tokens = 512 * 4 * 2
    gather = dispatcher("allgather")
    assert gather.dispatch(ROUTING) == [
        Exchange("all_gather", "tp_ep", all_tokens * 8),
        Exchange("all_gather", "tp_ep", all_tokens * 8 * 4),
        Exchange("all_gather", "tp_ep", all_tokens * 2048),
    ]
    assert gather.combine(ROUTING) == [Exchange("reduce_scatter", "tp_ep", all_tokens * 2048)]
    assert gather.combine_backward(ROUTING) == [Exchange("all_gather", "tp_ep", all_tokens * 2048)]
    assert gather.dispatch_backward(ROUTING) == [
        Exchange("reduce_scatter", "tp_ep", all_tokens * 2048),
        Exchange("reduce_scatter", "tp_ep", all_tokens * 8 * 4),
    ]
    assert gather.dispatch(replace(ROUTING, topk=8, imbalance=3.0)) == gather.dispatch(ROUTING)


@given(
    st.sampled_from(names()),
    st.builds(
        Routing,
        tokens=st.integers(1, 1 << 16),
        topk=st.integers(1, 8),
        row_bytes=st.integers(2, 1 << 15),
        num_experts=st.just(64),
        ep=st.sampled_from([1, 2, 8]),
        expert_tp=st.sampled_from([1, 2, 8]),
        imbalance=st.floats(1.0, 4.0),
    ),
)
def test_ops_and_roles_exist_and_one_rank_says_nothing(name: str, routing: Routing) -> None:
    chosen = dispatcher(name)
    ranks = routing.ep * routing.expert_tp
    groups = Groups(ParallelSpec(dp=ranks, ep=routing.ep, expert_tp=routing.expert_tp))
    for part in (chosen.dispatch, chosen.combine, chosen.combine_backward, chosen.dispatch_backward):
        exchanges = part(routing)
        assert bool(exchanges) == (ranks > 1)
        for exchange in exchanges:
            assert exchange.op in COLLECTIVE_OPS
            assert getattr(groups, exchange.role).size > 1
            assert exchange.bytes > 0


def test_an_all_to_all_layer_says_what_its_dispatcher_says() -> None:
    model = ModelSpec(2, 1024, 8, 512, 1024, num_experts=8, moe_router_topk=2, moe_ffn_hidden_size=512)
    parallel = ParallelSpec(tp=2, dp=4, ep=4, expert_tp=2, sequence_parallel=True)
    shard = Shard(Configuration(model, parallel, TrainSpec(2, 8)).shard)
    routing = replace(ROUTING, tokens=shard.local_tokens)
    chosen = dispatcher("alltoall")
    expected = (
        chosen.dispatch(routing) + chosen.combine(routing),
        chosen.combine_backward(routing) + chosen.dispatch_backward(routing),
    )
    for items, exchanges in zip(moe_block(shard), expected, strict=True):
        said = [Exchange(i.op, i.role, i.nbytes) for i in items if isinstance(i, Communication)]
        assert said == exchanges


def test_a_dispatcher_can_be_added_and_an_unknown_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere(Dispatcher):
        name = "nowhere"

        def dispatch(self, routing: Routing) -> list[Exchange]:
            return []

        def combine(self, routing: Routing) -> list[Exchange]:
            return []

    monkeypatch.setattr(registry, "_DISPATCHERS", dict(registry._DISPATCHERS))
    with pytest.raises(UserError, match=r"flux is not simulated.*it takes allgather or alltoall or deepep or hybridep"):
        dispatcher("flux")
    register(Nowhere())
    assert dispatcher("nowhere").combine_backward(ROUTING) == []
