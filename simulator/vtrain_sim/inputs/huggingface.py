"""Reads a Hugging Face ``config.json`` into a model.

Fields that change a step in a way that is not simulated are refused; `left_out` names those that change it little.
"""

from __future__ import annotations

import json
from pathlib import Path

from vtrain_sim.file_table import FileTable, SpecFields
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.model import MOST_LAYERS, ModelSpec
from vtrain_sim.specs.moe_pattern import write_pattern

_LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3")
_SUPPORTED = (*_LLAMA_LIKE, "gpt2", "gpt_neox", "bloom", "nemotron")


# Attention looks at the last tokens alone where these models say sliding_window; in some only with a switch.
_SLIDING, _SWITCHED = ("mistral", "mixtral"), ("qwen2", "qwen3", "qwen3_moe")
# Sizes and counts.
_WHOLE = (
    "num_hidden_layers", "n_layer", "hidden_size", "n_embd", "n_embed", "num_attention_heads", "n_head",
    "num_key_value_heads", "intermediate_size", "n_inner", "head_dim", "max_position_embeddings", "n_positions",
    "seq_length", "vocab_size", "num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok",
    "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace", "moe_layer_freq", "decoder_sparse_step",
    "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "sliding_window",
    "num_nextn_predict_layers",
)  # fmt: skip
# Fields that change time or memory somewhat, which is left out, and what they ask for.
_LEFT_OUT = {
    "num_nextn_predict_layers": "layers of multi-token prediction",
    "attention_bias": "biases of the attention's projections",
    "mlp_bias": "biases of the feed-forward block",
}


def read_config(path: Path) -> ModelSpec:
    """The model of a ``config.json`` (or of the folder that holds one). Raises `SpecError`."""
    path, config = _load(path)
    kind = config["model_type"]
    try:
        fields = _llama(config) if kind in _LLAMA_LIKE else _older(config, str(kind))
        _check_window(config, fields["seq_length"])
        return ModelSpec(name=str(config.get("_name_or_path") or kind), **fields)
    except KeyError as error:
        raise SpecError(f"{path} does not say {error.args[0]}") from None
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError):
        raise SpecError(f"{path} has a size that is not a number") from None


def left_out(path: Path) -> tuple[str, ...]:
    """A sentence for each field of a ``config.json`` that changes a step somewhat and is left out."""
    path, config = _load(path)
    named = {field: what for field, what in _LEFT_OUT.items() if config.get(field)}
    return tuple(f"{field} of {path} asks for {what}, which are left out" for field, what in named.items())


def _load(path: Path) -> tuple[Path, FileTable]:
    """The file and what it holds: sizes are whole numbers, if they are there."""
    path = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise SpecError(f"{path} is not a JSON file") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise SpecError(f"{path} has no model_type: it is not a Hugging Face model configuration")
    kind = config["model_type"]
    if kind not in _SUPPORTED:
        raise SpecError(f"{path} is a {kind} model: read are {', '.join(_SUPPORTED)}")
    for field in _WHOLE:
        value = config.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise SpecError(f"{path}: {field} is {value!r}: it takes a whole number")
    return path, config


def _check_window(c: FileTable, seq_length: int) -> None:
    kind, window = c["model_type"], c.get("sliding_window")
    slides = kind in _SLIDING or (kind in _SWITCHED and c.get("use_sliding_window", False))
    if slides and window and window < seq_length:
        raise SpecError(
            f"sliding_window is {window}: attention to the last tokens alone is not simulated (set it to null to "
            "project full attention, as it is where --seq-length is no longer than the window)"
        )


