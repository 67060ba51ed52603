"""Prints a configuration as Megatron's own command-line flags."""

from __future__ import annotations

from vtrain_sim.specs.config import Configuration
from vtrain_sim.specs.graphs import NONE
from vtrain_sim.specs.hybrid_pattern import write_pattern
from vtrain_sim.specs.model import LINEAR_SIZES, ModelSpec
from vtrain_sim.specs.optimizer import ADAM, WIDE, MuonSpec
from vtrain_sim.specs.parallel import ParallelSpec
from vtrain_sim.specs.pipeline_layout import write_layout
from vtrain_sim.specs.recompute import DEFAULT
from vtrain_sim.specs.train import TrainSpec

# Megatron trains in fp32 where no flag says else.
_PRECISION = {"bfloat16": ["--bf16"], "float16": ["--fp16"], "float32": []}
# Megatron's own full sharding: PyTorch's takes neither expert parallelism nor tied embeddings nor fused gradients. It
# needs a format of checkpoints, and the distributed optimizer with its switches, which mean nothing else here.
_FULL_SHARDING = [
    "--use-megatron-fsdp",
    "--data-parallel-sharding-strategy",
    "optim_grads_params",
    "--ckpt-format",
    "fsdp_dtensor",
]
_STATE_WORDS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8": "fp8"}


def emit_flags(configuration: Configuration) -> list[str]:
    """Megatron's flags for a configuration; reading them back with `own_flags` gives the same configuration."""
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    return [*_model(model), *_hybrid(configuration), *_parallel(model, parallel), *_train(model, train)]


def own_flags(configuration: Configuration) -> list[str]:
    """Flags of vtrain's own for what Megatron has no argument for; a launch script cannot have them."""
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    return [
        *_changed(train, "schedule"),
        *_changed(model, "moe_imbalance_factor", "norms_per_layer", "qk_layernorm_weights"),
        *_switches(
            expandable_segments=train.expandable_segments,
            deepspeed_zero=train.deepspeed_zero,
            scatter_gather_tensors_in_pipeline=parallel.scatter_gather,
            no_batch_p2p_comm=not parallel.batch_p2p,
            # What Megatron does without its flags is not what vtrain reads without them.
            no_moe_grouped_gemm=not train.moe_grouped_gemm,
            fp32=train.params_dtype == "float32",
        ),
        *(["--packed-lengths", *map(str, model.packed_lengths)] if model.packed_lengths else []),
    ]


def all_flags(configuration: Configuration) -> list[str]:
    """Megatron's flags and vtrain's own, which together are the configuration."""
    return [*emit_flags(configuration), *own_flags(configuration)]


def _values(**values: object) -> list[str]:
    """``--flag value`` of each keyword, underscores as dashes; empty, None and 0 are left out."""
    flags: list[str] = []
    for name, value in values.items():
        if value:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def _changed(spec: ModelSpec | TrainSpec, *names: str) -> list[str]:
    """``--flag value`` of each field that has not its default, which need not be 0."""
    changed = [name for name in names if getattr(spec, name) != getattr(type(spec), name)]
    return [word for name in changed for word in (f"--{name.replace('_', '-')}", str(getattr(spec, name)))]


def _switches(**switches: bool) -> list[str]:
    """``--flag`` of each keyword that is true."""
    return [f"--{name.replace('_', '-')}" for name, on in switches.items() if on]


def _model(model: ModelSpec) -> list[str]:
    grouped = model.num_query_groups != model.num_attention_heads
    return [
        *_values(
            num_layers=model.num_layers,
            hidden_size=model.hidden_size,
            ffn_hidden_size=model.ffn_hidden_size,
            num_attention_heads=model.num_attention_heads,
            kv_channels=model.kv_channels,
            seq_length=model.seq_length,
            vocab_size=model.vocab_size,
            make_vocab_size_divisible_by=model.make_vocab_size_divisible_by,
            normalization=model.normalization,
            position_embedding_type=model.position_embedding_type,
            max_position_embeddings=model.max_position_embeddings,
        ),
        *_switches(group_query_attention=grouped),
        *_values(num_query_groups=model.num_query_groups if grouped else 0),
        *_delta_net(model),
        *_experts(model),
        *_latent(model),
        *_switches(qk_layernorm=model.qk_layernorm),
        *_values(
            mtp_num_layers=0 if model.symbols else model.mtp_num_layers,
            window_size=f"{model.window_size},0" if model.window_size else "",
            window_attn_skip_freq=model.window_attn_skip_freq,
            activation_func_clamp_value=model.activation_func_clamp_value,
            softmax_type=model.softmax_type if model.softmax_type != ModelSpec.softmax_type else "",
        ),
        *_switches(mtp_use_repeated_layer=model.mtp_use_repeated_layer),
        *([] if model.dropout else ["--hidden-dropout", "0.0", "--attention-dropout", "0.0"]),
        *_switches(
            swiglu=model.swiglu and not model.quick_geglu,
            quick_geglu=model.quick_geglu,
            squared_relu=model.squared_relu,
            disable_bias_linear=not model.add_bias_linear,
            add_qkv_bias=model.add_qkv_bias,
            untie_embeddings_and_output_weights=model.untie_embeddings_and_output_weights,
        ),
    ]


