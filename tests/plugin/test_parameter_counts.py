"""Parameter counts of real Megatron-Core modules against the simulator's, for what no CPU run trains."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conftest import ROOT, run_python
from vtrain_sim.model import build_step
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec

BASE: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 128,
    "vocab_size": 1024,
    "position_embedding_type": "rope",
    "untie_embeddings_and_output_weights": True,
    "make_vocab_size_divisible_by": 1,
}
GATED: dict[str, Any] = {"swiglu": True, "add_bias_linear": False, "normalization": "RMSNorm", "ffn_hidden_size": 256}
LATENT: dict[str, Any] = {
    "multi_latent_attention": True,
    "kv_lora_rank": 16,
    "qk_head_dim": 8,
    "qk_pos_emb_head_dim": 4,
    "v_head_dim": 8,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 32, "ffn_hidden_size": 128}
CASES: dict[str, dict[str, Any]] = {
    "gpt": {},
    "grouped queries": {**GATED, "num_query_groups": 2},
    "qk norm": {**GATED, "num_query_groups": 2, "qk_layernorm": True, "kv_channels": 32},
    "latent": {**GATED, **LATENT, "q_lora_rank": 24},
    "latent, norms": {**GATED, **LATENT, "q_lora_rank": 24, "qk_layernorm": True},
    "latent, plain queries": {**GATED, **LATENT},
    "experts": {**GATED, **EXPERTS},
    "shared experts": {**GATED, **EXPERTS, "moe_shared_expert_intermediate_size": 48},
    "some experts": {**GATED, **EXPERTS, "moe_layer_freq": "([0]+[1]*3)"},
}


@pytest.fixture(scope="module")
def counted() -> dict[str, int]:
    path = {"PYTHONPATH": str(ROOT / "tests")}
    done = run_python(["-m", "support.count_parameters"], env=path)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_parameters_are_megatron_cores(counted: dict[str, int], name: str) -> None:
    configuration = Configuration(ModelSpec(**{**BASE, **CASES[name]}), ParallelSpec(), TrainSpec(1, 1))
    stage = build_step(configuration).stages[0]
    assert stage.parameters + stage.expert_parameters == counted[name]
