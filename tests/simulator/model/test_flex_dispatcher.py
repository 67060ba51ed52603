"""The flex dispatcher and its backends, by Megatron's arguments."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.model import Compute, Parts
from vtrain_sim.model.dispatchers import AllToAllDispatcher, Exchange, FlexDispatcher, Routing, dispatcher
from vtrain_sim.specs import Configuration, ParallelSpec, SpecError, TrainSpec
from vtrain_sim.specs.shard import LayerKind
from vtrain_sim.specs.token_routing import Delivery

BASE = Configuration(presets.model("qwen3-30b-a3b"), ParallelSpec(dp=16, ep=16), TrainSpec(1, 16))
ROUTING = Routing(tokens=4096, topk=8, row_bytes=4096, num_experts=128, ep=16)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("--moe-token-dispatcher-type flex", "deepep"),
        ("--moe-token-dispatcher-type flex --moe-flex-dispatcher-backend hybridep", "hybridep"),
        ("--moe-token-dispatcher-type flex --moe-enable-deepep", "deepep"),
        ("--moe-token-dispatcher-type alltoall", "alltoall"),
    ],
)
def test_backends_by_their_flags(flags: str, name: str) -> None:
    assert configuration_from_flags(flags.split(), BASE).parallel.moe_token_dispatcher == name


def test_a_backend_without_its_dispatcher_is_refused() -> None:
    with pytest.raises(SpecError, match="needs --moe-token-dispatcher-type flex"):
        configuration_from_flags(["--moe-token-dispatcher-type", "alltoall", "--moe-enable-deepep"], BASE)
    with pytest.raises(SpecError, match="--moe-enable-deepep needs --moe-token-dispatcher-type flex"):
        configuration_from_flags(["--moe-enable-deepep"], BASE)
    flex = configuration_from_flags(["--moe-token-dispatcher-type", "flex"], BASE)
    assert configuration_from_flags(["--moe-enable-deepep"], flex) == flex


def test_one_copy_of_each_token_is_exchanged_and_fewer_rows_are_permuted() -> None:
    flex, usual = FlexDispatcher("deepep"), AllToAllDispatcher()
    assert flex.dispatch(ROUTING) == flex.combine(ROUTING) == [Exchange("all_to_all", "ep", 4096 * 4096, Delivery(8))]
    assert usual.dispatch(ROUTING) == [Exchange("all_to_all", "ep", 8 * 4096 * 4096)]
    assert 0.3 < flex.permuted_rows(ROUTING) / usual.permuted_rows(ROUTING) < 0.6
    assert flex.dispatch(Routing(4096, 8, 4096, 128, ep=1)) == []


def test_node_limited_routing_by_its_flags() -> None:
    flags = ["--moe-router-num-groups", "8", "--moe-router-group-topk", "4"]
    model = configuration_from_flags(flags, BASE).model
    assert model.routed_share == 0.5
    assert FlexDispatcher("deepep").dispatch(replace(ROUTING, share=0.5)) == [
        Exchange("all_to_all", "ep", 4096 * 4096, Delivery(8, 0.5))
    ]
    for wrong, says in ((flags[:2], "go together"), ([*flags[:3], "9"], "--moe-router-group-topk")):
        with pytest.raises(SpecError, match=says):
            configuration_from_flags(wrong, BASE)


def test_hybridep_gathers_where_tokens_go_once() -> None:
    hybrid, deep = dispatcher("hybridep"), dispatcher("deepep")
    where = Exchange("all_gather", "ep", 16 * 4096 * 128)
    (sent,) = deep.dispatch(ROUTING)
    own = replace(sent, delivery=Delivery(8, library="hybridep"))
    assert hybrid.dispatch(ROUTING) == [where, own]
    for later in ("combine", "combine_backward", "dispatch_backward"):
        assert getattr(deep, later)(ROUTING) == [sent]
        assert getattr(hybrid, later)(ROUTING) == [own]
    assert hybrid.dispatch(Routing(4096, 8, 4096, 128, ep=1)) == []


def test_expert_tensor_parallel_ranks_get_copies_of_their_own() -> None:
    (exchange,) = FlexDispatcher("deepep").dispatch(Routing(4096, 8, 4096, 128, ep=8, expert_tp=2))
    assert (exchange.role, exchange.delivery) == ("tp_ep", Delivery(16))


def test_biases_of_experts_are_parameters_and_work_of_their_own() -> None:
    """Of each expert both biases; the second one is added to weighted rows."""
    plain, biased = (
        Parts(replace(BASE, model=replace(BASE.model, add_bias_linear=bias)).shard).layer(LayerKind(mixture=True))
        for bias in (False, True)
    )
    of_experts = 8 * (2 * BASE.model.moe_ffn_hidden_size + BASE.model.hidden_size)
    assert biased.expert_parameters - plain.expert_parameters == of_experts
    added = [i for i in biased.forward if isinstance(i, Compute) and i.operator.kind == "expert_bias"]
    assert [(i.operator.m, i.operator.n) for i in added] == [(4096 * 8, 2048)]
    assert not any(isinstance(i, Compute) and i.operator.kind == "expert_bias" for i in plain.forward)
