"""Flags, the configuration that they describe, and the flags that are printed for it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vtrain_sim.inputs import presets
from vtrain_sim.inputs.megatron_emit import emit_flags, own_flags
from vtrain_sim.inputs.megatron_flags import configuration_from_flags
from vtrain_sim.inputs.notes import not_megatrons
from vtrain_sim.specs import Configuration, ModelSpec, ParallelSpec, SpecError, TrainSpec

GPT = "--num-layers 8 --hidden-size 512 --num-attention-heads 8 --seq-length 256"
STEP = "--micro-batch-size 1 --global-batch-size 48"
MOE = "--num-experts 8 --moe-router-topk 2"
PIPELINE = "--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2"
HYBRID = "--hybrid-layer-pattern M-M*-M*-"
LATENT = "--multi-latent-attention --kv-lora-rank 32 --qk-head-dim 16 --qk-pos-emb-head-dim 8 --v-head-dim 24"
ZERO = "--use-distributed-optimizer --overlap-grad-reduce"
CURRENT_SCALING = "--fp8-format hybrid --fp8-recipe tensorwise"
PRECISION_AWARE = "--use-distributed-optimizer --use-precision-aware-optimizer"
TWO_LEVELS = "--cp-comm-type a2a+p2p --hierarchical-context-parallel-sizes"
SEQUENCE = "--tensor-model-parallel-size 2 --sequence-parallel"

# For each field of the specs, flags that give it another value than its default.
LINEAR = "--experimental-attention-variant gated_delta_net --linear-attention-freq"
EXAMPLES = {
    "num_layers": "--num-layers 12",
    "hidden_size": "--hidden-size 1024",
    "num_attention_heads": "--num-attention-heads 16",
    "seq_length": "--seq-length 512",
    "vocab_size": "--vocab-size 1000",
    "ffn_hidden_size": "--ffn-hidden-size 1024",
    "num_query_groups": "--group-query-attention --num-query-groups 2",
    "kv_channels": "--kv-channels 128",
    "max_position_embeddings": "--max-position-embeddings 4096 --position-embedding-type rope",
    "packed_lengths": "--packed-lengths 64 128",
    "swiglu": "--swiglu",
    "quick_geglu": "--quick-geglu",
    "activation_func_clamp_value": "--quick-geglu --activation-func-clamp-value 7.0",
    "squared_relu": "--squared-relu",
    "add_bias_linear": "--disable-bias-linear",
    "add_qkv_bias": "--add-qkv-bias",
    "normalization": "--normalization RMSNorm",
    "position_embedding_type": "--position-embedding-type none",
    "untie_embeddings_and_output_weights": "--untie-embeddings-and-output-weights",
    "num_experts": MOE,
    "moe_router_topk": MOE,
    "moe_router_num_groups": f"{MOE} --moe-router-num-groups 4 --moe-router-group-topk 2",
    "moe_router_group_topk": f"{MOE} --moe-router-num-groups 8 --moe-router-group-topk 3",
    "moe_ffn_hidden_size": f"{MOE} --moe-ffn-hidden-size 64",
    "moe_layer_freq": f"{MOE} --moe-layer-freq ([0]*3+[1]*5)",
    "moe_shared_expert_intermediate_size": f"{MOE} --moe-shared-expert-intermediate-size 96",
    "moe_latent_size": f"{MOE} --moe-latent-size 128",
    "moe_imbalance_factor": f"{MOE} --expert-model-parallel-size 2 --data-parallel-size 2 --moe-imbalance-factor 1.1",
    "qk_layernorm": "--qk-layernorm",
    "qk_layernorm_weights": "--qk-layernorm --qk-layernorm-weights all",
    "norms_per_layer": "--norms-per-layer 4",
    "dropout": "--hidden-dropout 0.0 --attention-dropout 0.0",
    "multi_latent_attention": LATENT,
    "q_lora_rank": f"{LATENT} --q-lora-rank 48",
    "kv_lora_rank": LATENT,
    "qk_head_dim": LATENT,
    "qk_pos_emb_head_dim": LATENT,
    "v_head_dim": LATENT,
    "moe_expert_capacity_factor": f"{MOE} --moe-expert-capacity-factor 1.25",
    "moe_pad_expert_input_to_capacity": f"{MOE} --moe-expert-capacity-factor 1 --moe-pad-expert-input-to-capacity",
    "make_vocab_size_divisible_by": "--make-vocab-size-divisible-by 64",
    "mtp_num_layers": "--mtp-num-layers 2",
    "mtp_use_repeated_layer": "--mtp-num-layers 2 --mtp-use-repeated-layer",
    "hybrid_layer_pattern": HYBRID,
    "mtp_hybrid_override_pattern": f"{HYBRID}/*-",
    "mamba_num_heads": f"{HYBRID} --mamba-num-heads 24",
    "mamba_head_dim": f"{HYBRID} --mamba-head-dim 32",
    "mamba_state_dim": f"{HYBRID} --mamba-state-dim 64",
    "mamba_num_groups": f"{HYBRID} --mamba-num-groups 4",
    "window_size": "--window-size 128,0",
    "window_attn_skip_freq": "--window-size 128,0 --window-attn-skip-freq 2",
    "softmax_type": "--softmax-type learnable",
    "linear_attention_freq": f"{LINEAR} 4",
    "linear_conv_kernel_dim": f"{LINEAR} 4 --linear-conv-kernel-dim 3",
    "linear_key_head_dim": f"{LINEAR} 4 --linear-key-head-dim 64",
    "linear_value_head_dim": f"{LINEAR} 4 --linear-value-head-dim 64",
    "linear_num_key_heads": f"{LINEAR} 4 --linear-num-key-heads 8",
    "linear_num_value_heads": f"{LINEAR} ([1]*6+[0]*2) --linear-num-value-heads 16",
    "attention_output_gate": "--attention-output-gate",
    "moe_shared_expert_gate": f"{MOE} --moe-shared-expert-intermediate-size 96 --moe-shared-expert-gate",
    "tp": "--tensor-model-parallel-size 4",
    "pp": "--pipeline-model-parallel-size 4",
    "vpp": PIPELINE,
    "cp": "--context-parallel-size 2",
    "cp_comm_type": "--context-parallel-size 2 --cp-comm-type a2a",
    "cp_a2a_size": f"--context-parallel-size 4 {TWO_LEVELS} 2 2",
    "ep": f"{MOE} --expert-model-parallel-size 2 --data-parallel-size 2",
    "dp": "--data-parallel-size 3",
    "sequence_parallel": SEQUENCE,
    "distributed_optimizer": "--use-distributed-optimizer",
    "overlap_grad_reduce": "--overlap-grad-reduce",
    "overlap_param_gather": f"{ZERO} --overlap-param-gather",
    "overlap_p2p": PIPELINE,
    "expert_tp": f"{MOE} {SEQUENCE} --expert-tensor-parallel-size 1",
    "fsdp": "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params",
    "tp_comm_overlap": f"{SEQUENCE} --tp-comm-overlap",
    "async_tp_allreduce": "--no-async-tensor-model-parallel-allreduce",
    "scatter_gather": "--tensor-model-parallel-size 2 --scatter-gather-tensors-in-pipeline",
    "batch_p2p": "--no-batch-p2p-comm",
    "layers": "--pipeline-model-parallel-size 2 --decoder-first-pipeline-num-layers 3",
    "align_grad_reduce": "--no-align-grad-reduce",
    "bucket_size": "--ddp-bucket-size 1000000",
    "moe_token_dispatcher": "--moe-token-dispatcher-type allgather",
    "moe_shared_expert_overlap": "--moe-shared-expert-overlap",
    "microbatch_group_size": f"{PIPELINE} --microbatch-group-size-per-virtual-pipeline-stage 4",
    "micro_batch_size": "--micro-batch-size 2",
    "global_batch_size": "--global-batch-size 96",
    "params_dtype": "--fp16",
    "main_grads_dtype": "--grad-reduce-in-bf16",
    "attention_kernel": "--transformer-impl local",
    "recompute_granularity": "--recompute-granularity selective",
    "recompute_method": "--recompute-method block",
    "recompute_num_layers": "--recompute-num-layers 2",
    "recompute_modules": "--recompute-modules core_attn mlp",
    "schedule": "--pipeline-model-parallel-size 2 --schedule zb-h1",
    "fp8": "--fp8-format hybrid",
    "overlap_moe_comm": f"{MOE} --expert-model-parallel-size 2 --data-parallel-size 2 --overlap-moe-expert-parallel-comm",
    "fp8_recipe": "--fp8-format e4m3 --fp8-recipe mxfp8",
    "fp4": "--fp4-format e2m1",
    "fp8_param_gather": f"--fp8-format hybrid --fp8-param-gather {ZERO}",
    "first_last_layers_bf16": f"{CURRENT_SCALING} --first-last-layers-bf16",
    "num_layers_at_start_in_bf16": f"{CURRENT_SCALING} --first-last-layers-bf16 --num-layers-at-start-in-bf16 0",
    "num_layers_at_end_in_bf16": f"{CURRENT_SCALING} --first-last-layers-bf16 --num-layers-at-end-in-bf16 3",
    "use_precision_aware_optimizer": PRECISION_AWARE,
    "optimizer": "--optimizer muon",
    "muon_num_ns_steps": "--optimizer muon --muon-num-ns-steps 6",
    "muon_tp_mode": "--optimizer muon --muon-tp-mode distributed",
    "muon_use_syrk": "--optimizer muon --muon-use-syrk",
    "deepspeed_zero": f"{ZERO} --deepspeed-zero",
    "main_params_dtype": f"{PRECISION_AWARE} --main-params-dtype fp16",
    "exp_avg_dtype": f"{PRECISION_AWARE} --exp-avg-dtype bf16",
    "exp_avg_sq_dtype": f"{PRECISION_AWARE} --exp-avg-sq-dtype fp8",
    "cuda_graph_impl": "--cuda-graph-impl local",
    "cuda_graph_scope": "--cuda-graph-impl transformer_engine --cuda-graph-scope attn mlp",
    "cpu_offload_layers": "--cpu-offloading-num-layers 3",
    "fine_grained_offloading": "--fine-grained-activation-offloading --offload-modules core_attn",
    "offload_modules": "--offload-modules core_attn attn_proj",
    "min_offloaded_tensor_size": "--min-offloaded-tensor-size 0",
    "optimizer_cpu_offload": f"{PRECISION_AWARE} --optimizer-cpu-offload",
    "optimizer_offload_fraction": "--optimizer-offload-fraction 0.0",
    "overlap_cpu_optimizer": "--overlap-cpu-optimizer-d2h-h2d",
    "expandable_segments": "--expandable-segments",
    "cross_entropy_fusion": "--cross-entropy-loss-fusion --cross-entropy-fusion-impl te",
    "gradient_accumulation_fusion": "--no-gradient-accumulation-fusion",
    "use_transformer_engine_op_fuser": f"{MOE} --use-transformer-engine-op-fuser",
    "moe_router_padding": f"{MOE} --moe-router-padding-for-fp8",
    "moe_grouped_gemm": f"{MOE} --no-moe-grouped-gemm",
}
# Of several flags of one group the last counts; the groups are independent.
MORE = [
    "--vocab-size 50304",
    "--fp32",
    "--fp16 --accumulate-allreduce-grads-in-fp32",
    "--fp16 --grad-reduce-in-bf16",
    "--fp8-format e4m3 --grad-reduce-in-bf16",
    "--recompute-granularity full --recompute-num-layers 2 --recompute-method block",
    f"{PIPELINE} --no-overlap-p2p-comm",
    f"{PIPELINE} --schedule zb-v",
    f"{PIPELINE} --pipeline-model-parallel-layout Ettt|tt|tt|tL",
    "--pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 1",
    "--moe-layer-freq 2",
    "--moe-router-topk 3",
    f"{HYBRID} {PIPELINE}",
    "--hybrid-layer-pattern M-|M*-|M*|-/MM/MM --pipeline-model-parallel-size 2",
    f"{MOE} --hybrid-layer-pattern MEM*EM-E|/*E --pipeline-model-parallel-size 2",
    "--q-lora-rank 64",
]


def read(flags: str) -> Configuration:
    return configuration_from_flags(f"{GPT} {STEP} {flags}".split())


def again(configuration: Configuration) -> Configuration:
    flags = [*emit_flags(configuration), *own_flags(configuration)]
    return configuration_from_flags(flags, None, configuration.parallel.world_size)


def test_there_is_an_example_of_every_field() -> None:
    names = [f.name for spec in (ModelSpec, ParallelSpec, TrainSpec) for f in fields(spec) if f.compare]
    assert sorted(EXAMPLES) == sorted(names)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_field_is_printed(name: str) -> None:
    configuration, default = read(EXAMPLES[name]), read("")
    part = next(p for p in ("model", "parallel", "train") if hasattr(getattr(default, p), name))
    assert getattr(getattr(configuration, part), name) != getattr(getattr(default, part), name)
    assert again(configuration) == configuration


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(st.lists(st.sampled_from([*EXAMPLES.values(), *MORE]), max_size=8))
def test_flags_there_and_back(chosen: list[str]) -> None:
    try:
        configuration = read(" ".join(chosen))
    except SpecError:
        assume(False)
    assert again(configuration) == configuration


# Arguments that vtrain reads and Megatron-Core does not have.
OWN = {
    "--schedule", "--moe-imbalance-factor", "--norms-per-layer", "--qk-layernorm-weights", "--expandable-segments",
    "--scatter-gather-tensors-in-pipeline", "--no-batch-p2p-comm", "--no-moe-grouped-gemm", "--fp32", "--deepspeed-zero",
    "--packed-lengths",
}  # fmt: skip


@pytest.mark.parametrize("flags", [*EXAMPLES.values(), *MORE])
def test_what_megatron_lacks_is_a_note_and_no_flag(flags: str) -> None:
    configuration = read(flags)
    assert not OWN & set(emit_flags(configuration))
    own = {word for word in own_flags(configuration) if word.startswith("--")}
    assert own == OWN & set(flags.split())
    notes = " ".join(not_megatrons(configuration))
    assert all(flag in notes for flag in own)
    assert bool(notes) == bool(own)


def test_full_sharding_is_megatrons_own() -> None:
    """PyTorch's FSDP2 trains no experts on several ranks (--expert-model-parallel-size), Megatron-FSDP does."""
    flags = emit_flags(read(f"{MOE} --expert-model-parallel-size 2 --data-parallel-size 4 --use-torch-fsdp2"))
    words = " ".join(flags)
    assert "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params" in words
    assert {"--use-distributed-optimizer", "--ckpt-format"} <= set(flags)
    assert "--overlap-param-gather" not in flags
    overlapped = emit_flags(read("--data-parallel-size 4 --use-torch-fsdp2 --overlap-grad-reduce"))
    assert {"--overlap-param-gather", "--overlap-grad-reduce"} <= set(overlapped)


