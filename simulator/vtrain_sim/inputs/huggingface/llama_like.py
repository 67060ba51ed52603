"""Families with Llama's names for sizes, gated feed-forward blocks and rotary embedding."""

from __future__ import annotations

from vtrain_sim.file_table import FileTable, SpecFields
from vtrain_sim.inputs.huggingface.config_file import dropout, sequence
from vtrain_sim.inputs.huggingface.experts import after_the_first, every_nth, experts, interleaved, router_groups
from vtrain_sim.inputs.huggingface.family import BESIDE, NO_ROPE, Family, qk_norm
from vtrain_sim.inputs.huggingface.windows import EVERY, LATER, LINEAR, PATTERN, pattern
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.model import LINEAR_SIZES
from vtrain_sim.specs.moe_pattern import write_pattern

# A LayerNorm without biases has the work and the parameters of an RMSNorm.
_PLAIN_NORM = "RMSNorm"


def _llama(c: FileTable) -> SpecFields:
    heads = c["num_attention_heads"]
    attention, both = bool(c.get("attention_bias")), bool(c.get("attention_bias") and c.get("mlp_bias"))
    return {
        "num_layers": c["num_hidden_layers"],
        "hidden_size": c["hidden_size"],
        "num_attention_heads": heads,
        "num_query_groups": c.get("num_key_value_heads") or heads,
        "ffn_hidden_size": c["intermediate_size"],
        "kv_channels": c.get("head_dim") or 0,
        "seq_length": sequence(c, "max_position_embeddings", "model_max_length"),
        "vocab_size": c["vocab_size"],
        "swiglu": True,
        "add_bias_linear": both,
        "add_qkv_bias": attention and not both,
        "normalization": "RMSNorm",
        "position_embedding_type": "rope",
        "dropout": dropout(c),
        "untie_embeddings_and_output_weights": not c.get("tie_word_embeddings", False),
    }


def _qwen2(c: FileTable) -> SpecFields:
    return {**_llama(c), "add_qkv_bias": True}


def _qwen3(c: FileTable) -> SpecFields:
    return {**_llama(c), "qk_layernorm": True}


def _mixtral(c: FileTable) -> SpecFields:
    return {**_llama(c), **experts(c, c["num_local_experts"], c["intermediate_size"])}


def _qwen2_moe(c: FileTable) -> SpecFields:
    width, shared = c["moe_intermediate_size"], c.get("shared_expert_intermediate_size") or 0
    bias = bool(c.get("qkv_bias", True))
    return {**_llama(c), "add_qkv_bias": bias, **experts(c, c["num_experts"], width, shared, every_nth)}


def _qwen3_moe(c: FileTable) -> SpecFields:
    width = c.get("moe_intermediate_size") or c["intermediate_size"]
    return {**_qwen3(c), **experts(c, c["num_experts"], width, 0, every_nth)}


def _qwen3_next(c: FileTable) -> SpecFields:
    """Gated delta nets but for every fourth layer, gated attention, and a gate on the shared experts."""
    width, shared = c["moe_intermediate_size"], c.get("shared_expert_intermediate_size") or 0
    return {
        **_qwen3(c),
        "attention_output_gate": True,
        "linear_attention_freq": _linear_layers(c),
        **{size: c[size] for size in LINEAR_SIZES},
        **experts(c, c["num_experts"], width, shared, every_nth),
        "moe_shared_expert_gate": shared > 0,
    }


def _linear_layers(c: FileTable) -> str:
    """Megatron's pattern of the layers with linear attention."""
    kinds = c.get("layer_types")
    if kinds is None:
        return str(c["full_attention_interval"])
    known = ("linear_attention", "full_attention")
    if not isinstance(kinds, list) or len(kinds) != c["num_hidden_layers"] or any(kind not in known for kind in kinds):
        raise SpecError(f"layer_types does not list its {c['num_hidden_layers']} layers as {' or '.join(known)}")
    linear = [kind == known[0] for kind in kinds]
    return pattern(linear) or write_pattern([1] * len(linear))


def _deepseek(c: FileTable) -> SpecFields:
    fields = _llama(c)
    if c.get("n_routed_experts"):
        width = c.get("moe_intermediate_size") or c["intermediate_size"]
        shared = (c.get("n_shared_experts") or 0) * width
        fields |= experts(c, c["n_routed_experts"], width, shared, after_the_first)
        fields |= router_groups(c)
    if c.get("kv_lora_rank"):
        fields |= {
            "multi_latent_attention": True,
            "qk_layernorm": True,
            "q_lora_rank": c.get("q_lora_rank") or 0,
            "kv_lora_rank": c["kv_lora_rank"],
            "qk_head_dim": c["qk_nope_head_dim"],
            "qk_pos_emb_head_dim": c["qk_rope_head_dim"],
            "v_head_dim": c["v_head_dim"],
            "num_query_groups": c["num_attention_heads"],
            "kv_channels": c["v_head_dim"],
        }
    return fields


def _glm4(c: FileTable) -> SpecFields:
    return {**_llama(c), "norms_per_layer": 4}


def _glm4_moe(c: FileTable) -> SpecFields:
    width = c["moe_intermediate_size"]
    shared = (c.get("n_shared_experts") or 0) * width
    mixtures = experts(c, c["n_routed_experts"], width, shared, after_the_first)
    return {**_llama(c), "qk_layernorm": bool(c.get("use_qk_norm")), **mixtures, **router_groups(c)}


# `swiglu_limit` where a configuration does not say it.
_OSS_LIMIT = 7.0