def _hybrid(configuration: Configuration) -> list[str]:
    """Layers of a hybrid model, with the virtual stages that they are cut into."""
    model, parallel = configuration.model, configuration.parallel
    if not model.symbols:
        return []
    stages = configuration.chunk_layers if parallel.pp > 1 else ()
    layers, depth = model.hybrid_layer_pattern, model.mtp_hybrid_override_pattern
    return _values(
        hybrid_layer_pattern=write_pattern(layers, stages, depth, model.mtp_num_layers),
        # Megatron has no layers of a depth that is not there.
        mtp_hybrid_override_pattern="" if model.mtp_num_layers else depth,
        mamba_num_heads=model.mamba_num_heads,
        mamba_head_dim=model.mamba_head_dim,
        mamba_state_dim=model.mamba_state_dim,
        mamba_num_groups=model.mamba_num_groups,
    )


def _delta_net(model: ModelSpec) -> list[str]:
    if model.linear_attention_freq:
        variant = _values(
            experimental_attention_variant="gated_delta_net", linear_attention_freq=model.linear_attention_freq
        )
        sized = variant + _values(**{name: getattr(model, name) for name in LINEAR_SIZES})
    else:
        sized = _changed(model, *LINEAR_SIZES)
    return sized + _switches(attention_output_gate=model.attention_output_gate)


def _experts(model: ModelSpec) -> list[str]:
    return _values(
        num_experts=model.num_experts,
        moe_router_topk=model.moe_router_topk,
        moe_router_num_groups=model.moe_router_num_groups,
        moe_router_group_topk=model.moe_router_group_topk,
        moe_ffn_hidden_size=model.moe_ffn_hidden_size,
        moe_layer_freq=model.moe_layer_freq if model.moe_layer_freq != "1" else "",
        moe_shared_expert_intermediate_size=model.moe_shared_expert_intermediate_size,
        moe_latent_size=model.moe_latent_size,
        moe_expert_capacity_factor=model.moe_expert_capacity_factor,
    ) + _switches(
        moe_pad_expert_input_to_capacity=model.moe_pad_expert_input_to_capacity,
        moe_shared_expert_gate=model.moe_shared_expert_gate,
    )


def _latent(model: ModelSpec) -> list[str]:
    return [
        *_switches(multi_latent_attention=model.multi_latent_attention),
        *_values(
            kv_lora_rank=model.kv_lora_rank,
            q_lora_rank=model.q_lora_rank,
            qk_head_dim=model.qk_head_dim,
            qk_pos_emb_head_dim=model.qk_pos_emb_head_dim,
            v_head_dim=model.v_head_dim,
        ),
    ]


def _parallel(model: ModelSpec, parallel: ParallelSpec) -> list[str]:
    chunk = model.num_layers // parallel.pp // parallel.vpp
    flex = parallel.moe_token_dispatcher in ("deepep", "hybridep")
    tokens_move = model.num_experts or parallel.moe_token_dispatcher != ParallelSpec.moe_token_dispatcher
    even = parallel.vpp > 1 and not (parallel.layers or model.symbols)
    return [
        *_values(
            tensor_model_parallel_size=parallel.tp,
            pipeline_model_parallel_size=parallel.pp,
            pipeline_model_parallel_layout=write_layout(parallel.layers, model.mtp_num_layers)
            if parallel.layers and not model.symbols
            else "",
            num_layers_per_virtual_pipeline_stage=chunk if even else 0,
            microbatch_group_size_per_virtual_pipeline_stage=parallel.microbatch_group_size,
            context_parallel_size=parallel.cp if parallel.cp > 1 else 0,
            expert_model_parallel_size=parallel.ep if parallel.ep > 1 else 0,
            expert_tensor_parallel_size=parallel.expert_tp,
            moe_token_dispatcher_type="flex" if flex else parallel.moe_token_dispatcher if tokens_move else "",
            moe_flex_dispatcher_backend=parallel.moe_token_dispatcher if flex else "",
            ddp_bucket_size=parallel.bucket_size,
            cp_comm_type=parallel.cp_comm_type if parallel.cp_comm_type != ParallelSpec.cp_comm_type else "",
        ),
        *_context_groups(parallel),
        *_switches(
            no_overlap_p2p_communication=parallel.vpp > 1 and not parallel.overlap_p2p,
            sequence_parallel=parallel.sequence_parallel,
            use_distributed_optimizer=parallel.distributed_optimizer or parallel.fsdp,
            overlap_grad_reduce=parallel.overlap_grad_reduce,
            no_align_grad_reduce=not parallel.align_grad_reduce,
            overlap_param_gather=parallel.overlap_param_gather or (parallel.fsdp and parallel.overlap_grad_reduce),
            tp_comm_overlap=parallel.tp_comm_overlap,
            no_async_tensor_model_parallel_allreduce=not parallel.async_tp_allreduce,
            overlap_moe_expert_parallel_comm=parallel.overlap_moe_comm,
            moe_shared_expert_overlap=parallel.moe_shared_expert_overlap,
        ),
        *(_FULL_SHARDING if parallel.fsdp else []),
    ]


