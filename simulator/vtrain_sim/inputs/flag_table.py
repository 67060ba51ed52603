"""Megatron's command-line arguments that are read: the field that each sets, and how its value is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from vtrain_sim.inputs.flag_lists import approximated, ignored, refused
from vtrain_sim.specs.checks import SpecError
from vtrain_sim.specs.context_parallel import read_comm_type, read_hierarchy
from vtrain_sim.specs.graphs import check_scopes
from vtrain_sim.specs.offload import check_modules as check_offload_modules
from vtrain_sim.specs.optimizer import STATE_DTYPES
from vtrain_sim.specs.precision import FP8_RECIPES
from vtrain_sim.specs.recompute import check_modules
from vtrain_sim.specs.windows import read_window

Reader: TypeAlias = Callable[[str, str], object]


def whole_number(flag: str, text: str) -> int:
    """Read an integer."""
    try:
        return int(text)
    except ValueError:
        raise SpecError(f"{flag} is {text!r}: it takes a whole number") from None


def number(flag: str, text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"{flag} is {text!r}: it takes a number") from None


def probability(flag: str, text: str) -> float:
    """Read a number from 0 to 1."""
    value = number(flag, text)
    if not 0 <= value <= 1:
        raise SpecError(f"{flag} is {text}: it takes a number from 0 to 1")
    return value


def capacity_factor(flag: str, text: str) -> float:
    """Read a factor, of which Megatron takes a negative one for none."""
    return max(number(flag, text), 0.0)


def text(flag: str, text: str) -> str:
    """Read any word."""
    return text


def choice(values: dict[str, str]) -> Reader:
    """Read one of some words; a message names the first word of those for one value, and no empty one."""
    words = {value: word for word, value in reversed(values.items()) if word}

    def read(flag: str, text: str) -> str:
        if text not in values:
            raise SpecError(f"{flag} is {text!r}: it takes one of {', '.join(reversed(words.values()))}")
        return values[text]

    return read


# flag -> (field, reader of its value).
VALUES: dict[str, tuple[str, Reader]] = {
    "--num-layers": ("num_layers", whole_number),
    "--hidden-size": ("hidden_size", whole_number),
    "--ffn-hidden-size": ("ffn_hidden_size", whole_number),
    "--num-attention-heads": ("num_attention_heads", whole_number),
    "--num-query-groups": ("num_query_groups", whole_number),
    "--kv-channels": ("kv_channels", whole_number),
    "--seq-length": ("seq_length", whole_number),
    "--encoder-seq-length": ("seq_length", whole_number),
    "--max-position-embeddings": ("max_position_embeddings", whole_number),
    "--vocab-size": ("vocab_size", whole_number),
    "--padded-vocab-size": ("padded_vocab_size", whole_number),
    "--make-vocab-size-divisible-by": ("make_vocab_size_divisible_by", whole_number),
    "--normalization": ("normalization", text),
    "--position-embedding-type": ("position_embedding_type", choice(
        {"learned_absolute": "learned_absolute", "rope": "rope", "yarn": "yarn", "mrope": "rope", "none": "none"})),
    # vtrain's words for what Megatron has no argument for.
    "--norms-per-layer": ("norms_per_layer", whole_number),
    "--qk-layernorm-weights": ("qk_layernorm_weights", text),
    "--hidden-dropout": ("hidden_dropout", probability),
    "--attention-dropout": ("attention_dropout", probability),
    "--num-experts": ("num_experts", whole_number),
    "--num-moe-experts": ("num_experts", whole_number),
    "--moe-router-topk": ("moe_router_topk", whole_number),
    "--moe-router-num-groups": ("moe_router_num_groups", whole_number),
    "--moe-router-group-topk": ("moe_router_group_topk", whole_number),
    "--moe-ffn-hidden-size": ("moe_ffn_hidden_size", whole_number),
    "--moe-layer-freq": ("moe_layer_freq", text),
    "--moe-shared-expert-intermediate-size": ("moe_shared_expert_intermediate_size", whole_number),
    "--moe-expert-capacity-factor": ("moe_expert_capacity_factor", capacity_factor),
    "--moe-latent-size": ("moe_latent_size", whole_number),
    "--moe-imbalance-factor": ("moe_imbalance_factor", number),
    "--q-lora-rank": ("q_lora_rank", whole_number),
    "--kv-lora-rank": ("kv_lora_rank", whole_number),
    "--qk-head-dim": ("qk_head_dim", whole_number),
    "--qk-pos-emb-head-dim": ("qk_pos_emb_head_dim", whole_number),
    "--v-head-dim": ("v_head_dim", whole_number),
    "--window-size": ("window_size", read_window),
    "--window-attn-skip-freq": ("window_attn_skip_freq", text),
    "--activation-func-clamp-value": ("activation_func_clamp_value", number),
    "--softmax-type": ("softmax_type", text),
    "--hybrid-layer-pattern": ("hybrid_layer_pattern", text),
    "--hybrid-override-pattern": ("hybrid_layer_pattern", text),
    "--mtp-hybrid-override-pattern": ("mtp_hybrid_override_pattern", text),
    "--mamba-num-heads": ("mamba_num_heads", whole_number),
    "--mamba-head-dim": ("mamba_head_dim", whole_number),
    "--mamba-state-dim": ("mamba_state_dim", whole_number),
    "--mamba-num-groups": ("mamba_num_groups", whole_number),
    "--linear-attention-freq": ("linear_attention_freq", text),
    "--linear-conv-kernel-dim": ("linear_conv_kernel_dim", whole_number),
    "--linear-key-head-dim": ("linear_key_head_dim", whole_number),
    "--linear-value-head-dim": ("linear_value_head_dim", whole_number),
    "--linear-num-key-heads": ("linear_num_key_heads", whole_number),
    "--linear-num-value-heads": ("linear_num_value_heads", whole_number),
    "--mtp-num-layers": ("mtp_num_layers", whole_number),
    "--tensor-model-parallel-size": ("tp", whole_number),
    "--model-parallel-size": ("tp", whole_number),
    "--pipeline-model-parallel-size": ("pp", whole_number),
    "--context-parallel-size": ("cp", whole_number),
    "--expert-model-parallel-size": ("ep", whole_number),
    "--expert-tensor-parallel-size": ("expert_tp", whole_number),
    "--data-parallel-size": ("dp", whole_number),
    "--num-layers-per-virtual-pipeline-stage": ("layers_per_chunk", whole_number),
    "--num-virtual-stages-per-pipeline-rank": ("vpp", whole_number),
    "--microbatch-group-size-per-virtual-pipeline-stage": ("microbatch_group_size", whole_number),
    "--microbatch-group-size-per-vp-stage": ("microbatch_group_size", whole_number),
    "--decoder-first-pipeline-num-layers": ("first_stage_layers", whole_number),
    "--num-layers-in-first-pipeline-stage": ("first_stage_layers", whole_number),
    "--decoder-last-pipeline-num-layers": ("last_stage_layers", whole_number),
    "--num-layers-in-last-pipeline-stage": ("last_stage_layers", whole_number),
    "--pipeline-model-parallel-layout": ("pipeline_layout", text),
    "--micro-batch-size": ("micro_batch_size", whole_number),
    "--batch-size": ("micro_batch_size", whole_number),
    "--global-batch-size": ("global_batch_size", whole_number),
    "--recompute-granularity": ("recompute_granularity", text),
    "--recompute-method": ("recompute_method", text),
    "--recompute-num-layers": ("recompute_num_layers", whole_number),
    # Of Megatron-LM before selective recomputation: they turn it on.
    "--activations-checkpoint-method": ("checkpoint_method", choice({"uniform": "uniform", "block": "block"})),
    "--activations-checkpoint-num-layers": ("recompute_num_layers", whole_number),
    "--checkpoint-num-layers": ("recompute_num_layers", whole_number),
    "--fp8-format": ("fp8", text),
    "--fp8": ("fp8", text),
    "--fp8-recipe": ("fp8_recipe", choice({name: name for name in ("", *FP8_RECIPES)})),
    "--num-layers-at-start-in-bf16": ("num_layers_at_start_in_bf16", whole_number),
    "--num-layers-at-end-in-bf16": ("num_layers_at_end_in_bf16", whole_number),
    "--fp4-format": ("fp4", text),
    "--fp4": ("fp4", text),
    "--cuda-graph-impl": ("cuda_graph_impl", text),
    "--cpu-offloading-num-layers": ("cpu_offload_layers", whole_number),
    "--min-offloaded-tensor-size": ("min_offloaded_tensor_size", whole_number),
    "--optimizer-offload-fraction": ("optimizer_offload_fraction", probability),
    "--main-grads-dtype": ("optimizer_grads_dtype", choice(
        {"fp32": "float32", "bf16": "bfloat16", "float32": "float32", "bfloat16": "bfloat16"})),
    "--main-params-dtype": ("main_params_dtype", choice(
        {word: dtype for word, dtype in STATE_DTYPES.items() if dtype in ("float32", "float16")})),
    "--exp-avg-dtype": ("exp_avg_dtype", choice(STATE_DTYPES)),
    "--exp-avg-sq-dtype": ("exp_avg_sq_dtype", choice(STATE_DTYPES)),
    "--cross-entropy-fusion-impl": ("cross_entropy_impl", choice({"native": "native", "te": "te"})),
    "--transformer-impl": ("transformer_impl", choice(
        {name: name for name in ("local", "transformer_engine", "inference_optimized")})),
    "--data-parallel-sharding-strategy": ("sharding_strategy", choice(
        {name: name for name in ("no_shard", "optim", "optim_grads_params")})),
    "--attention-backend": ("attention_kernel", choice(
        {"flash": "flash", "fused": "flash", "auto": "flash", "unfused": "unfused", "local": "unfused"})),
    "--optimizer": ("optimizer", choice({name: name for name in ("adam", "muon", "dist_muon")})),
    "--muon-num-ns-steps": ("muon_num_ns_steps", whole_number),
    "--muon-tp-mode": ("muon_tp_mode", text),
    "--schedule": ("schedule", text),
    "--ddp-bucket-size": ("bucket_size", whole_number),
    "--moe-token-dispatcher-type": ("moe_token_dispatcher", text),
    "--moe-flex-dispatcher-backend": ("moe_flex_backend", choice({name: name for name in ("deepep", "hybridep")})),
}  # fmt: skip
SWITCHES: dict[str, tuple[str, object]] = {
    "--swiglu": ("swiglu", True),
    "--gated-linear-unit": ("swiglu", True),
    "--quick-geglu": ("quick_geglu", True),
    "--squared-relu": ("squared_relu", True),
    "--is-hybrid-model": ("is_hybrid_model", True),
    "--disable-bias-linear": ("add_bias_linear", False),
    "--no-add-bias-linear": ("add_bias_linear", False),
    "--add-qkv-bias": ("add_qkv_bias", True),
    "--untie-embeddings-and-output-weights": ("untie_embeddings_and_output_weights", True),
    "--group-query-attention": ("group_query_attention", True),
    "--multi-latent-attention": ("multi_latent_attention", True),
    "--mtp-use-repeated-layer": ("mtp_use_repeated_layer", True),
    "--qk-layernorm": ("qk_layernorm", True),
    "--use-rotary-position-embeddings": ("position_embedding_type", "rope"),
    "--no-position-embedding": ("add_position_embedding", False),
    "--sequence-parallel": ("sequence_parallel", True),
    "--use-distributed-optimizer": ("distributed_optimizer", True),
    "--use-torch-fsdp2": ("fsdp", True),
    "--use-megatron-fsdp": ("megatron_fsdp", True),
    "--use-custom-fsdp": ("megatron_fsdp", True),
    "--overlap-grad-reduce": ("overlap_grad_reduce", True),
    "--overlap-param-gather": ("overlap_param_gather", True),
    "--tp-comm-overlap": ("tp_comm_overlap", True),
    "--no-align-grad-reduce": ("align_grad_reduce", False),
    "--no-delay-grad-reduce": ("align_grad_reduce", False),
    "--moe-pad-expert-input-to-capacity": ("moe_pad_expert_input_to_capacity", True),
    "--moe-enable-deepep": ("moe_deepep", True),
    "--overlap-moe-expert-parallel-comm": ("overlap_moe_comm", True),
    "--moe-shared-expert-overlap": ("moe_shared_expert_overlap", True),
    "--no-async-tensor-model-parallel-allreduce": ("async_tp_allreduce", False),
    "--scatter-gather-tensors-in-pipeline": ("scatter_gather", True),
    "--no-batch-p2p-comm": ("batch_p2p", False),
    "--account-for-embedding-in-pipeline-split": ("embedding_is_a_layer", True),
    "--account-for-loss-in-pipeline-split": ("loss_is_a_layer", True),
    "--first-last-layers-bf16": ("first_last_layers_bf16", True),
    "--fp8-param-gather": ("fp8_param_gather", True),
    "--fp8-param": ("fp8_param_gather", True),
    "--bf16": ("params_dtype", "bfloat16"),
    "--fp16": ("params_dtype", "float16"),
    # Megatron trains in 32 bits where neither is given; vtrain assumes bf16 then, and takes this word.
    "--fp32": ("params_dtype", "float32"),
    "--accumulate-allreduce-grads-in-fp32": ("grads_in_fp32", True),
    "--grad-reduce-in-bf16": ("grads_in_bf16", True),
    "--no-gradient-accumulation-fusion": ("gradient_accumulation_fusion", False),
    "--use-transformer-engine-op-fuser": ("use_transformer_engine_op_fuser", True),
    "--moe-router-padding-for-fp8": ("moe_router_padding", True),
    "--moe-router-padding-for-quantization": ("moe_router_padding", True),
    "--no-moe-grouped-gemm": ("moe_grouped_gemm", False),
    "--enable-cuda-graph": ("cuda_graph_impl", "local"),
    "--external-cuda-graph": ("cuda_graph_impl", "transformer_engine"),
    # vtrain's word for an environment variable of PyTorch.
    "--expandable-segments": ("expandable_segments", True),
    # And for DeepSpeed's engine.
    "--deepspeed-zero": ("deepspeed_zero", True),
    "--use-precision-aware-optimizer": ("use_precision_aware_optimizer", True),
    "--fine-grained-activation-offloading": ("fine_grained_offloading", True),
    "--optimizer-cpu-offload": ("optimizer_cpu_offload", True),
    "--overlap-cpu-optimizer-d2h-h2d": ("overlap_cpu_optimizer", True),
    "--sft": ("packs", True),
    "--dataloader-inter-document-masking": ("packs", True),
    "--attention-output-gate": ("attention_output_gate", True),
    "--moe-shared-expert-gate": ("moe_shared_expert_gate", True),
    "--muon-use-syrk": ("muon_use_syrk", True),
    "--cross-entropy-loss-fusion": ("cross_entropy_fused", True),
    "--use-flash-attn": ("attention_kernel", "flash"),
    "--recompute-activations": ("recompute_granularity", "selective"),
    "--checkpoint-activations": ("recompute_granularity", "full"),
    "--no-overlap-p2p-communication": ("overlap_p2p", False),
    "--no-overlap-p2p-comm": ("overlap_p2p", False),
}


def final_batch(flag: str, words: Sequence[str]) -> int:
    """Sequences of the last entry of ``--step-batch-size-schedule "0:384 200B:768"``."""
    entries = [entry for word in words for entry in word.split()]
    return whole_number(flag, entries[-1].rpartition(":")[2] if entries else "")


def ramp_up(flag: str, words: Sequence[str]) -> list[int]:
    """Begin, increment and samples of a batch that grows up to ``--global-batch-size``."""
    if len(words) != 3:
        raise SpecError(f"{flag} takes three numbers: first batch, increment, samples")
    return [whole_number(flag, word) for word in words]


def two_levels(flag: str, words: Sequence[str]) -> tuple[int, int]:
    """Ranks of an all-to-all and of a ring, also from one word with both, as a YAML file has them."""
    return read_hierarchy(flag, [whole_number(flag, size) for word in words for size in word.split()])


# flag -> (field, reader of its words).
LISTS: dict[str, tuple[str, Callable[[str, Sequence[str]], object]]] = {
    "--recompute-modules": ("recompute_modules", lambda flag, words: check_modules(words)),
    # vtrain's word for what a dataset's samples are.
    "--packed-lengths": ("packed_lengths", lambda flag, words: tuple(whole_number(flag, word) for word in words)),
    "--offload-modules": ("offload_modules", lambda flag, words: check_offload_modules(words)),
    "--cuda-graph-scope": ("cuda_graph_scope", lambda flag, words: check_scopes(words)),
    "--step-batch-size-schedule": ("final_batch", final_batch),
    "--rampup-batch-size": ("ramp_up", ramp_up),
    "--cp-comm-type": ("cp_comm_type", read_comm_type),
    "--hierarchical-context-parallel-sizes": ("cp_hierarchy", two_levels),
}


def opposite(flag: str) -> str:
    """``--no-swiglu`` for ``--swiglu`` and the other way round."""
    return f"--{flag[5:]}" if flag.startswith("--no-") else f"--no-{flag[2:]}"


# Megatron takes most switches both ways.
SWITCHES = {
    **{opposite(flag): (field, not value) for flag, (field, value) in SWITCHES.items() if isinstance(value, bool)},
    **SWITCHES,
}


def entry(flag: str) -> tuple[str, object] | None:
    """The field that an argument sets, and how it is read or what it stands for; None for one that is not read."""
    return VALUES.get(flag) or SWITCHES.get(flag) or LISTS.get(flag)


def arity(flag: str) -> str | None:
    """What follows an argument: "switch", "value" or "list"; None for an unknown one."""
    if flag in LISTS:
        return "list"
    if flag in SWITCHES or flag in VALUES:
        return "switch" if flag in SWITCHES else "value"
    if flag in refused():
        return refused()[flag].arity
    return ignored().get(flag) or approximated().get(flag)


def known_flags() -> Iterator[str]:
    """Every argument that is accepted."""
    partly = (flag for flag, refusal in refused().items() if refusal.simulated)
    yield from (*VALUES, *SWITCHES, *LISTS, *partly, *approximated(), *ignored())
