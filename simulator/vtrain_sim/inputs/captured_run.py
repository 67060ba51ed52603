"""The configuration that a captured run had.

Each field comes from the typed column of the runs table where there is one, else from `config_json`. What
neither says has the default of the spec. A run of something that the specs cannot say is refused. Six fields
are assumptions of a projection and nothing that a run has: `ModelSpec.moe_imbalance_factor`,
`ModelSpec.norms_per_layer` and `qk_layernorm_weights` (Megatron-Core's GPT has one kind of each),
`ParallelSpec.scatter_gather` (Megatron-Core does not do it), `TrainSpec.schedule` (Megatron-Core chooses it by
the chunks of a stage, as "auto" does), and `ModelSpec.max_position_embeddings` without learned positions.
"""

from __future__ import annotations

from vtrain_sim.errors import UserError
from vtrain_sim.file_table import SpecFields
from vtrain_sim.inputs.captured_config import CapturedConfig, Run
from vtrain_sim.specs.config import Configuration
from vtrain_sim.specs.context_parallel import HIERARCHICAL, read_comm_type, read_hierarchy
from vtrain_sim.specs.graphs import NONE
from vtrain_sim.specs.model import ModelSpec
from vtrain_sim.specs.moe_pattern import write_pattern
from vtrain_sim.specs.optimizer import WIDE
from vtrain_sim.specs.parallel import ParallelSpec, default_bucket_size
from vtrain_sim.specs.pipeline_layout import parse_layout, uneven
from vtrain_sim.specs.precision import DELAYED
from vtrain_sim.specs.recompute import DEFAULT, check_modules
from vtrain_sim.specs.train import TrainSpec
from vtrain_sim.specs.windows import read_window

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
_FSDP2 = "TorchFullyShardedDataParallel"


def configuration_from_run(run: Run) -> Configuration:
    """Configuration of a row of the runs table.

    Raises `UserError` where the row lacks a size, or where the run had what is not simulated.
    """
    missing = [name for name in _NEEDED if not run.get(name)]
    if missing:
        raise UserError(f"run {run.get('run_id')!r} does not say its {', '.join(missing)}: it cannot be projected from")
    config = CapturedConfig.of_run(run)
    config.check(run)
    parallel = _parallel(run, config)
    return Configuration(_model(run, config, parallel.tp), parallel, _train(run, config))


def _model(run: Run, config: CapturedConfig, tp: int) -> ModelSpec:
    vocab_size, divisor = _vocabulary(run, config, tp)
    position = run.get("position_embedding_type") or "rope"
    return ModelSpec(
        num_layers=run["num_layers"],
        hidden_size=run["hidden_size"],
        ffn_hidden_size=run["ffn_hidden_size"],
        num_attention_heads=run["num_attention_heads"],
        num_query_groups=run.get("num_query_groups") or 0,
        kv_channels=run.get("kv_channels") or 0,
        seq_length=run["seq_length"],
        vocab_size=vocab_size,
        make_vocab_size_divisible_by=divisor,
        max_position_embeddings=run.get("max_position_embeddings") or 0,
        swiglu=bool(run.get("swiglu")),
        squared_relu=config.transformer.get("activation_func") == "squared_relu",
        add_bias_linear=bool(run.get("add_bias_linear")),
        add_qkv_bias=bool(config.transformer.get("add_qkv_bias")),
        normalization=run.get("normalization") or "LayerNorm",
        # Of text, multimodal rotary embeddings are plain ones: as from flags.
        position_embedding_type="rope" if position == "mrope" else position,
        untie_embeddings_and_output_weights=bool(run.get("untie_embeddings_and_output_weights")),
        qk_layernorm=bool(config.transformer.get("qk_layernorm")),
        dropout=_dropout(config),
        **_window(config),
        softmax_type=str(config.transformer.get("softmax_type") or ModelSpec.softmax_type),
        mtp_num_layers=config.transformer.get("mtp_num_layers") or 0,
        **_experts(run, config),
        **_latent_attention(config),
    )


