"""Families with names of their own for sizes: GPT-2 and its successors, Falcon, MPT, DBRX."""

from __future__ import annotations

from vtrain_sim.file_table import FileTable, SpecFields
from vtrain_sim.inputs.huggingface.config_file import dropout, sequence
from vtrain_sim.inputs.huggingface.experts import experts
from vtrain_sim.inputs.huggingface.family import BESIDE, EMBEDDING_NORM, OUTPUT_BIAS, Family, qk_norm
from vtrain_sim.inputs.huggingface.windows import EVERY
from vtrain_sim.specs.checks import SpecError


def _sizes(c: FileTable, layers: str, hidden: str, heads: str) -> SpecFields:
    """Sizes by the names that a family has for them, or by the common ones."""
    common = {layers: "num_hidden_layers", hidden: "hidden_size", heads: "num_attention_heads"}
    values = [c[name] if c.get(name) is not None else c[common[name]] for name in (layers, hidden, heads)]
    return {
        "num_layers": values[0],
        "hidden_size": values[1],
        "num_attention_heads": values[2],
        "vocab_size": c["vocab_size"],
        "dropout": dropout(c),
        "untie_embeddings_and_output_weights": not c.get("tie_word_embeddings", False),
    }


def _gpt2(c: FileTable) -> SpecFields:
    sizes = {**_sizes(c, "n_layer", "n_embd", "n_head"), "dropout": dropout(c, 0.1)}
    return {**sizes, "seq_length": sequence(c, "n_positions"), "ffn_hidden_size": c.get("n_inner") or 0}


def _gpt_bigcode(c: FileTable) -> SpecFields:
    heads = c["n_head"]
    return {**_gpt2(c), "num_query_groups": 1 if c.get("multi_query", True) else heads}


def _gptj(c: FileTable) -> SpecFields:
    return {**_gpt2(c), "dropout": dropout(c), "position_embedding_type": "rope", "norms_per_layer": 1}


def _bloom(c: FileTable) -> SpecFields:
    sizes = _sizes(c, "n_layer", "n_embed", "n_head")
    return {**sizes, "seq_length": c.get("seq_length") or 2048, "position_embedding_type": "none"}


def _gpt_neox(c: FileTable) -> SpecFields:
    return {
        **_sizes(c, "num_hidden_layers", "hidden_size", "num_attention_heads"),
        "ffn_hidden_size": c["intermediate_size"],
        "seq_length": sequence(c, "max_position_embeddings"),
        "position_embedding_type": "rope",
    }


def _nemotron(c: FileTable) -> SpecFields:
    groups = c.get("num_key_value_heads") or 0
    return {
        **_gpt_neox(c),
        "squared_relu": c.get("hidden_act", "relu2") == "relu2",
        "kv_channels": c.get("head_dim") or 0,
        "num_query_groups": groups,
        "add_bias_linear": bool(c.get("attention_bias") and c.get("mlp_bias")),
        "add_qkv_bias": bool(c.get("attention_bias") and not c.get("mlp_bias")),
    }


def _starcoder2(c: FileTable) -> SpecFields:
    groups, biases = c.get("num_key_value_heads") or 0, bool(c.get("use_bias", True))
    return {**_gpt_neox(c), "num_query_groups": groups, "add_bias_linear": biases}


def _phi(c: FileTable) -> SpecFields:
    return {**_gpt_neox(c), "num_query_groups": c.get("num_key_value_heads") or 0, "norms_per_layer": 1}


def _opt(c: FileTable) -> SpecFields:
    """Its table of positions has two rows more than positions."""
    sizes, hidden = _sizes(c, "num_hidden_layers", "hidden_size", "num_attention_heads"), c["hidden_size"]
    if c.get("word_embed_proj_dim", hidden) != hidden:
        raise SpecError(
            f"word_embed_proj_dim is {c['word_embed_proj_dim']}: embeddings of another width than the layers are not "
            "simulated"
        )
    positions = c["max_position_embeddings"]
    return {
        **sizes,
        "ffn_hidden_size": c["ffn_dim"],
        "seq_length": positions,
        "max_position_embeddings": positions + 2,
        "add_bias_linear": bool(c.get("enable_bias", True)),
        "dropout": dropout(c, 0.1),
    }


