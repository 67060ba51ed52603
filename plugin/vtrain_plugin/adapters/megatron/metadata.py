"""Columns of the run and rank rows that Megatron-Core knows."""

from __future__ import annotations

from vtrain_plugin.adapters.megatron.config_json import config_json, plain
from vtrain_plugin.adapters.megatron.context import ModelContext
from vtrain_plugin.capture.rows import Row
from vtrain_plugin.capture.run_rows import distribution_version
from vtrain_plugin.capture.tensors import dtype_name

# Columns of the runs table that are fields of the transformer configuration.
_SAME_NAME = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
    "sequence_parallel",
    "overlap_p2p_comm",
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "moe_router_topk",
    "moe_ffn_hidden_size",
    "add_bias_linear",
    "normalization",
    "recompute_granularity",
    "recompute_method",
    "recompute_num_layers",
)
_COORDINATES = {
    "tp_rank": "get_tensor_model_parallel_rank",
    "pp_rank": "get_pipeline_model_parallel_rank",
    "dp_rank": "get_data_parallel_rank",
    "cp_rank": "get_context_parallel_rank",
    "ep_rank": "get_expert_model_parallel_rank",
}


def rank_columns(context: ModelContext) -> Row:
    """Coordinates and parameters of this process."""
    coordinates = {column: _parallel(function, 0) for column, function in _COORDINATES.items()}
    return {**coordinates, "parameters": context.parameters}


def run_columns(context: ModelContext) -> Row:
    """Columns of the runs table, from Megatron-Core's own configuration objects."""
    columns: Row = {name: getattr(context.config, name, None) for name in _SAME_NAME}
    columns |= {**_model_columns(context), **_layout_columns(context), **_training_columns(context)}
    if columns["num_experts"] is None:
        columns["moe_router_topk"] = columns["moe_ffn_hidden_size"] = None
    return {
        **columns,
        "transformer_impl": context.transformer_impl,
        "megatron_core_version": _megatron_core_version(),
        "config_json": config_json(context),
    }


def _model_columns(context: ModelContext) -> Row:
    config = context.config
    activation = getattr(getattr(config, "activation_func", None), "__name__", "")
    return {
        "padded_vocab_size": context.padded_vocab_size or None,
        "max_position_embeddings": context.max_position_embeddings,
        "position_embedding_type": context.position_embedding_type,
        "num_experts": getattr(config, "num_moe_experts", None),
        "swiglu": bool(getattr(config, "gated_linear_unit", False)) and activation == "silu",
        "untie_embeddings_and_output_weights": (
            None if context.tied_embeddings is None else not context.tied_embeddings
        ),
    }


def _layout_columns(context: ModelContext) -> Row:
    ddp = context.ddp_config
    return {
        "virtual_pipeline_chunks": getattr(context.config, "virtual_pipeline_model_parallel_size", None) or 1,
        "data_parallel_size": _parallel("get_data_parallel_world_size", 1),
        "distributed_optimizer": getattr(ddp, "use_distributed_optimizer", None),
        "overlap_grad_reduce": getattr(ddp, "overlap_grad_reduce", None),
        "overlap_param_gather": getattr(ddp, "overlap_param_gather", None),
    }


def _training_columns(context: ModelContext) -> Row:
    config = context.config
    fp8 = getattr(config, "fp8", None)
    return {
        "seq_length": context.seq_length or None,
        "micro_batch_size": context.micro_batch_size or None,
        "params_dtype": context.params_dtype or dtype_name(getattr(config, "params_dtype", "")),
        "fp8": str(plain(fp8)) if fp8 else None,
        "main_grads_dtype": context.main_grads_dtype,
        "optimizer": context.optimizer,
    }


def _parallel(function: str, default: int) -> int:
    try:
        from megatron.core import parallel_state

        return int(getattr(parallel_state, function)())
    except (ImportError, AttributeError, AssertionError, RuntimeError, TypeError):
        return default


def _megatron_core_version() -> str | None:
    # The imported package, which may not be the installed distribution.
    import megatron.core

    version = getattr(megatron.core, "__version__", None)
    return version if isinstance(version, str) else distribution_version("megatron-core")
