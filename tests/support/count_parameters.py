"""Builds Megatron-Core GPT models on the CPU and prints their parameter counts as JSON. Test support only."""

from __future__ import annotations

import json

import torch
import torch.distributed as dist

from support import cpu_shims

SIZES = {"num_layers": 4, "hidden_size": 64, "num_attention_heads": 4}
GATED = {"gated_linear_unit": True, "add_bias_linear": False, "normalization": "RMSNorm"}
LATENT = {
    "multi_latent_attention": True,
    "kv_lora_rank": 16,
    "qk_head_dim": 8,
    "qk_pos_emb_head_dim": 4,
    "v_head_dim": 8,
}
EXPERTS = {"num_moe_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 32, "ffn_hidden_size": 128}
CASES: dict[str, dict[str, object]] = {
    "gpt": {},
    "grouped queries": {**GATED, "num_query_groups": 2},
    "qk norm": {**GATED, "num_query_groups": 2, "qk_layernorm": True, "kv_channels": 32},
    "latent": {**GATED, **LATENT, "q_lora_rank": 24},
    "latent, norms": {**GATED, **LATENT, "q_lora_rank": 24, "qk_layernorm": True},
    "latent, plain queries": {**GATED, **LATENT, "q_lora_rank": None},
    "experts": {**GATED, **EXPERTS},
    "shared experts": {**GATED, **EXPERTS, "moe_shared_expert_intermediate_size": 48},
    "some experts": {**GATED, **EXPERTS, "moe_layer_freq": [0, 1, 1, 1]},
}


class NoParameters(torch.nn.Module):
    """Stands in for core attention, which has none (and needs Transformer Engine with latent attention)."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()


def count(options: dict[str, object]) -> int:
    """Parameters of one model."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig

    kind = MLATransformerConfig if options.get("multi_latent_attention") else TransformerConfig
    extra = {"rope_type": "rope"} if kind is MLATransformerConfig else {}
    config = kind(**{**SIZES, **options, **extra, "use_cpu_initialization": True, "params_dtype": torch.float32})
    if isinstance(options.get("moe_layer_freq"), list):
        spec = get_gpt_decoder_block_spec(config, use_transformer_engine=False)
    else:
        spec = get_gpt_layer_local_spec(
            num_experts=config.num_moe_experts,
            moe_grouped_gemm=False,
            qk_layernorm=config.qk_layernorm,
            multi_latent_attention=config.multi_latent_attention,
            normalization=config.normalization,
        )
    if config.multi_latent_attention:
        spec.submodules.self_attention.submodules.core_attention = NoParameters
    model = GPTModel(
        config,
        spec,
        vocab_size=1024,
        max_sequence_length=128,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
    )
    return sum(p.numel() for p in model.parameters())


def main() -> None:
    """Print {case: parameters}; a case that this Megatron-Core cannot build has its error instead."""
    cpu_shims.apply()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    from megatron.core import parallel_state
    from megatron.core.transformer import multi_latent_attention

    # Without Transformer Engine the name is None, which the module asks isinstance about.
    multi_latent_attention.TELinear = NoParameters
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    print(json.dumps({name: count(options) for name, options in CASES.items()}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
