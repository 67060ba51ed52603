"""Biases and norms that models have besides their matrices: what they hold and what they do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vtrain_sim.model import Compute, StageProgram, build_step
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, SpecError, TrainSpec

MODEL = ModelSpec(
    num_layers=4,
    hidden_size=512,
    num_attention_heads=8,
    num_query_groups=2,
    ffn_hidden_size=1024,
    seq_length=256,
    vocab_size=1024,
    swiglu=True,
    add_bias_linear=False,
    normalization="RMSNorm",
    position_embedding_type="rope",
)
EXPERTS = replace(MODEL, num_experts=4, moe_router_topk=2, moe_ffn_hidden_size=128)


def stage(model: ModelSpec, tp: int = 1) -> StageProgram:
    return build_step(Configuration(model, ParallelSpec(tp=tp), TrainSpec(1, 1))).stages[0]


def parameters(model: ModelSpec, tp: int = 1) -> int:
    return stage(model, tp).parameters + stage(model, tp).expert_parameters


def names(model: ModelSpec, phase: str) -> list[str]:
    layer = next(p for p, _ in stage(model).chunks[0] if p.name.startswith("layer"))
    items = layer.forward if phase == "forward" else layer.backward
    return [i.name for i in items if isinstance(i, Compute) and i.operator.kind == "norm"]


def test_biases_of_queries_keys_and_values() -> None:
    biased = replace(MODEL, add_qkv_bias=True)
    assert parameters(biased) - parameters(MODEL) == 4 * (8 + 2 * 2) * 64
    # Each rank has those of its heads.
    assert parameters(biased, 2) - parameters(MODEL, 2) == 4 * (4 + 2 * 1) * 64


def test_experts_and_the_router_have_the_biases_of_linear_layers() -> None:
    biased = replace(EXPERTS, add_bias_linear=True)
    attention, router, experts = 12 * 64 + 512, 4, 4 * (2 * 128 + 512)
    assert parameters(biased) - parameters(EXPERTS) == 4 * (attention + router + experts)


@pytest.mark.parametrize("model", [MODEL, EXPERTS], ids=["dense", "experts"])
def test_norms_after_each_block(model: ModelSpec) -> None:
    sandwiched = replace(model, norms_per_layer=4)
    assert parameters(sandwiched) - parameters(model) == 4 * 2 * 512
    before, after = ["input_layernorm", "pre_mlp_layernorm"], ["post_attention_layernorm", "post_mlp_layernorm"]
    assert names(model, "forward") == before
    assert names(sandwiched, "forward") == [before[0], after[0], before[1], after[1]]
    assert names(sandwiched, "backward") == [after[1], before[1], after[0], before[0]]


def test_a_norm_for_both_blocks() -> None:
    parallel = replace(MODEL, norms_per_layer=1)
    assert parameters(MODEL) - parameters(parallel) == 4 * 512
    assert names(parallel, "forward") == names(parallel, "backward") == ["input_layernorm"]
    with pytest.raises(SpecError, match="--norms-per-layer 1 does not go with --num-experts"):
        replace(EXPERTS, norms_per_layer=1)
    hybrid = replace(MODEL, hybrid_layer_pattern="M*M-")
    with pytest.raises(SpecError, match="--norms-per-layer 4 does not go with --hybrid-layer-pattern"):
        replace(hybrid, norms_per_layer=4)
    with pytest.raises(SpecError, match="--norms-per-layer is 3"):
        replace(MODEL, norms_per_layer=3)


def test_weights_of_norms_that_are_not_there() -> None:
    with pytest.raises(SpecError, match="--qk-layernorm-weights needs --qk-layernorm"):
        replace(MODEL, qk_layernorm_weights="all")


@pytest.mark.parametrize(("weights", "count"), [("shared", 2 * 64), ("all", (8 + 2) * 64), ("none", 0)])
def test_weights_of_the_norms_of_queries_and_keys(weights: str, count: int) -> None:
    normed = replace(MODEL, qk_layernorm=True, qk_layernorm_weights=weights)
    assert parameters(normed) - parameters(MODEL) == 4 * count
    assert "qk_layernorm" in names(normed, "forward")
    # Ranks share the heads that have their own.
    assert parameters(normed, 2) - parameters(MODEL, 2) == 4 * (count // 2 if weights == "all" else count)