def _context_groups(parallel: ParallelSpec) -> list[str]:
    inner = parallel.cp_a2a_size
    return ["--hierarchical-context-parallel-sizes", str(inner), str(parallel.cp // inner)] if inner else []


def _train(model: ModelSpec, train: TrainSpec) -> list[str]:
    wide = train.main_grads_dtype == "float32" and train.params_dtype == "float16"
    full = train.recompute_granularity == "full"
    method = train.recompute_method if full or train.recompute_method != TrainSpec.recompute_method else ""
    layers = train.recompute_num_layers if full or train.recompute_num_layers > 1 else 0
    return [
        *_values(
            micro_batch_size=train.micro_batch_size,
            global_batch_size=train.global_batch_size,
            attention_backend=train.attention_kernel,
        ),
        *_PRECISION[train.params_dtype],
        *_switches(
            fp8_param_gather=train.fp8_param_gather,
            first_last_layers_bf16=train.first_last_layers_bf16,
            grad_reduce_in_bf16=train.main_grads_dtype == "bfloat16",
            accumulate_allreduce_grads_in_fp32=wide,
            no_gradient_accumulation_fusion=not train.gradient_accumulation_fusion,
            moe_grouped_gemm=bool(model.num_experts) and train.moe_grouped_gemm,
            moe_router_padding_for_quantization=train.moe_router_padding,
            use_transformer_engine_op_fuser=train.use_transformer_engine_op_fuser,
            fine_grained_activation_offloading=train.fine_grained_offloading,
            optimizer_cpu_offload=train.optimizer_cpu_offload,
            overlap_cpu_optimizer_d2h_h2d=train.overlap_cpu_optimizer,
            muon_use_syrk=train.muon_use_syrk,
            use_precision_aware_optimizer=train.use_precision_aware_optimizer,
            cross_entropy_loss_fusion=bool(train.cross_entropy_fusion),
            cpu_offloading=bool(train.cpu_offload_layers),
        ),
        *_values(
            cuda_graph_impl=train.cuda_graph_impl if train.cuda_graph_impl != NONE else "",
            cpu_offloading_num_layers=train.cpu_offload_layers,
            cross_entropy_fusion_impl=train.cross_entropy_fusion,
            optimizer=train.optimizer if train.optimizer != ADAM else "",
            muon_num_ns_steps=train.muon_num_ns_steps if train.muon_num_ns_steps != MuonSpec.num_ns_steps else 0,
            muon_tp_mode=train.muon_tp_mode if train.muon_tp_mode != MuonSpec.tp_mode else "",
            main_params_dtype=_state_word(train.main_params_dtype),
            exp_avg_dtype=_state_word(train.exp_avg_dtype),
            exp_avg_sq_dtype=_state_word(train.exp_avg_sq_dtype),
        ),
        *_values(
            fp8_format=train.fp8,
            fp8_recipe=train.fp8_recipe,
            fp4_format=train.fp4,
            recompute_granularity=train.recompute_granularity if train.recompute_granularity != "none" else "",
            recompute_method=method,
            recompute_num_layers=layers,
        ),
        # Of these numbers, 0 is not the default.
        *_changed(train, "num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16"),
        *(["--offload-modules", *train.offload_modules] if train.offload_modules else []),
        *_changed(train, "min_offloaded_tensor_size", "optimizer_offload_fraction"),
        *(["--cuda-graph-scope", *train.cuda_graph_scope] if train.cuda_graph_scope else []),
        *(["--recompute-modules", *train.recompute_modules] if train.recompute_modules != DEFAULT else []),
    ]


def _state_word(dtype: str) -> str:
    """Megatron's word for a type of the optimizer's state; empty for its default."""
    return "" if dtype == WIDE else _STATE_WORDS[dtype]
