"""Types of models that are known and not simulated, and what they have that is not."""

from __future__ import annotations

_DELTA, _MAMBA, _LIGHTNING = "gated delta net layers", "Mamba layers", "lightning attention"
_SPARSE, _STATE = "sparse attention with an indexer", "layers that carry a state"

REFUSED = {
    "qwen3_5": _DELTA,
    "qwen3_5_text": _DELTA,
    "qwen3_5_moe": _DELTA,
    "qwen3_5_moe_text": _DELTA,
    "olmo_hybrid": _DELTA,
    "kimi_linear": "delta attention layers",
    "minimax_text_01": _LIGHTNING,
    "minimax_m1": _LIGHTNING,
    "jamba": _MAMBA,
    "bamba": _MAMBA,
    "zamba": _MAMBA,
    "zamba2": _MAMBA,
    "falcon_h1": _MAMBA,
    "falcon_mamba": _MAMBA,
    "mamba": _MAMBA,
    "mamba2": _MAMBA,
    "granitemoehybrid": _MAMBA,
    "lfm2": "convolutions over the sequence",
    "lfm2_moe": "convolutions over the sequence",
    "recurrent_gemma": _STATE,
    "rwkv": _STATE,
    "deepseek_v32": _SPARSE,
    "glm_moe_dsa": _SPARSE,
    "jetmoe": "mixtures of attention heads",
    "nemotron-nas": "layers of different shapes",
    "gemma3n": "embeddings in every layer and several residual streams",
    "gemma3n_text": "embeddings in every layer and several residual streams",
    "mllama": "cross-attention to images",
    "phi3small": "block-sparse attention",
}
