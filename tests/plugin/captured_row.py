"""The row of the runs table that the plugin would write for a configuration, from Megatron-Core's own objects."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout
from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig

from vtrain_plugin.adapters.megatron import metadata
from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_schemas.tables import TABLES
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, TrainSpec
from vtrain_sim.specs.pipeline_layout import write_layout


def captured_row(configuration: Configuration, megatron_lm: bool = True) -> dict[str, Any]:
    """A row as it would be read back. megatron_lm: the script has Megatron-LM's arguments, or is one's own."""
    with mock.patch.dict(sys.modules, {"megatron.training.global_vars": _arguments(configuration.model, megatron_lm)}):
        columns = metadata.run_columns(_context(configuration))
    columns["data_parallel_size"] = configuration.parallel.dp  # there is no process group to ask
    columns["global_batch_size"] = configuration.train.global_batch_size
    columns["run_id"] = "r"
    names = TABLES["runs"].column_names
    assert set(columns) <= set(names)
    json.loads(columns["config_json"])
    return {name: columns.get(name) for name in names}


def _arguments(model: ModelSpec, megatron_lm: bool) -> ModuleType:
    module: Any = ModuleType("megatron.training.global_vars")

    def get_args() -> SimpleNamespace:
        assert megatron_lm, "args is not initialized."
        divisor = model.make_vocab_size_divisible_by
        return SimpleNamespace(vocab_size=model.vocab_size, make_vocab_size_divisible_by=divisor, save="/secret")

    module.get_args = get_args
    return module


def _context(configuration: Configuration) -> ModelContext:
    """What the hooks would have learned of the running model."""
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    context = ModelContext()
    context.config = _transformer_config(model, parallel, train)
    context.ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=train.main_grads_dtype == "float32",
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        use_distributed_optimizer=parallel.distributed_optimizer,
        bucket_size=parallel.bucket_size or None,
    )
    context.optimizer, context.optimizer_config = "adam", OptimizerConfig(lr=1e-4)
    context.wrappers = ["TorchFullyShardedDataParallel" if parallel.fsdp else "DistributedDataParallel"]
    context.model_class = "GPTModel"
    context.seq_length, context.micro_batch_size = model.seq_length, train.micro_batch_size
    context.padded_vocab_size = model.padded_vocab_size(parallel.tp)
    context.position_embedding_type = model.position_embedding_type
    context.max_position_embeddings = model.max_position_embeddings or None
    context.tied_embeddings = not model.untie_embeddings_and_output_weights
    context.transformer_impl = "transformer_engine"
    context.params_dtype, context.main_grads_dtype = train.params_dtype, train.main_grads_dtype
    return context


def _transformer_config(model: ModelSpec, parallel: ParallelSpec, train: TrainSpec) -> TransformerConfig:
    dtype = getattr(torch, train.params_dtype)
    recomputed = train.recompute_granularity == "full"
    options: dict[str, Any] = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": model.num_query_groups,
        "kv_channels": model.kv_channels,
        "normalization": model.normalization,
        "qk_layernorm": model.qk_layernorm,
        "add_bias_linear": model.add_bias_linear,
        "add_qkv_bias": model.add_qkv_bias,
        "gated_linear_unit": model.swiglu,
        "activation_func": torch.nn.functional.silu if model.swiglu else torch.nn.functional.gelu,
        "hidden_dropout": 0.1 if model.dropout else 0.0,
        "attention_dropout": 0.0,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": train.params_dtype == "bfloat16",
        "fp16": train.params_dtype == "float16",
        "attention_backend": AttnBackend.unfused if train.attention_kernel == "unfused" else AttnBackend.auto,
        "recompute_granularity": None if train.recompute_granularity == "none" else train.recompute_granularity,
        "recompute_method": train.recompute_method if recomputed else None,
        "recompute_num_layers": train.recompute_num_layers if recomputed else None,
        "tensor_model_parallel_size": parallel.tp,
        "pipeline_model_parallel_size": parallel.pp,
        "virtual_pipeline_model_parallel_size": parallel.vpp if parallel.vpp > 1 else None,
        "context_parallel_size": parallel.cp,
        "expert_model_parallel_size": parallel.ep,
        "sequence_parallel": parallel.sequence_parallel,
        "overlap_p2p_comm": parallel.overlap_p2p,
        "microbatch_group_size_per_vp_stage": parallel.microbatch_group_size or None,
        "gradient_accumulation_fusion": train.gradient_accumulation_fusion,
        "moe_grouped_gemm": train.moe_grouped_gemm and bool(model.num_experts),
        # As Megatron-LM derives them.
        "batch_p2p_comm": parallel.batch_p2p and not parallel.overlap_p2p,
        "async_tensor_model_parallel_allreduce": parallel.async_tp_allreduce and not parallel.sequence_parallel,
        **_expert_options(model, parallel),
    }
    kind = TransformerConfig
    if model.multi_latent_attention:
        kind = MLATransformerConfig
        sizes = ("kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim")
        options |= {size: getattr(model, size) for size in sizes}
        options |= {"q_lora_rank": model.q_lora_rank or None, "rope_type": "rope"}
    config = kind(**options)
    # What its constructor takes only beside Transformer Engine, or checks against a whole script's settings.
    config.fp8 = train.fp8 or None
    config.tp_comm_overlap = parallel.tp_comm_overlap
    # Megatron-LM sets it when it begins to train.
    if parallel.overlap_grad_reduce and parallel.align_grad_reduce:
        config.grad_sync_func = [print]
    if parallel.layers:
        config.pipeline_model_parallel_layout = PipelineParallelLayerLayout(write_layout(parallel.layers), parallel.pp)
    return config


def _expert_options(model: ModelSpec, parallel: ParallelSpec) -> dict[str, Any]:
    if not model.num_experts:
        return {}
    pattern = model.moe_layer_freq
    return {
        "num_moe_experts": model.num_experts,
        "moe_router_topk": model.moe_router_topk,
        "moe_router_pre_softmax": True,
        "moe_ffn_hidden_size": model.moe_ffn_hidden_size,
        "moe_layer_freq": int(pattern) if pattern.isdigit() else [int(moe) for moe in model.moe_layers],
        "moe_shared_expert_intermediate_size": model.moe_shared_expert_intermediate_size or None,
        "moe_expert_capacity_factor": model.moe_expert_capacity_factor or None,
        "moe_pad_expert_input_to_capacity": model.moe_pad_expert_input_to_capacity,
        "moe_token_dispatcher_type": parallel.moe_token_dispatcher,
        "moe_shared_expert_overlap": parallel.moe_shared_expert_overlap,
        "expert_tensor_parallel_size": parallel.expert_tp or None,
    }


def padded(configuration: Configuration) -> Configuration:
    """The same with its vocabulary padded already: all that a script without Megatron-LM's arguments says of it."""
    size = configuration.model.padded_vocab_size(configuration.parallel.tp)
    return replace(configuration, model=replace(configuration.model, vocab_size=size, make_vocab_size_divisible_by=1))
