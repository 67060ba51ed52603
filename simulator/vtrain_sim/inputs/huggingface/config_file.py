"""The file itself: JSON, of a text model or with one in it, whose sizes are whole numbers."""

from __future__ import annotations

import json
from pathlib import Path

from vtrain_sim.file_table import FileTable
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.text_file import read_text

# Sizes and counts.
_WHOLE = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "hidden_size",
    "n_embd",
    "n_embed",
    "d_model",
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_key_value_heads",
    "num_kv_heads",
    "intermediate_size",
    "intermediate_size_mlp",
    "n_inner",
    "ffn_dim",
    "ffn_hidden_size",
    "expansion_ratio",
    "head_dim",
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "model_max_length",
    "original_max_position_embeddings",
    "seq_length",
    "vocab_size",
    "word_embed_proj_dim",
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "n_shared_experts",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "first_k_dense_replace",
    "moe_layer_freq",
    "decoder_sparse_step",
    "interleave_moe_layer_step",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "sliding_window",
    "sliding_window_pattern",
    "max_window_layers",
    "n_group",
    "topk_group",
    "attention_chunk_size",
    "num_nextn_predict_layers",
    "num_mtp_modules",
    "num_ln_in_parallel_attn",
    "moe_num_experts",
    "moe_top_k",
    "kv_n_heads",
    "mamba_num_heads",
    "mamba_head_dim",
    "conv_kernel",
    "ssm_state_size",
    "n_groups",
    "attention_head_dim",
    "moe_latent_size",
    "moe_shared_expert_intermediate_size",
)
# Tables of sizes within the file.
_TABLES = ("attn_config", "ffn_config", "rope_scaling", "rope_parameters")
# Of other inputs than text.
_ENCODERS = ("vision_config", "audio_config")


def load(path: Path) -> tuple[Path, FileTable, tuple[str, ...]]:
    """The file, the configuration of its text model, and the names of its encoders of other inputs.

    path: the file or the folder that holds it. Raises `SpecError`.
    """
    path = path / "config.json" if path.is_dir() else path
    text = read_text(path)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise SpecError(f"{path} is not a JSON file") from None
    encoders: tuple[str, ...] = ()
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        encoders = tuple(name for name in _ENCODERS if config.get(name))
        config = {"model_type": config.get("model_type"), **config["text_config"]}
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise SpecError(f"{path} has no model_type: it is not a Hugging Face model configuration")
    _check(path, config)
    return path, config, encoders


def _check(path: Path, config: FileTable) -> None:
    for name in _TABLES:
        table = config.get(name)
        if table is not None and not isinstance(table, dict):
            raise SpecError(f"{path}: {name} is {table!r}: it takes a table of values")
        _check_sizes(path, table or {})
    _check_sizes(path, config)


def _check_sizes(path: Path, table: FileTable) -> None:
    for field in _WHOLE:
        value = table.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise SpecError(f"{path}: {field} is {value!r}: it takes a whole number")


def sequence(c: FileTable, *names: str) -> int:
    """Trained sequence length: the longest position, before any extension of the rotary embedding.

    names: fields that may hold it, besides what an extension says.
    """
    scaling = c.get("rope_scaling") or c.get("rope_parameters") or {}
    for table, name in ((scaling, "original_max_position_embeddings"), (c, "original_max_position_embeddings")):
        if table.get(name):
            return int(table[name])
    return int(next((c[name] for name in names if c.get(name)), None) or c[names[0]])


def dropout(c: FileTable, default: float = 0.0) -> bool:
    """Whether any rate of dropout is above 0. default: that of a file without one."""
    names = ("attention_dropout", "hidden_dropout", "attn_pdrop", "resid_pdrop", "dropout")
    rates = [c[name] for name in names if c.get(name) is not None]
    return any(float(rate) > 0 for rate in rates) if rates else default > 0