def _llama(c: FileTable) -> SpecFields:
    heads = c["num_attention_heads"]
    fields: SpecFields = {
        "num_layers": c["num_hidden_layers"],
        "hidden_size": c["hidden_size"],
        "num_attention_heads": heads,
        "num_query_groups": c.get("num_key_value_heads") or heads,
        "ffn_hidden_size": c["intermediate_size"],
        "kv_channels": c.get("head_dim") or 0,
        "seq_length": _sequence(c, "max_position_embeddings"),
        "vocab_size": c["vocab_size"],
        "swiglu": True,
        "add_bias_linear": False,
        "normalization": "RMSNorm",
        "position_embedding_type": "rope",
        "dropout": float(c.get("attention_dropout") or 0.0) > 0,
        "untie_embeddings_and_output_weights": not c.get("tie_word_embeddings", False),
        "qk_layernorm": str(c["model_type"]).startswith("qwen3"),
    }
    experts = c.get("num_local_experts") or c.get("num_experts") or c.get("n_routed_experts") or 0
    if experts:
        width = c.get("moe_intermediate_size") or c["intermediate_size"]
        fields |= {
            "num_experts": experts,
            "moe_router_topk": c["num_experts_per_tok"],
            "moe_ffn_hidden_size": width,
            "moe_shared_expert_intermediate_size": (c.get("n_shared_experts") or 0) * width,
        }
        mixtures = [_is_mixture(c, layer) for layer in range(min(c["num_hidden_layers"], MOST_LAYERS))]
        if not any(mixtures):
            raise SpecError("it has experts, but no layer of them")
        if not all(mixtures):
            fields["moe_layer_freq"] = write_pattern([int(mixture) for mixture in mixtures])
    if c.get("kv_lora_rank"):
        fields |= {
            "multi_latent_attention": True,
            "qk_layernorm": True,
            "q_lora_rank": c.get("q_lora_rank") or 0,
            "kv_lora_rank": c["kv_lora_rank"],
            "qk_head_dim": c["qk_nope_head_dim"],
            "qk_pos_emb_head_dim": c["qk_rope_head_dim"],
            "v_head_dim": c["v_head_dim"],
            "num_query_groups": heads,
            "kv_channels": c["v_head_dim"],
        }
    return fields


def _is_mixture(c: FileTable, layer: int) -> bool:
    """Whether a layer, counted from 0, is a mixture of experts, in DeepSeek's and in Qwen's words for it."""
    if str(c["model_type"]).startswith("deepseek"):
        every = c.get("moe_layer_freq") or 1
        return bool(layer >= (c.get("first_k_dense_replace") or 0) and layer % every == 0)
    step = c.get("decoder_sparse_step")
    every = 1 if step is None else step
    return layer not in (c.get("mlp_only_layers") or ()) and every > 0 and (layer + 1) % every == 0


def _older(c: FileTable, kind: str) -> SpecFields:
    if kind == "gpt2":
        hidden = c["n_embd"]
        return {
            "num_layers": c["n_layer"],
            "hidden_size": hidden,
            "num_attention_heads": c["n_head"],
            "seq_length": _sequence(c, "n_positions"),
            "vocab_size": c["vocab_size"],
            "ffn_hidden_size": c.get("n_inner") or 0,
        }
    if kind == "bloom":
        hidden = c.get("hidden_size") or c["n_embed"]
        return {
            "num_layers": c.get("n_layer") or c["num_hidden_layers"],
            "hidden_size": hidden,
            "num_attention_heads": c.get("n_head") or c["num_attention_heads"],
            "seq_length": c.get("seq_length") or 2048,
            "vocab_size": c["vocab_size"],
            "position_embedding_type": "none",
        }
    fields = {
        "num_layers": c["num_hidden_layers"],
        "hidden_size": c["hidden_size"],
        "num_attention_heads": c["num_attention_heads"],
        "ffn_hidden_size": c["intermediate_size"],
        "seq_length": _sequence(c, "max_position_embeddings"),
        "vocab_size": c["vocab_size"],
        "position_embedding_type": "rope",
        "untie_embeddings_and_output_weights": not c.get("tie_word_embeddings", False),
    }
    if kind == "nemotron":
        fields |= {"num_query_groups": c.get("num_key_value_heads") or 0, "add_bias_linear": False, "dropout": False}
    return fields


def _sequence(c: FileTable, key: str) -> int:
    """Trained sequence length: the longest position, before any extension of the rotary embedding."""
    scaling = c.get("rope_scaling") or {}
    return int(scaling.get("original_max_position_embeddings") or c[key])
