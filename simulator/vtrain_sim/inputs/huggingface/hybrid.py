"""Hybrids of Mamba2, attention, feed-forward blocks and experts: Nemotron-H and Nemotron 3."""

from __future__ import annotations

from vtrain_sim.file_table import FileTable, SpecFields
from vtrain_sim.inputs.huggingface.config_file import dropout, sequence
from vtrain_sim.inputs.huggingface.experts import router_groups
from vtrain_sim.inputs.huggingface.family import Family
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.hybrid_pattern import CONVOLVED_TOKENS, EXPERTS


def _nemotron_h(c: FileTable) -> SpecFields:
    """A layer for each symbol of the pattern."""
    pattern, convolved = c["hybrid_override_pattern"], c.get("conv_kernel", CONVOLVED_TOKENS)
    if convolved != CONVOLVED_TOKENS:
        raise SpecError(f"conv_kernel is {convolved}: convolutions of {CONVOLVED_TOKENS} tokens are simulated")
    attention, both = bool(c.get("attention_bias")), bool(c.get("attention_bias") and c.get("mlp_bias"))
    fields: SpecFields = {
        "num_layers": c["num_hidden_layers"],
        "hidden_size": c["hidden_size"],
        "num_attention_heads": c["num_attention_heads"],
        "num_query_groups": c.get("num_key_value_heads") or c["num_attention_heads"],
        "kv_channels": c.get("head_dim") or c.get("attention_head_dim") or 0,
        "ffn_hidden_size": c["intermediate_size"],
        "seq_length": sequence(c, "max_position_embeddings"),
        "vocab_size": c["vocab_size"],
        "add_bias_linear": both,
        "add_qkv_bias": attention and not both,
        "squared_relu": c.get("mlp_hidden_act", "relu2") == "relu2",
        "normalization": "RMSNorm",
        "position_embedding_type": "none",
        "dropout": dropout(c),
        "untie_embeddings_and_output_weights": not c.get("tie_word_embeddings", False),
        "hybrid_layer_pattern": pattern,
        "mtp_hybrid_override_pattern": c.get("mtp_hybrid_override_pattern") or "",
        "mamba_num_heads": c["mamba_num_heads"],
        "mamba_head_dim": c["mamba_head_dim"],
        "mamba_state_dim": c["ssm_state_size"],
        "mamba_num_groups": c["n_groups"],
    }
    return fields | _experts(c) if EXPERTS in pattern else fields


def _experts(c: FileTable) -> SpecFields:
    width = c["moe_intermediate_size"]
    shared = c.get("moe_shared_expert_intermediate_size") or (c.get("n_shared_experts") or 0) * width
    return {
        "num_experts": c["n_routed_experts"],
        "moe_router_topk": c["num_experts_per_tok"],
        "moe_ffn_hidden_size": width,
        "moe_latent_size": c.get("moe_latent_size") or 0,
        "moe_shared_expert_intermediate_size": shared,
        **router_groups(c),
    }


HYBRID = {"nemotron_h": Family(_nemotron_h)}