def _falcon(c: FileTable) -> SpecFields:
    """A norm for both blocks with one key and value head, one for each with groups, unless the file says else."""
    sizes = _sizes(c, "n_layer", "hidden_size", "n_head")
    heads, grouped = sizes["num_attention_heads"], bool(c.get("new_decoder_architecture"))
    beside = grouped or c.get("parallel_attn", True)
    norms = c.get("num_ln_in_parallel_attn") or (2 if grouped else 1)
    groups = (c.get("num_kv_heads") or heads) if grouped else (1 if c.get("multi_query", True) else heads)
    return {
        **sizes,
        "ffn_hidden_size": c.get("ffn_hidden_size") or 0,
        "num_query_groups": groups,
        "seq_length": c.get("max_position_embeddings") or 2048,
        "position_embedding_type": "none" if c.get("alibi") else "rope",
        "add_bias_linear": bool(c.get("bias")),
        "norms_per_layer": norms if beside else 2,
    }


def _mpt(c: FileTable) -> SpecFields:
    attention = c.get("attn_config") or {}
    sizes = _sizes(c, "n_layers", "d_model", "n_heads")
    plain = bool(c.get("no_bias", True))
    positions = "rope" if attention.get("rope") else "learned_absolute"
    groups = 1 if attention.get("attn_type") == "multiquery_attention" else attention.get("kv_n_heads")
    return {
        **sizes,
        "ffn_hidden_size": (c.get("expansion_ratio") or 4) * sizes["hidden_size"],
        "num_query_groups": groups or 0,
        "seq_length": sequence(c, "max_seq_len"),
        "position_embedding_type": "none" if attention.get("alibi") else positions,
        "add_bias_linear": not plain,
        # A LayerNorm without biases has the work and the parameters of an RMSNorm.
        "normalization": "RMSNorm" if plain else "LayerNorm",
        **qk_norm(attention.get("qk_ln"), "all"),
    }


def _dbrx(c: FileTable) -> SpecFields:
    ffn, width = c["ffn_config"], c["ffn_config"]["ffn_hidden_size"]
    sizes = _sizes(c, "n_layers", "d_model", "n_heads")
    named = {**c, "num_experts_per_tok": ffn["moe_top_k"], "num_hidden_layers": sizes["num_layers"]}
    return {
        **sizes,
        "ffn_hidden_size": width,
        "num_query_groups": c["attn_config"].get("kv_n_heads") or 0,
        "seq_length": sequence(c, "max_seq_len"),
        "position_embedding_type": "rope",
        "swiglu": True,
        "add_bias_linear": False,
        "normalization": "RMSNorm",
        **experts(named, ffn["moe_num_experts"], width),
    }


_TIED = {"tie_word_embeddings": True}
_OTHER_BIASES = "no biases of attention's projections, which have them here"

GPT_LIKE = {
    "gpt2": Family(_gpt2, _TIED),
    "gpt_bigcode": Family(_gpt_bigcode, _TIED),
    "gptj": Family(_gptj, approximated=(BESIDE, OUTPUT_BIAS, _OTHER_BIASES)),
    "bloom": Family(_bloom, _TIED, approximated=(EMBEDDING_NORM,)),
    "gpt_neox": Family(_gpt_neox),
    "nemotron": Family(_nemotron),
    "starcoder2": Family(_starcoder2, _TIED, windows=EVERY, reads=("use_bias",)),
    "phi": Family(_phi, approximated=(BESIDE, OUTPUT_BIAS)),
    "opt": Family(_opt, _TIED),
    "falcon": Family(_falcon, _TIED),
    "mpt": Family(_mpt, _TIED),
    "dbrx": Family(_dbrx),
}
