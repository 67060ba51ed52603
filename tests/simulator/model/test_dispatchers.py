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


def test_rows_beyond_the_capacity_are_dropped() -> None:
    """1.25 x 512 x 2 / 8 = 160 rows of an expert from a rank, 1280 of 8 experts; a rank sends 1024."""
    dropping = replace(ROUTING, capacity=160)
    swap = dispatcher("alltoall")
    assert swap.dispatch(dropping)[0].bytes == 1024 * 2048
    busiest = replace(dropping, imbalance=1.5)
    assert busiest.expert_rows == 2 * 1280
    assert swap.dispatch(busiest)[0].bytes == 1280 * 2048
    assert swap.permuted_rows(busiest) == 1024
    half = replace(busiest, capacity=64)
    assert (swap.permuted_rows(half), half.expert_rows) == (512, 2 * 512)
    # One copy for each rank: as many as two rows each make.
    assert dispatcher("deepep").dispatch(busiest)[0].bytes == 640 * 2048


@pytest.mark.parametrize("imbalance", [1.0, 1.5])
def test_padded_experts_get_as_many_rows_however_tokens_are_routed(imbalance: float) -> None:
    padded = replace(ROUTING, capacity=160, padded=True, imbalance=imbalance)
    swap = dispatcher("alltoall")
    assert padded.expert_rows == 2 * 8 * 160
    assert swap.dispatch(padded) == [
        Exchange("all_to_all", "ep", 8 * 160 * 2048),
        Exchange("all_gather", "expert_tp", 2 * 8 * 160 * 2048),
    ]
    assert swap.permuted_rows(padded) == 8 * 160
    # Padding is added where rows arrive.
    rows = min(round(1024 * imbalance), 1280)
    assert dispatcher("hybridep").combine(padded)[0].bytes == rows // 2 * 2048


def test_capacity_of_flags_reaches_the_experts() -> None:
    """Of 16 tokens with 2 of 8 experts, 1.1 x 4 = 4.4 rows each: 5."""
    model = ModelSpec(1, 64, 4, 16, 128, num_experts=8, moe_router_topk=2)
    train = TrainSpec(1, 4)

    def rows(**changes: object) -> list[int]:
        configuration = Configuration(replace(model, **changes), ParallelSpec(dp=4, ep=4), train)  # type: ignore[arg-type]
        block = moe_block(Shard(configuration.shard))[0]
        drops = [i for i in block if i.name == "token_drop"]
        assert bool(drops) == bool(changes)
        return [i.operator.m for i in block if not isinstance(i, Communication) and i.name == "experts_fc1"]

    assert rows() == [32]
    assert rows(moe_expert_capacity_factor=1.1) == [32]
    assert rows(moe_expert_capacity_factor=1.1, moe_pad_expert_input_to_capacity=True) == [40]
    assert rows(moe_expert_capacity_factor=0.5) == [16]
    # No expert has a token twice.
    assert rows(moe_expert_capacity_factor=9.0, moe_pad_expert_input_to_capacity=True) == [8 * 16]


@pytest.mark.parametrize(
    ("model", "parallel", "word"),
    [
        ({"moe_pad_expert_input_to_capacity": True}, {}, "needs --moe-expert-capacity-factor"),
        (
            {"moe_pad_expert_input_to_capacity": True, "moe_expert_capacity_factor": 1.0},
            {"moe_token_dispatcher": "deepep"},
            "needs --moe-token-dispatcher-type alltoall",
        ),
        ({"num_experts": 0, "moe_expert_capacity_factor": 1.0}, {}, "needs --num-experts"),
    ],
)
def test_capacities_that_megatron_refuses(model: dict[str, object], parallel: dict[str, object], word: str) -> None:
    base = {"num_experts": 8, "moe_router_topk": 2}
    with pytest.raises(UserError, match=word):
        Configuration(
            ModelSpec(1, 64, 4, 16, 128, **(base | model)),  # type: ignore[arg-type]
            ParallelSpec(dp=4, **parallel),  # type: ignore[arg-type]
            TrainSpec(1, 4),
        )


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
    model = ModelSpec(
        2, 1024, 8, 512, 1024, num_experts=8, moe_router_topk=2, moe_ffn_hidden_size=512, add_bias_linear=False
    )
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
