"""Published models: their configuration files' values, and their parameter counts.

The values are those of each model's ``config.json`` on Hugging Face. Counts that are whole numbers are the elements of
its files of weights; counts in billions are what the named paper or model card says, to its last digit.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]


def _llama(
    kind: str, layers: int, hidden: int, ffn: int, heads: tuple[int, int], vocab: int, positions: int, **more: object
) -> Config:
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        **more,
    }


TIED = {"tie_word_embeddings": True}
_LATENT = {
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip
_GLM = {"head_dim": 128, "attention_bias": True, "num_experts_per_tok": 8, "n_shared_experts": 1,
        "num_nextn_predict_layers": 1, "partial_rotary_factor": 0.5}  # fmt: skip
_OSS = {"head_dim": 64, "attention_bias": True, "num_experts_per_tok": 4, "sliding_window": 128,
        "rope_scaling": {"original_max_position_embeddings": 4096, "rope_type": "yarn"}}  # fmt: skip
_LLAMA4 = {"head_dim": 128, "num_experts_per_tok": 1, "attention_chunk_size": 8192, "intermediate_size_mlp": 16384}
_MAMBA = {"ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4, "attention_bias": False, "mlp_bias": False}
_GEMMA2 = {**TIED, "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_GEMMA3 = {**TIED, "sliding_window": 1024, "sliding_window_pattern": 6}
_FALCON = {"model_type": "falcon", "vocab_size": 65024, "bias": False, "alibi": False, "parallel_attn": True}
_LLAMA3 = {"rope_scaling": {"original_max_position_embeddings": 8192, "rope_type": "llama3"}}


def _opt(layers: int, hidden: int, heads: int) -> Config:
    return {
        "model_type": "opt", "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "ffn_dim": 4 * hidden, "vocab_size": 50272, "max_position_embeddings": 2048, "word_embed_proj_dim": hidden,
        "dropout": 0.1,
    }  # fmt: skip


def _neox(layers: int, hidden: int, heads: int, vocab: int) -> Config:
    more = {"use_parallel_residual": True, "tie_word_embeddings": False}
    config = _llama("gpt_neox", layers, hidden, 4 * hidden, (heads, heads), vocab, 2048, **more)
    return {name: value for name, value in config.items() if name != "num_key_value_heads"}


CONFIGS: dict[str, Config] = {
    # Llama and what has its architecture.
    "llama2-7b": _llama("llama", 32, 4096, 11008, (32, 32), 32000, 4096),
    "llama2-13b": _llama("llama", 40, 5120, 13824, (40, 40), 32000, 4096),
    "llama2-70b": _llama("llama", 80, 8192, 28672, (64, 8), 32000, 4096),
    "llama3-8b": _llama("llama", 32, 4096, 14336, (32, 8), 128256, 8192),
    "llama3-70b": _llama("llama", 80, 8192, 28672, (64, 8), 128256, 8192),
    "llama3-405b": _llama("llama", 126, 16384, 53248, (128, 8), 128256, 131072, **_LLAMA3),
    "llama3.2-1b": _llama("llama", 16, 2048, 8192, (32, 8), 128256, 131072, head_dim=64, **TIED, **_LLAMA3),
    "llama3.2-3b": _llama("llama", 28, 3072, 8192, (24, 8), 128256, 131072, head_dim=128, **TIED, **_LLAMA3),
    "yi-6b": _llama("llama", 32, 4096, 11008, (32, 4), 64000, 4096),
    "yi-34b": _llama("llama", 60, 7168, 20480, (56, 8), 64000, 4096),
    "smollm2-1.7b": _llama("llama", 24, 2048, 8192, (32, 32), 49152, 8192, **TIED),
    "smollm3-3b": _llama("smollm3", 36, 2048, 11008, (16, 4), 128256, 65536, **TIED, no_rope_layers=[1, 1, 1, 0] * 9),
    "internlm2-7b": _llama("internlm2", 32, 4096, 14336, (32, 8), 92544, 32768, bias=False),
    "internlm2-20b": _llama("internlm2", 48, 6144, 16384, (48, 8), 92544, 32768, bias=False),
    "baichuan2-7b": _llama("baichuan", 32, 4096, 11008, (32, 32), 125696, 4096),
    "baichuan2-13b": {
        "model_type": "baichuan", "num_hidden_layers": 40, "hidden_size": 5120, "intermediate_size": 13696,
        "num_attention_heads": 40, "vocab_size": 125696, "model_max_length": 4096,
    },
    "granite3-8b": _llama("granite", 40, 4096, 12800, (32, 8), 49155, 4096, **TIED),
    "granite3-3b-a800m": _llama(
        "granitemoe", 32, 1536, 512, (24, 8), 49155, 4096, **TIED, num_local_experts=40, num_experts_per_tok=8
    ),
    "mistral-7b": _llama("mistral", 32, 4096, 14336, (32, 8), 32000, 32768, sliding_window=4096),
    "mixtral-8x7b": _llama(
        "mixtral", 32, 4096, 14336, (32, 8), 32000, 32768, num_local_experts=8, num_experts_per_tok=2,
        sliding_window=None,
    ),
    "mixtral-8x22b": _llama(
        "mixtral", 56, 6144, 16384, (48, 8), 32768, 65536, num_local_experts=8, num_experts_per_tok=2,
        sliding_window=None,
    ),
    "stablelm-3b": _llama("stablelm", 32, 2560, 6912, (32, 32), 50304, 4096, use_qkv_bias=False),
    "stablelm2-1.6b": _llama("stablelm", 24, 2048, 5632, (32, 32), 100352, 4096, use_qkv_bias=True),
    # Phi.
    "phi2": {
        **_llama("phi", 32, 2560, 10240, (32, 32), 51200, 2048), "partial_rotary_factor": 0.4,
    },
    "phi3-mini": _llama("phi3", 32, 3072, 8192, (32, 32), 32064, 4096, sliding_window=2047,
                        original_max_position_embeddings=4096),
    "phi3-medium": _llama("phi3", 40, 5120, 17920, (40, 10), 32064, 4096, sliding_window=2047,
                          original_max_position_embeddings=4096),
    "phi3.5-moe": _llama("phimoe", 32, 4096, 6400, (32, 8), 32064, 131072, num_local_experts=16, num_experts_per_tok=2,
                         attention_bias=True, lm_head_bias=True, original_max_position_embeddings=4096,
                         sliding_window=131072),
    "phi4": _llama("phi3", 40, 5120, 17920, (40, 10), 100352, 16384, sliding_window=None),
    "phi4-mini": _llama("phi3", 32, 3072, 8192, (24, 8), 200064, 131072, **TIED, sliding_window=262144,
                        original_max_position_embeddings=4096, partial_rotary_factor=0.75),
    # OLMo.
    "olmo2-7b": _llama("olmo2", 32, 4096, 11008, (32, 32), 100352, 4096),
    "olmo2-13b": _llama("olmo2", 40, 5120, 13824, (40, 40), 100352, 4096),
    "olmo2-32b": _llama("olmo2", 64, 5120, 27648, (40, 8), 100352, 4096),
    "olmoe-1b-7b": _llama("olmoe", 16, 2048, 1024, (16, 16), 50304, 4096, num_experts=64, num_experts_per_tok=8),
    # Gemma.
    "gemma-7b": _llama("gemma", 28, 3072, 24576, (16, 16), 256000, 8192, head_dim=256),
    "gemma2-2b": _llama("gemma2", 26, 2304, 9216, (8, 4), 256000, 8192, head_dim=256, **_GEMMA2),
    "gemma2-9b": _llama("gemma2", 42, 3584, 14336, (16, 8), 256000, 8192, head_dim=256, **_GEMMA2),
    "gemma2-27b": _llama("gemma2", 46, 4608, 36864, (32, 16), 256000, 8192, head_dim=128, **_GEMMA2),
    "gemma3-1b": _llama("gemma3_text", 26, 1152, 6912, (4, 1), 262144, 32768, head_dim=256, **TIED,
                        sliding_window=512, sliding_window_pattern=6),
    # The file of the multimodal model, which leaves out what is as its class has it.
    "gemma3-4b": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "sliding_window": 1024, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
    },
    "gemma3-12b": _llama("gemma3_text", 48, 3840, 15360, (16, 8), 262208, 131072, head_dim=256, **_GEMMA3),
    "gemma3-27b": _llama("gemma3_text", 62, 5376, 21504, (32, 16), 262208, 131072, head_dim=128, **_GEMMA3),
    # Qwen.
    "qwen2-7b": _llama("qwen2", 28, 3584, 18944, (28, 4), 152064, 131072, use_sliding_window=False,
                       sliding_window=131072, max_window_layers=28),
    "qwen2.5-0.5b": _llama("qwen2", 24, 896, 4864, (14, 2), 151936, 32768, **TIED, use_sliding_window=False,
                           sliding_window=32768, max_window_layers=24),
    "qwen2.5-14b": _llama("qwen2", 48, 5120, 13824, (40, 8), 152064, 131072, use_sliding_window=False),
    "qwen2.5-32b": _llama("qwen2", 64, 5120, 27648, (40, 8), 152064, 131072, use_sliding_window=False),
    "qwen2.5-72b": _llama("qwen2", 80, 8192, 29568, (64, 8), 152064, 131072, use_sliding_window=False),
    "qwen1.5-moe-a2.7b": _llama(
        "qwen2_moe", 24, 2048, 5632, (16, 16), 151936, 8192, num_experts=60, num_experts_per_tok=4,
        moe_intermediate_size=1408, shared_expert_intermediate_size=5632, decoder_sparse_step=1,
    ),
    "qwen2-57b-a14b": _llama(
        "qwen2_moe", 28, 3584, 18944, (28, 4), 151936, 131072, num_experts=64, num_experts_per_tok=8,
        moe_intermediate_size=2560, shared_expert_intermediate_size=20480, decoder_sparse_step=1,
    ),
    "qwen3-0.6b": _llama("qwen3", 28, 1024, 3072, (16, 8), 151936, 40960, head_dim=128, **TIED),
    "qwen3-1.7b": _llama("qwen3", 28, 2048, 6144, (16, 8), 151936, 40960, head_dim=128, **TIED),
    "qwen3-4b": _llama("qwen3", 36, 2560, 9728, (32, 8), 151936, 40960, head_dim=128, **TIED),
    "qwen3-8b": _llama("qwen3", 36, 4096, 12288, (32, 8), 151936, 40960, head_dim=128),
    "qwen3-14b": _llama("qwen3", 40, 5120, 17408, (40, 8), 151936, 40960, head_dim=128),
    "qwen3-32b": _llama("qwen3", 64, 5120, 25600, (64, 8), 151936, 40960, head_dim=128),
    "qwen3-30b-a3b": _llama(
        "qwen3_moe", 48, 2048, 6144, (32, 4), 151936, 40960, head_dim=128, num_experts=128, num_experts_per_tok=8,
        moe_intermediate_size=768, decoder_sparse_step=1, mlp_only_layers=[],
    ),
    "qwen3-235b-a22b": _llama(
        "qwen3_moe", 94, 4096, 12288, (64, 4), 151936, 40960, head_dim=128, num_experts=128, num_experts_per_tok=8,
        moe_intermediate_size=1536, decoder_sparse_step=1, mlp_only_layers=[],
    ),
    "qwen3-next-80b-a3b": _llama(
        "qwen3_next", 48, 2048, 5120, (16, 2), 151936, 262144, head_dim=256, num_experts=512, num_experts_per_tok=10,
        moe_intermediate_size=512, shared_expert_intermediate_size=512, decoder_sparse_step=1, mlp_only_layers=[],
        full_attention_interval=4, linear_conv_kernel_dim=4, linear_key_head_dim=128, linear_value_head_dim=128,
        linear_num_key_heads=16, linear_num_value_heads=32, partial_rotary_factor=0.25,
    ),
    # DeepSeek and what has its architecture.
    "deepseek-moe-16b": _llama(
        "deepseek", 28, 2048, 10944, (16, 16), 102400, 4096, n_routed_experts=64, num_experts_per_tok=6,
        n_shared_experts=2, moe_intermediate_size=1408, first_k_dense_replace=1, moe_layer_freq=1,
    ),
    "deepseek-v2-lite": _llama(
        "deepseek_v2", 27, 2048, 10944, (16, 16), 102400, 163840, n_routed_experts=64, num_experts_per_tok=6,
        n_shared_experts=2, moe_intermediate_size=1408, first_k_dense_replace=1, moe_layer_freq=1,
        rope_scaling={"original_max_position_embeddings": 4096}, **{**_LATENT, "q_lora_rank": None},
    ),
    "deepseek-v2": _llama(
        "deepseek_v2", 60, 5120, 12288, (128, 128), 102400, 163840, n_routed_experts=160, num_experts_per_tok=6,
        n_shared_experts=2, moe_intermediate_size=1536, first_k_dense_replace=1, moe_layer_freq=1, n_group=8, topk_group=3,
        rope_scaling={"original_max_position_embeddings": 4096}, **_LATENT,
    ),
    "deepseek-v3": _llama(
        "deepseek_v3", 61, 7168, 18432, (128, 128), 129280, 163840, n_routed_experts=256, num_experts_per_tok=8,
        n_shared_experts=1, moe_intermediate_size=2048, first_k_dense_replace=3, moe_layer_freq=1, n_group=8, topk_group=4,
        num_nextn_predict_layers=1, rope_scaling={"original_max_position_embeddings": 4096}, **_LATENT,
    ),
    "moonlight-16b-a3b": _llama(
        "deepseek_v3", 27, 2048, 11264, (16, 16), 163840, 8192, n_routed_experts=64, num_experts_per_tok=6,
        n_shared_experts=2, moe_intermediate_size=1408, first_k_dense_replace=1, moe_layer_freq=1,
        **{**_LATENT, "q_lora_rank": None},
    ),
    "kimi-k2": _llama(
        "kimi_k2", 61, 7168, 18432, (64, 64), 163840, 131072, n_routed_experts=384, num_experts_per_tok=8,
        n_shared_experts=1, moe_intermediate_size=2048, first_k_dense_replace=1, moe_layer_freq=1,
        num_nextn_predict_layers=0, rope_scaling={"original_max_position_embeddings": 4096}, **_LATENT,
    ),
    # GLM.
    "glm4-9b": _llama("glm", 40, 4096, 13696, (32, 2), 151552, 131072, head_dim=128, attention_bias=True),
    "glm4-32b": _llama("glm4", 61, 6144, 23040, (48, 2), 151552, 32768, head_dim=128, attention_bias=False),
    "glm4.5": _llama(
        "glm4_moe", 92, 5120, 12288, (96, 8), 151552, 131072, **_GLM, n_routed_experts=160, moe_intermediate_size=1536,
        first_k_dense_replace=3, use_qk_norm=True,
    ),
    "glm4.5-air": _llama(
        "glm4_moe", 46, 4096, 10944, (96, 8), 151552, 131072, **_GLM, n_routed_experts=128, moe_intermediate_size=1408,
        first_k_dense_replace=1, use_qk_norm=False,
    ),
    # GPT-OSS, Llama 4, MiniMax.
    "gpt-oss-20b": _llama(
        "gpt_oss", 24, 2880, 2880, (64, 8), 201088, 131072, **_OSS, num_local_experts=32,
        layer_types=["sliding_attention", "full_attention"] * 12,
    ),
    "gpt-oss-120b": _llama("gpt_oss", 36, 2880, 2880, (64, 8), 201088, 131072, **_OSS, num_local_experts=128),
    "llama4-scout": {
        "model_type": "llama4",
        "text_config": _llama(
            "llama4_text", 48, 5120, 8192, (40, 8), 202048, 10485760, **_LLAMA4, num_local_experts=16,
            interleave_moe_layer_step=1, use_qk_norm=True, no_rope_layers=[], **_LLAMA3,
        ),
        "vision_config": {"hidden_size": 1408, "num_hidden_layers": 34},
    },
    "llama4-maverick": _llama(
        "llama4_text", 48, 5120, 8192, (40, 8), 202048, 1048576, **_LLAMA4, num_local_experts=128,
        interleave_moe_layer_step=2, use_qk_norm=False, no_rope_layers=[],
    ),
    "minimax-m2": _llama(
        "minimax", 62, 3072, 1536, (48, 8), 200064, 196608, head_dim=128, num_local_experts=256, num_experts_per_tok=8,
        use_qk_norm=True, qk_norm_type="per_layer", attn_type_list=[1] * 62, num_mtp_modules=3,
    ),
    # Cohere, Databricks, MosaicML, TII, Meta, EleutherAI, BigCode, BigScience.
    "command-r": _llama("cohere", 40, 8192, 22528, (64, 64), 256000, 8192, use_qk_norm=False),
    "command-r-plus": _llama("cohere", 64, 12288, 33792, (96, 8), 256000, 8192, use_qk_norm=True),
    "command-r7b": _llama("cohere2", 32, 4096, 14336, (32, 8), 256000, 8192, sliding_window=4096,
                          sliding_window_pattern=4),
    "dbrx": {
        "model_type": "dbrx", "d_model": 6144, "n_layers": 40, "n_heads": 48, "vocab_size": 100352, "max_seq_len": 32768,
        "attn_config": {"kv_n_heads": 8, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    },
    "mpt-7b": {
        "model_type": "mpt", "d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432, "max_seq_len": 2048,
        "expansion_ratio": 4, "no_bias": True, "attn_config": {"alibi": True},
    },
    "mpt-30b": {
        "model_type": "mpt", "d_model": 7168, "n_layers": 48, "n_heads": 64, "vocab_size": 50432, "max_seq_len": 8192,
        "expansion_ratio": 4, "no_bias": True, "attn_config": {"alibi": True},
    },
    "falcon-7b": {**_FALCON, "num_hidden_layers": 32, "hidden_size": 4544, "num_attention_heads": 71,
                  "multi_query": True, "new_decoder_architecture": False},
    "falcon-40b": {**_FALCON, "num_hidden_layers": 60, "hidden_size": 8192, "num_attention_heads": 128,
                   "num_kv_heads": 8, "new_decoder_architecture": True},
    "falcon-180b": {**_FALCON, "num_hidden_layers": 80, "hidden_size": 14848, "num_attention_heads": 232,
                    "num_kv_heads": 8, "new_decoder_architecture": True},
    "opt-1.3b": _opt(24, 2048, 32),
    "opt-6.7b": _opt(32, 4096, 32),
    "opt-13b": _opt(40, 5120, 40),
    "opt-30b": _opt(48, 7168, 56),
    "opt-66b": _opt(64, 9216, 72),
    "opt-175b": _opt(96, 12288, 96),
    "gpt2-xl": {"model_type": "gpt2", "n_layer": 48, "n_embd": 1600, "n_head": 25, "n_positions": 1024,
                "vocab_size": 50257},
    "gptj-6b": {"model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16, "n_positions": 2048,
                "vocab_size": 50400, "rotary_dim": 64, "tie_word_embeddings": False},
    "gpt-neox-20b": _neox(44, 6144, 64, 50432),
    "pythia-6.9b": _neox(32, 4096, 32, 50432),
    "pythia-12b": _neox(36, 5120, 40, 50688),
    "bloom-7b1": {"model_type": "bloom", "n_layer": 30, "n_embed": 4096, "n_head": 32, "vocab_size": 250880},
    "bloom-176b": {"model_type": "bloom", "n_layer": 70, "hidden_size": 14336, "num_attention_heads": 112,
                   "vocab_size": 250880},
    "starcoder": {"model_type": "gpt_bigcode", "n_layer": 40, "n_embd": 6144, "n_head": 48, "n_inner": 24576,
                  "n_positions": 8192, "vocab_size": 49152, "multi_query": True},
    "starcoder2-3b": _llama("starcoder2", 30, 3072, 12288, (24, 2), 49152, 16384, sliding_window=4096, use_bias=True),
    "starcoder2-7b": _llama("starcoder2", 32, 4608, 18432, (36, 4), 49152, 16384, sliding_window=4096, use_bias=True),
    "starcoder2-15b": _llama("starcoder2", 40, 6144, 24576, (48, 4), 49152, 16384, sliding_window=4096, use_bias=True,
                             tie_word_embeddings=False),
    "nemotron-h-8b": {
        **_llama("nemotron_h", 52, 4096, 21504, (32, 8), 131072, 8192, head_dim=128), **_MAMBA,
        "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
        "mamba_num_heads": 128, "mamba_head_dim": 64,
    },
    "nemotron-nano-9b-v2": {
        **_llama("nemotron_h", 56, 4480, 15680, (40, 8), 131072, 131072, head_dim=128), **_MAMBA,
        "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
        "mamba_num_heads": 128, "mamba_head_dim": 80,
    },
    "nemotron3-nano-30b-a3b": {
        **_llama("nemotron_h", 52, 2688, 1856, (32, 2), 131072, 262144, head_dim=128), **_MAMBA,
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
        "mamba_num_heads": 64, "mamba_head_dim": 64, "n_routed_experts": 128, "num_experts_per_tok": 6,
        "moe_intermediate_size": 1856, "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 3712,
        "n_group": 1, "topk_group": 1,
    },
    "nemotron4-340b": _llama("nemotron", 96, 18432, 73728, (96, 8), 256000, 4096),
}  # fmt: skip
