"""The configuration that a captured run had."""

from __future__ import annotations

from typing import Any

from vtrain_sim.errors import UserError
from vtrain_sim.specs.config import Configuration
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.parallel import ParallelSpec
from vtrain_sim.specs.train import TrainSpec

_NEEDED = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "seq_length",
    "padded_vocab_size",
    "micro_batch_size",
    "global_batch_size",
    "params_dtype",
)


def configuration_from_run(run: dict[str, Any]) -> Configuration:
    """Configuration of a row of the runs table; raises `UserError` where the row lacks a size."""
    missing = [name for name in _NEEDED if not run.get(name)]
    if missing:
        raise UserError(f"run {run.get('run_id')!r} does not say its {', '.join(missing)}: it cannot be projected from")
    model = ModelSpec(
        num_layers=run["num_layers"],
        hidden_size=run["hidden_size"],
        ffn_hidden_size=run["ffn_hidden_size"],
        num_attention_heads=run["num_attention_heads"],
        num_query_groups=run["num_query_groups"] or 0,
        kv_channels=run["kv_channels"] or 0,
        seq_length=run["seq_length"],
        vocab_size=run["padded_vocab_size"],
        # The captured vocabulary is padded already; another tensor parallel size may pad it further.
        make_vocab_size_divisible_by=1,
        max_position_embeddings=run["max_position_embeddings"] or 0,
        swiglu=bool(run["swiglu"]),
        add_bias_linear=bool(run["add_bias_linear"]),
        normalization=run["normalization"] or "LayerNorm",
        position_embedding_type=run["position_embedding_type"] or "rope",
        untie_embeddings_and_output_weights=bool(run["untie_embeddings_and_output_weights"]),
        num_experts=run["num_experts"] or 0,
        moe_router_topk=run["moe_router_topk"] or 0,
        moe_ffn_hidden_size=run["moe_ffn_hidden_size"] or 0,
    )
    parallel = ParallelSpec(
        tp=run["tensor_model_parallel_size"] or 1,
        pp=run["pipeline_model_parallel_size"] or 1,
        vpp=run["virtual_pipeline_chunks"] or 1,
        cp=run["context_parallel_size"] or 1,
        ep=run["expert_model_parallel_size"] or 1,
        dp=run["data_parallel_size"] or 1,
        sequence_parallel=bool(run["sequence_parallel"]) and (run["tensor_model_parallel_size"] or 1) > 1,
        distributed_optimizer=bool(run["distributed_optimizer"]),
        overlap_grad_reduce=bool(run["overlap_grad_reduce"]),
        overlap_param_gather=bool(run["overlap_param_gather"]),
        overlap_p2p=bool(run["overlap_p2p_comm"]) and (run["virtual_pipeline_chunks"] or 1) > 1,
    )
    granularity = run["recompute_granularity"]
    train = TrainSpec(
        micro_batch_size=run["micro_batch_size"],
        global_batch_size=run["global_batch_size"],
        params_dtype=run["params_dtype"],
        main_grads_dtype=run["main_grads_dtype"] or "float32",
        attention_kernel="unfused" if run["transformer_impl"] == "local" else "flash",
        recompute_granularity=granularity if granularity in ("selective", "full") else "none",
        recompute_method=run["recompute_method"] or "uniform",
        recompute_num_layers=run["recompute_num_layers"] or 1,
    )
    return Configuration(model, parallel, train)