def _vocabulary(run: Run, config: CapturedConfig, tp: int) -> tuple[int, int]:
    """Vocabulary size and the divisor that pads it.

    Without Megatron-LM's arguments the padded size stands for both: another tensor parallel size may pad it
    further.
    """
    padded = int(run["padded_vocab_size"])
    size, divisor = config.args.get("vocab_size"), config.args.get("make_vocab_size_divisible_by")
    if size and divisor and -(-size // (divisor * tp)) * divisor * tp == padded:
        return int(size), int(divisor)
    return padded, 1


def _dropout(config: CapturedConfig) -> bool:
    # Either one keeps masks in memory; Megatron-Core's default for both is 0.1.
    rates = [config.transformer.get(name, 0.1) for name in ("hidden_dropout", "attention_dropout")]
    return any(rate > 0 for rate in rates)


def _experts(run: Run, config: CapturedConfig) -> SpecFields:
    if not run.get("num_experts"):
        return {}
    return {
        "num_experts": run["num_experts"],
        "moe_router_topk": run.get("moe_router_topk") or 0,
        **_groups(run, config),
        "moe_ffn_hidden_size": run.get("moe_ffn_hidden_size") or 0,
        "moe_layer_freq": _layer_pattern(config),
        "moe_expert_capacity_factor": config.transformer.get("moe_expert_capacity_factor") or 0.0,
        "moe_pad_expert_input_to_capacity": bool(config.transformer.get("moe_pad_expert_input_to_capacity")),
        "moe_shared_expert_intermediate_size": config.transformer.get("moe_shared_expert_intermediate_size") or 0,
    }


def _layer_pattern(config: CapturedConfig) -> str:
    """Megatron's pattern of mixture-of-experts layers, with repetitions written as ``([0]*3+[1]*58)``."""
    pattern = config.transformer.get("moe_layer_freq", 1)
    if isinstance(pattern, list):
        return write_pattern(pattern)
    if pattern == "list":
        raise UserError(
            f"run {config.run_id!r} does not say which of its layers are mixtures of experts: capture it again with "
            "this version of vtrain"
        )
    return str(pattern)


def _window(config: CapturedConfig) -> SpecFields:
    """Tokens that attention sees, and the layers that see all: a number, or a list of the layers with a window."""
    window, skip_freq = config.transformer.get("window_size"), config.transformer.get("window_attn_skip_freq")
    tokens = read_window("window_size", ",".join(map(str, window))) if window else 0
    if not tokens:
        return {}
    pattern = write_pattern(skip_freq) if isinstance(skip_freq, list) else str(skip_freq or "")
    return {"window_size": tokens, "window_attn_skip_freq": pattern}


def _latent_attention(config: CapturedConfig) -> SpecFields:
    if not config.transformer.get("multi_latent_attention"):
        return {}
    sizes = ("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim")
    return {"multi_latent_attention": True, **{size: config.transformer.get(size) or 0 for size in sizes}}


def _parallel(run: Run, config: CapturedConfig) -> ParallelSpec:
    tp, pp = run.get("tensor_model_parallel_size") or 1, run.get("pipeline_model_parallel_size") or 1
    vpp, layers = _stages(run, config, pp)
    sequence_parallel = bool(run.get("sequence_parallel")) and tp > 1
    overlap_p2p = bool(run.get("overlap_p2p_comm")) and vpp > 1
    fsdp, distributed_optimizer = _sharding(run, config)
    fields = config.transformer
    return ParallelSpec(
        tp=tp,
        pp=pp,
        vpp=vpp,
        cp=run.get("context_parallel_size") or 1,
        ep=run.get("expert_model_parallel_size") or 1,
        dp=run.get("data_parallel_size") or 1,
        sequence_parallel=sequence_parallel,
        distributed_optimizer=distributed_optimizer,
        overlap_grad_reduce=bool(run.get("overlap_grad_reduce")),
        # Full sharding gathers parameters as its layers run: there is nothing to switch.
        overlap_param_gather=bool(run.get("overlap_param_gather")) and not fsdp,
        overlap_p2p=overlap_p2p,
        expert_tp=_expert_tp(run, tp),
        fsdp=fsdp,
        tp_comm_overlap=bool(fields.get("tp_comm_overlap")),
        # Megatron-LM sets it to false with sequence parallelism, where there is no all-reduce to overlap.
        async_tp_allreduce=sequence_parallel or bool(fields.get("async_tensor_model_parallel_allreduce", True)),
        # Megatron-LM sets it to false where calls are overlapped one by one.
        batch_p2p=overlap_p2p or bool(fields.get("batch_p2p_comm", True)),
        layers=layers,
        align_grad_reduce=_is_aligned(run, config),
        bucket_size=_bucket_size(run, config),
        moe_token_dispatcher=_dispatcher(run, config),
        moe_shared_expert_overlap=bool(fields.get("moe_shared_expert_overlap")) and bool(run.get("num_experts")),
        overlap_moe_comm=bool(fields.get("overlap_moe_expert_parallel_comm")) and bool(run.get("num_experts")),
        microbatch_group_size=_group_size(config, pp, vpp),
        **_context(config),
    )


def _context(config: CapturedConfig) -> SpecFields:
    """How context parallel ranks exchange: a word, or a list of one per layer, and of two levels the inner ranks."""
    given = config.transformer.get("cp_comm_type") or ParallelSpec.cp_comm_type
    kind = read_comm_type("cp_comm_type", [given] if isinstance(given, str) else given)
    if kind != HIERARCHICAL:
        return {"cp_comm_type": kind}
    field = "hierarchical_context_parallel_sizes"
    inner, _ = read_hierarchy(field, config.transformer.get(field) or ())
    return {"cp_comm_type": kind, "cp_a2a_size": inner}


def _group_size(config: CapturedConfig, pp: int, vpp: int) -> int:
    """Microbatches of a group; 0 where it is the number of stages, which Megatron-Core writes also without chunks."""
    size = int(config.transformer.get("microbatch_group_size_per_vp_stage") or pp)
    return 0 if size == pp or vpp == 1 else size


def _is_aligned(run: Run, config: CapturedConfig) -> bool:
    """Whether stages begin to reduce gradients together: Megatron-LM gives the schedule a function for it. Without
    overlap there is nothing to align, which is then as the specs have it."""
    fields = config.transformer
    return not run.get("overlap_grad_reduce") or fields.get("grad_sync_func", "unknown") is not None


def _bucket_size(run: Run, config: CapturedConfig) -> int:
    """Parameters of a bucket of gradients; 0 where it is what Megatron-Core takes by itself."""
    size = int(config.ddp.get("bucket_size") or 0)
    replicas = (run.get("data_parallel_size") or 1) * (run.get("context_parallel_size") or 1)
    return 0 if size == default_bucket_size(replicas) else size


def _dispatcher(run: Run, config: CapturedConfig) -> str:
    name = config.transformer.get("moe_token_dispatcher_type")
    if name == "flex":
        name = config.transformer.get("moe_flex_dispatcher_backend") or "deepep"
    return str(name) if name and run.get("num_experts") else ParallelSpec.moe_token_dispatcher


def _expert_tp(run: Run, tp: int) -> int:
    """0 where it is the model's own, as in the spec."""
    size = run.get("expert_tensor_parallel_size") or tp
    return 0 if size == tp or not run.get("num_experts") else int(size)


def _stages(run: Run, config: CapturedConfig, pp: int) -> tuple[int, tuple[int, ...]]:
    """Chunks of a stage, and layers of each virtual stage: () where they are the same everywhere."""
    vpp = int(run.get("virtual_pipeline_chunks") or 1)
    fields = config.transformer
    layout = fields.get("pipeline_model_parallel_layout")
    if layout is not None:
        layers = parse_layout(str(layout), pp, fields.get("mtp_num_layers") or 0)
        vpp = len(layers) // pp
    else:
        layers = uneven(
            run["num_layers"],
            pp,
            vpp,
            fields.get("num_layers_in_first_pipeline_stage"),
            fields.get("num_layers_in_last_pipeline_stage"),
            bool(fields.get("account_for_embedding_in_pipeline_split")),
            bool(fields.get("account_for_loss_in_pipeline_split")),
        )
    return vpp, () if len(set(layers)) == 1 else layers


def _sharding(run: Run, config: CapturedConfig) -> tuple[bool, bool]:
    """Whether everything is sharded over the data parallel ranks, and whether optimizer states are."""
    if _FSDP2 in config.wrappers:
        return True, False
    if config.ddp.get("use_megatron_fsdp") or config.ddp.get("use_custom_fsdp"):
        strategy = config.ddp.get("data_parallel_sharding_strategy", "no_shard")
        if strategy not in ("no_shard", "optim", "optim_grads_params"):
            raise config.refuse("gradients sharded without parameters", "data_parallel_sharding_strategy", strategy)
        return strategy == "optim_grads_params", strategy == "optim"
    return False, bool(run.get("distributed_optimizer"))


def _groups(run: Run, config: CapturedConfig) -> SpecFields:
    """Groups of experts that routing is limited to."""
    names = ("moe_router_num_groups", "moe_router_group_topk")
    return {name: int(config.transformer.get(name) or 0) for name in names} if run.get("num_experts") else {}


def _train(run: Run, config: CapturedConfig) -> TrainSpec:
    granularity = run.get("recompute_granularity")
    return TrainSpec(
        micro_batch_size=run["micro_batch_size"],
        global_batch_size=run["global_batch_size"],
        params_dtype=run["params_dtype"],
        main_grads_dtype=_main_grads_dtype(run, config),
        attention_kernel=_attention_kernel(run, config),
        recompute_granularity=granularity if granularity in ("selective", "full") else "none",
        recompute_method=run.get("recompute_method") or "uniform",
        recompute_num_layers=run.get("recompute_num_layers") or 1,
        recompute_modules=_recompute_modules(run, config),
        fp8=_fp8_format(run, config),
        fp8_recipe=_fp8_recipe(config) if _fp8_format(run, config) else "",
        fp4=config.transformer.get("fp4") or "",
        fp8_param_gather=bool(config.transformer.get("fp8_param") or config.ddp.get("fp8_param_gather")),
        cross_entropy_fusion=_cross_entropy_fusion(config),
        **_graphs(config),
        **_optimizer_types(config),
        gradient_accumulation_fusion=bool(config.transformer.get("gradient_accumulation_fusion", True)),
        use_transformer_engine_op_fuser=bool(config.transformer.get("use_transformer_engine_op_fuser")),
        moe_router_padding=any(
            config.transformer.get(f"moe_router_padding_for_{name}") for name in ("fp8", "quantization")
        ),
        moe_grouped_gemm=bool(config.transformer.get("moe_grouped_gemm", True)) or not run.get("num_experts"),
    )


def _fp8_format(run: Run, config: CapturedConfig) -> str:
    return run.get("fp8") or config.transformer.get("fp8") or ""


def _fp8_recipe(config: CapturedConfig) -> str:
    """Empty where it is Megatron-Core's default, which it writes also without 8-bit products."""
    recipe = str(config.transformer.get("fp8_recipe") or "")
    return "" if recipe == DELAYED else recipe


def _graphs(config: CapturedConfig) -> SpecFields:
    """What CUDA graphs cover; older versions of Megatron-Core have a switch for each implementation."""
    fields = config.transformer
    older = "local" if fields.get("enable_cuda_graph") else ""
    older = "transformer_engine" if fields.get("external_cuda_graph") else older
    implementation = str(fields.get("cuda_graph_impl") or older or NONE)
    if implementation == NONE:
        implementation = older or NONE
    scope = fields.get("cuda_graph_scope") or ()
    words = [scope] if isinstance(scope, str) else [str(word) for word in scope]
    return {"cuda_graph_impl": implementation, "cuda_graph_scope": tuple(words)} if implementation != NONE else {}


def _cross_entropy_fusion(config: CapturedConfig) -> str:
    fields = config.transformer
    fused = fields.get("cross_entropy_loss_fusion")
    return str(fields.get("cross_entropy_fusion_impl") or "native") if fused else ""


def _optimizer_types(config: CapturedConfig) -> SpecFields:
    """Types of the optimizer's state, which count only where it is precision-aware."""
    fields = config.optimizer
    if not fields.get("use_precision_aware_optimizer"):
        return {}
    names = ("main_params_dtype", "exp_avg_dtype", "exp_avg_sq_dtype")
    types = {name: str(fields.get(name) or WIDE).removeprefix("torch.") for name in names}
    # PyTorch has no single type of 8 bits: Megatron-Core keeps such a moment as bytes.
    eight = {name: "float8" if dtype == "uint8" else dtype for name, dtype in types.items()}
    return {"use_precision_aware_optimizer": True, **eight}


def _recompute_modules(run: Run, config: CapturedConfig) -> tuple[str, ...]:
    modules = config.transformer.get("recompute_modules")
    return check_modules(modules) if modules and run.get("recompute_granularity") == "selective" else DEFAULT


def _main_grads_dtype(run: Run, config: CapturedConfig) -> str:
    if run.get("main_grads_dtype"):
        return str(run["main_grads_dtype"])
    # Full sharding keeps its gradients elsewhere than in Megatron-Core's buffers.
    in_fp32 = config.ddp.get("grad_reduce_in_fp32", True)
    return "float32" if in_fp32 else str(run["params_dtype"])


def _attention_kernel(run: Run, config: CapturedConfig) -> str:
    if run.get("transformer_impl") == "local":
        return "unfused"
    return "unfused" if config.transformer.get("attention_backend") in ("unfused", "local") else "flash"