def _gpt_oss(c: FileTable) -> SpecFields:
    """Biases of everything, a sink for each head, and a gate of its own within bounds (arXiv:2508.10925, section 2)."""
    biases = {"add_bias_linear": True, "add_qkv_bias": False, "softmax_type": "learnable"}
    gate = {"quick_geglu": True, "activation_func_clamp_value": float(c.get("swiglu_limit") or _OSS_LIMIT)}
    scaling = c.get("rope_scaling") or c.get("rope_parameters") or {}
    positions = "yarn" if scaling.get("rope_type") == "yarn" else "rope"
    return {**_mixtral(c), **biases, **gate, "position_embedding_type": positions}


def _llama4(c: FileTable) -> SpecFields:
    """The norm of queries and keys is an L2 norm; a shared expert has the width of the others."""
    width = c["intermediate_size"]
    fields = {
        **_llama(c),
        "ffn_hidden_size": c["intermediate_size_mlp"],
        **qk_norm(c.get("use_qk_norm", True), "none"),
        **experts(c, c["num_local_experts"], width, width, interleaved),
    }
    # Where no extension tells the trained length, that of a chunk is one that is simulated as it is.
    fields["seq_length"] = min(fields["seq_length"], c.get("attention_chunk_size") or fields["seq_length"])
    return fields


def _minimax_m2(c: FileTable) -> SpecFields:
    return {**_mixtral(c), **qk_norm(c.get("use_qk_norm", True), "all")}


def _olmo2(c: FileTable) -> SpecFields:
    """Norms after each block in place of those before: as many, of tensors of the same size."""
    return {**_llama(c), **qk_norm(True, "all")}


def _olmoe(c: FileTable) -> SpecFields:
    return {**_olmo2(c), **experts(c, c["num_experts"], c["intermediate_size"])}


def _gemma2(c: FileTable) -> SpecFields:
    return {**_llama(c), "norms_per_layer": 4}


def _gemma3(c: FileTable) -> SpecFields:
    return {**_gemma2(c), "qk_layernorm": True}


def _cohere(c: FileTable) -> SpecFields:
    return {
        **_llama(c),
        "normalization": _PLAIN_NORM,
        "norms_per_layer": 1,
        **qk_norm(c.get("use_qk_norm"), "all"),
    }


def _stablelm(c: FileTable) -> SpecFields:
    return {
        **_llama(c),
        "normalization": "LayerNorm",
        "add_qkv_bias": bool(c.get("use_qkv_bias")),
        "norms_per_layer": 1 if c.get("use_parallel_residual") else 2,
        **qk_norm(c.get("qk_layernorm"), "all"),
    }


def _baichuan(c: FileTable) -> SpecFields:
    """The larger models have ALiBi, and say how long their sequences are in other words."""
    alibi = not c.get("max_position_embeddings")
    return {**_llama(c), "position_embedding_type": "none" if alibi else "rope"}


def _internlm2(c: FileTable) -> SpecFields:
    return _llama({**c, "attention_bias": c.get("bias")})


def _granitemoe(c: FileTable) -> SpecFields:
    shared = c.get("shared_intermediate_size") or 0
    return {**_llama(c), **experts(c, c["num_local_experts"], c["intermediate_size"], shared)}


def _phimoe(c: FileTable) -> SpecFields:
    return {**_mixtral(c), "normalization": "LayerNorm"}


_TIED = {"tie_word_embeddings": True}
_GEMMA = {**_TIED, "head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2}
# Files of multimodal models leave out what is as in the 4B model.
_GEMMA3 = {
    **_GEMMA,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 262208,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 131072,
}
_BIASES = ("attention_bias",)
_DEEPSEEK = Family(_deepseek)
_QWEN3_NEXT = {
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "head_dim": 256,
}

LLAMA_LIKE = {
    "llama": Family(_llama),
    "mistral": Family(_llama, windows=EVERY),
    "mixtral": Family(_mixtral, windows=EVERY),
    "qwen2": Family(_qwen2, windows=LATER),
    "qwen2_moe": Family(_qwen2_moe, windows=LATER, approximated=("a gate on the shared experts, which is left out",)),
    "qwen3": Family(_qwen3, windows=LATER),
    "qwen3_moe": Family(_qwen3_moe, windows=LATER),
    "qwen3_next": Family(_qwen3_next, _QWEN3_NEXT, LINEAR),
    "deepseek": _DEEPSEEK,
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "glm": Family(_llama, reads=_BIASES),
    "glm4": Family(_glm4, reads=_BIASES),
    "glm4_moe": Family(_glm4_moe, reads=_BIASES),
    "gpt_oss": Family(_gpt_oss, {"sliding_window_pattern": 2}, PATTERN, reads=_BIASES),
    "llama4": Family(_llama4),
    "llama4_text": Family(_llama4),
    "minimax_m2": Family(_minimax_m2),
    "gemma": Family(_llama, _GEMMA),
    "gemma2": Family(_gemma2, _GEMMA, PATTERN),
    "gemma3": Family(_gemma3, _GEMMA3, PATTERN),
    "gemma3_text": Family(_gemma3, _GEMMA3, PATTERN),
    "phi3": Family(_llama, windows=EVERY),
    "phimoe": Family(_phimoe, windows=EVERY),
    "olmo2": Family(_olmo2),
    "olmoe": Family(_olmoe),
    "cohere": Family(_cohere, _TIED, approximated=(BESIDE,)),
    "cohere2": Family(
        _cohere, {**_TIED, "sliding_window": 4096, "sliding_window_pattern": 4}, PATTERN, (BESIDE, NO_ROPE)
    ),
    "stablelm": Family(_stablelm),
    "baichuan": Family(_baichuan),
    "internlm2": Family(_internlm2),
    "granite": Family(_llama),
    "granitemoe": Family(_granitemoe),
    "granitemoeshared": Family(_granitemoe),
    "smollm3": Family(_llama, _TIED),
}
