"""Experts that get their tokens at a latent width (--moe-latent-size)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.costs.surfaces import Surfaces
from vtrain_sim.inputs import presets
from vtrain_sim.model import Communication, Compute, Parts, Program, communications_of, operators_of
from vtrain_sim.model.flops import flops_per_token
from vtrain_sim.simulate.projection import Projector
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, SpecError, TrainSpec
from vtrain_sim.specs.shard import LayerKind

H, LATENT, FFN, SHARED, EXPERTS, TOPK = 4096, 1024, 2688, 5376, 64, 6
WHOLE = ModelSpec(
    2, H, 32, 1024, 32000, add_bias_linear=False, dropout=False, num_experts=EXPERTS, moe_router_topk=TOPK,
    moe_ffn_hidden_size=FFN, moe_shared_expert_intermediate_size=SHARED,
)  # fmt: skip
MODEL = replace(WHOLE, moe_latent_size=LATENT)
LAYOUT = ParallelSpec(dp=8, ep=8)
STEP = TrainSpec(1, 8)


def layer(model: ModelSpec, parallel: ParallelSpec = LAYOUT, train: TrainSpec = STEP) -> Program:
    return Parts(Configuration(model, parallel, train).shard).layer(LayerKind(mixture=True))


def test_parameters_are_those_of_the_experts_at_the_latent_width_and_of_two_projections() -> None:
    latent, whole = layer(MODEL), layer(WHOLE)
    assert latent.expert_parameters == EXPERTS // 8 * 2 * LATENT * FFN
    assert latent.parameters == whole.parameters + 2 * H * LATENT
    sharded = layer(MODEL, ParallelSpec(tp=2, dp=8, ep=8, sequence_parallel=True))
    plain = layer(WHOLE, ParallelSpec(tp=2, dp=8, ep=8, sequence_parallel=True))
    assert sharded.replicated_parameters == plain.replicated_parameters + 2 * H * LATENT


def test_flops_of_a_token() -> None:
    per_token = flops_per_token(MODEL) - flops_per_token(replace(MODEL, num_layers=1))
    attention = 4 * H * H + 2 * H * 1024 / 2
    experts = TOPK * 2 * LATENT * FFN + 2 * H * LATENT + 2 * H * SHARED
    assert per_token == pytest.approx(6 * (attention + experts), rel=1e-12)
    executed = {
        item.name: item.operator.flops() for item in operators_of(layer(MODEL).forward) if item.operator.kind != "norm"
    }
    tokens = 1024
    assert executed["fc1_latent_proj"] == executed["fc2_latent_proj"] == 2 * tokens * H * LATENT
    assert executed["experts_fc1"] == executed["experts_fc2"] == 2 * tokens * TOPK * LATENT * FFN
    assert executed["shared_fc1"] == 2 * tokens * H * SHARED


@pytest.mark.parametrize("dispatcher", ["alltoall", "allgather", "deepep", "hybridep"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_what_is_exchanged_has_the_latent_width(dispatcher: str, direction: str) -> None:
    parallel = replace(LAYOUT, moe_token_dispatcher=dispatcher)
    latent, whole = (
        sorted(c.nbytes for c in communications_of(getattr(layer(model, parallel), direction)) if c.role != "tp")
        for model in (MODEL, WHOLE)
    )
    hidden_states = [n for n in whole if n % (H * 2 * 1024) == 0]
    assert hidden_states
    assert sorted(set(whole) - set(latent)) == sorted(set(hidden_states))
    assert {n * LATENT // H for n in hidden_states} <= set(latent)


def test_tokens_are_projected_before_they_leave_and_after_they_are_back() -> None:
    program = layer(MODEL)
    forward = [i.name for i in program.forward if isinstance(i, (Compute, Communication))]
    order = ["router", "fc1_latent_proj", "permute", "dispatch", "experts_fc1", "experts_fc2", "combine"]
    order += ["fc2_latent_proj", "shared_fc1"]
    assert [name for name in forward if name in order] == order
    backward = [i.name for i in program.backward if isinstance(i, (Compute, Communication))]
    # What comes back from the experts is named after the exchange whose gradient it is.
    expected = ["shared_fc1", "fc2_latent_proj", "dispatch", "experts_fc2", "experts_fc1", "combine", "permute"]
    expected += ["fc1_latent_proj", "router"]
    assert [name for name in backward if name in order] == expected


def test_activations_shrink_with_the_width() -> None:
    """Inputs of the experts, and the rows that are permuted; the projection back keeps its input."""
    tokens = 1024
    saved = layer(WHOLE).saved_bytes - layer(MODEL).saved_bytes
    assert saved == tokens * TOPK * (H - LATENT) * 2 - tokens * LATENT * 2


def test_a_narrower_width_takes_less_time_and_memory() -> None:
    projector = Projector.modelled(
        presets.cluster("dgx-h100"), Surfaces.from_dict(presets.cluster_surfaces("dgx-h100"))
    )
    widths = [512, 1024, 2048]
    results = [
        projector.project(Configuration(replace(WHOLE, moe_latent_size=width), LAYOUT, STEP)) for width in widths
    ]
    times = [result.iteration_time_s for result in results]
    assert times == sorted(times)
    peaks = [result.memory.worst.peak_bytes for result in results]
    assert peaks == sorted(peaks)


def test_what_megatron_refuses() -> None:
    with pytest.raises(SpecError, match="--moe-latent-size needs --num-experts"):
        ModelSpec(2, H, 32, 1024, 32000, moe_latent_size=64)
    with pytest.raises(SpecError, match="--moe-shared-expert-overlap"):
        Configuration(MODEL, replace(LAYOUT, moe_shared_expert_overlap=True), STEP)