def test_experts_that_are_projected_together_are_launched_so() -> None:
    assert "--moe-grouped-gemm" in emit_flags(read(MOE))
    assert "--moe-grouped-gemm" not in emit_flags(read(f"{MOE} --no-moe-grouped-gemm"))
    assert "--moe-grouped-gemm" not in emit_flags(read(""))


def test_squared_relu_of_models_that_have_it() -> None:
    def emitted(model: ModelSpec) -> list[str]:
        return emit_flags(Configuration(model, ParallelSpec(), TrainSpec(1, 1)))

    squared = ("nemotron-h-8b", "nemotron-nano-9b-v2", "nemotron3-nano-30b-a3b", "nemotron4-15b", "nemotron4-340b")
    assert all("--squared-relu" in emitted(presets.model(name)) for name in squared)
    assert not any("--squared-relu" in emitted(presets.model(name)) for name in ("gpt3-1.3b", "llama3-8b"))
    # By the activation, not by the name.
    assert "--squared-relu" in emit_flags(read("--squared-relu"))
    assert "--squared-relu" not in emit_flags(read("--swiglu"))
    assert "--squared-relu" not in emitted(replace(presets.model("nemotron4-15b"), squared_relu=False))


@pytest.mark.parametrize("flag", ["--main-params-dtype fp16", "--exp-avg-dtype bf16", "--exp-avg-sq-dtype fp8"])
def test_types_are_megatrons_words(flag: str) -> None:
    assert flag in " ".join(emit_flags(read(f"{PRECISION_AWARE} {flag}")))


def test_the_note_is_beside_the_flags() -> None:
    command = (
        "project --cluster dgx-h100 --model mixtral-8x7b --num-gpus 8 --expert-model-parallel-size 8 --emit-megatron"
    )
    words = [*f"{command} --moe-imbalance-factor 1.1 --micro-batch-size 1 --global-batch-size 8".split()]
    done = subprocess.run(
        [sys.executable, "-m", "vtrain_sim.commands.sim", *words], capture_output=True, text=True, check=True
    )
    assert "--moe-imbalance-factor 1.1" in done.stderr
    assert "--moe-imbalance-factor" not in done.stdout
