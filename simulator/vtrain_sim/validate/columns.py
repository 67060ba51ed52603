"""The columns of a validation table: what each means, and which of Megatron's arguments it stands for.

``python -m vtrain_sim.validate.columns`` prints docs/validation-tables.md; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES, arity
from vtrain_sim.validate.row_cluster import CLUSTERS


@dataclass(frozen=True)
class Column:
    """One column. flag: the argument of Megatron that it stands for; "": a rule of `validate.row_flags` or
    `validate.tables` reads it. needed: without it a file is no such table. aside: about the measurement, not about
    what was measured."""

    name: str
    meaning: str
    flag: str = ""
    needed: bool = False
    aside: bool = False


def _same(names: str) -> tuple[Column, ...]:
    """Columns that are named as the arguments that they stand for."""
    return tuple(Column(name, "", f"--{name.replace('_', '-')}") for name in names.split())


MEASUREMENT = (
    Column("id", "Name of the row.", needed=True, aside=True),
    Column("iteration_time_s", "Measured seconds of one training step.", needed=True),
    Column(
        "peak_memory_gb",
        "Measured memory of the fullest GPU, GiB (of Zero Bubble 10^9 bytes, of BigScience 1000 MiB); empty: not "
        "stated.",
    ),
    Column(
        "source",
        "Where the measurement was published. Three sources (SC21, MT-NLG, BigScience) name software that "
        "did not yet overlap the backward all-reduce of tensor parallelism with weight gradients; of Zero Bubble "
        "the peak memory is that of tensors.",
    ),
    Column(
        "framework",
        "NeMo/Megatron-Core: gradients and parameters overlap with the passes, and tensor parallel "
        "communication with its products, unless columns say else. Megatron-LM, Megatron-DeepSpeed: stages scatter "
        "and gather what they pass on without sequence parallelism; DeepSpeed's stages send and receive in turn. "
        "Megatron-LM: interleaved stages do not send and receive beside their passes, unless a column says so. "
        "Gradients, where no column says their type: bf16 with NeMo/Megatron-Core, fp32 with a distributed "
        "optimizer; DeepSpeed's take the memory of fp16.",
    ),
    Column("confidence", "Of the transcription.", aside=True),
    Column(
        "recipe_match",
        'Words: exact, or else what says that the settings are those of another recipe, and a guess. "near: the recipe '
        'has mbs=1 pp=4": sizes (mbs, pp, vp, ep) in which the recipe of the source is another one. Where such a row '
        "does not fit in memory with its own, its columns contradict each other, and it is projected with the "
        "recipe's.",
    ),
    Column(
        "notes",
        "Free text. Without the columns `account_for_embedding_in_pipeline_split` and "
        '`account_for_loss_in_pipeline_split`, the words "first & last stages have one fewer layer" say so.',
    ),
    Column("model", "Rows of one model, GPU, number of GPUs and batch are ordered against each other."),
)
MACHINE = (
    Column("gpu", "Name of the GPU; with the bandwidth it chooses the cluster preset, unless `--cluster` is given."),
    Column("gpus_per_node", "GPUs of one node; empty: as the preset."),
    Column("nvlink_domain_gpus", "GPUs that NVLink joins: those of the cluster preset count.", aside=True),
    Column("inter_node_gbps_per_node", "Bandwidth of one node to the others, Gb/s; empty: not stated."),
    Column("num_gpus", "World size.", needed=True),
)
MODEL = (
    Column("num_layers", "", "--num-layers", needed=True),
    Column("hidden_size", "", "--hidden-size", needed=True),
    *_same("ffn_hidden_size num_attention_heads num_query_groups kv_channels seq_length vocab_size"),
    Column(
        "swiglu",
        "1: a gated activation, and what goes with it in such models: RMSNorm, rotary embedding, no "
        "biases, no dropout, an output layer of its own; 0: none of these. Columns named as their arguments say "
        "else one by one.",
    ),
    Column("add_bias_linear", "1: linear layers have biases; empty: as `swiglu` says."),
    *_same("qk_layernorm window_size window_attn_skip_freq num_experts moe_router_topk moe_ffn_hidden_size"),
    *_same("moe_shared_expert_intermediate_size moe_layer_freq moe_latent_size multi_latent_attention q_lora_rank"),
    *_same("kv_lora_rank qk_head_dim qk_pos_emb_head_dim v_head_dim mtp_num_layers"),
    Column(
        "hybrid_layer_pattern",
        "Of a hybrid model, with what goes with that in published ones: as `swiglu` 1 "
        "says, but squared ReLU without a gate where that is 0, and no position embedding.",
        "--hybrid-layer-pattern",
    ),
    Column(
        "mtp_hybrid_override_pattern",
        "Layers of a depth of multi-token prediction; empty: *E (Nemotron 3 "
        "Super), one for all depths, unless the pattern says them.",
        "--mtp-hybrid-override-pattern",
    ),
    *_same("mamba_num_heads mamba_head_dim mamba_state_dim mamba_num_groups"),
)
LAYOUT = (
    *_same("tensor_model_parallel_size pipeline_model_parallel_size context_parallel_size"),
    *_same("expert_model_parallel_size expert_tensor_parallel_size"),
    Column("data_parallel_size", "What the number of GPUs leaves goes before it."),
    Column(
        "virtual_pipeline_chunks",
        "Model chunks per stage. Empty with a pipeline: not stated, bracketed. 1 with "
        "`pipeline_schedule` interleaved: one layer per chunk.",
        "--num-virtual-stages-per-pipeline-rank",
    ),
    Column("sequence_parallel", "Left out with a tensor parallel size of 1.", "--sequence-parallel"),
    Column("pipeline_schedule", "1f1b, interleaved, or the name of another schedule.", "--schedule"),
    Column(
        "pipeline_layout",
        "E embedding, t layer, m multi-token prediction, L loss, | between virtual stages.",
        "--pipeline-model-parallel-layout",
    ),
    *_same("account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split"),
    *_same("num_layers_in_first_pipeline_stage num_layers_in_last_pipeline_stage"),
    Column("distributed_optimizer", "", "--use-distributed-optimizer"),
    Column("fsdp", "1: parameters, gradients and optimizer states are sharded (Megatron-FSDP).", "--use-megatron-fsdp"),
    Column("fsdp_sharding_strategy", "Empty: optim_grads_params.", "--data-parallel-sharding-strategy"),
    Column("overlap_p2p_communication", "Of interleaved stages.", "--overlap-p2p-communication"),
    *_same("num_distributed_optimizer_instances overlap_grad_reduce overlap_param_gather"),
    *_same("overlap_param_gather_with_optimizer_step fp8_param_gather tp_comm_overlap"),
    Column("nccl_ub", "", "--use-nccl-ub"),
    Column("average_in_collective", "Gradients are averaged by the reduction itself.", aside=True),
)
STEP = (
    Column("micro_batch_size", "Empty: not stated, bracketed.", "--micro-batch-size", needed=True),
    Column("global_batch_size", "", "--global-batch-size", needed=True),
    Column(
        "precision",
        "bf16, fp16, fp32, fp8 (per tensor, delayed scaling), fp8_current, fp8_blockwise, mxfp8, "
        "nvfp4; or a precision's own name.",
    ),
    Column("precision_detail", 'Words; with fp8, "current" says that the scale is the tensor\'s own.'),
    Column("attention_kernel", "flash (fused) or unfused.", "--attention-backend"),
    Column("attention_backend", "How the recipe asks for it.", aside=True),
    Column(
        "recompute_granularity",
        "none, selective, full; unknown: projected without, and with full recomputation as the other end.",
        "--recompute-granularity",
    ),
    Column("recompute_modules", "Words apart by spaces, with selective.", "--recompute-modules"),
    *_same("recompute_method recompute_num_layers"),
    Column("moe_dispatcher", "alltoall, allgather, deepep, hybridep.", "--moe-token-dispatcher-type"),
    Column(
        "moe_a2a_overlap",
        "Expert parallel exchanges run beside another microbatch's work.",
        "--overlap-moe-expert-parallel-comm",
    ),
    *_same("delay_wgrad_compute moe_shared_expert_overlap moe_router_padding_for_fp8"),
    Column("moe_load_balance", 'What is known of the routing: "force-balanced, dropless", or "tokendrop".'),
    Column("cuda_graph_impl", "none: no graph, whatever the scope.", "--cuda-graph-impl"),
    Column("cuda_graph_scope", "Words apart by spaces; empty: whole layers.", "--cuda-graph-scope"),
    *_same("optimizer"),
    Column("precision_aware_optimizer", "", "--use-precision-aware-optimizer"),
    *_same("main_params_dtype main_grads_dtype exp_avg_dtype exp_avg_sq_dtype"),
    Column(
        "grad_reduce_in_fp32",
        "Type of the gradients' buffers and of their reduction: 1 fp32, 0 bf16; empty: Megatron's default.",
        "--accumulate-allreduce-grads-in-fp32",
    ),
    Column(
        "gradient_accumulation_fusion",
        "0: weight gradients are added up by a kernel of their own.",
        "--no-gradient-accumulation-fusion",
    ),
    Column("cross_entropy_fusion", "te, native, or empty: not fused.", "--cross-entropy-fusion-impl"),
    Column("te_op_fuser", "", "--use-transformer-engine-op-fuser"),
    Column(
        "expandable_segments",
        "1: PyTorch's allocator had them; empty: as the launch templates of the source have it (Megatron-Bridge: 1).",
        "--expandable-segments",
    ),
    Column(
        "cpu_offload_activation_layers",
        "Layers whose activations go to the host.",
        "--cpu-offloading-num-layers",
    ),
    Column("fine_grained_offload_modules", "Words apart by spaces; empty: none.", "--offload-modules"),
    Column("optimizer_cpu_offload", "", "--optimizer-cpu-offload"),
    Column("task", "pretrain or sft."),
    Column(
        "dataset",
        'Words; "packed": several samples in a sequence, with the lengths of `packed_lengths`; without, one fills it.',
    ),
)
SECTIONS = {
    "The measurement": MEASUREMENT,
    "The machine": MACHINE,
    "The model": MODEL,
    "The layout": LAYOUT,
    "The training step": STEP,
}
COLUMNS = {column.name: column for columns in SECTIONS.values() for column in columns}
# Columns of a published table that say again, or check, what others say.
_ASIDE = (
    "container bridge_tag recipe inferred measured_tokens_per_s_per_gpu measured_tflops_per_gpu "
    "flops_per_token_from_table flops_per_token_formula flops_per_token_bridge_code tflops_check "
    "iteration_time_from_tflops_s"
)
ASIDE = frozenset({column.name for column in COLUMNS.values() if column.aside} | set(_ASIDE.split()))
NEEDED = tuple(column.name for column in COLUMNS.values() if column.needed)


def reference() -> str:
    """The page as Markdown."""
    lines = [
        "# Validation tables",
        "",
        "Generated by `python -m vtrain_sim.validate.columns`; do not edit.",
        "",
        "`vtrain-sim validate` reads CSV tables of measured training steps: one row is one measured configuration.",
        "Only the columns marked * are needed. An empty cell says nothing: the argument of Megatron that the column",
        "stands for has its default. Switches are 0 or 1, times seconds.",
        "",
        "A row's values are turned into Megatron's arguments, and read as those of a launch script are. A value that",
        "changes the model or its layout in a way that is not simulated rejects the row with the reason. A setting of",
        "the training step that nothing models is left out of the projection and named in the row's `approximated`. A",
        "column that is not in these lists is named in the file's `unread_columns`.",
        "",
        "A row that does not state its micro batch or its chunks per stage is projected with each value that it may",
        "have (micro batches of powers of two, chunks that divide a stage's layers). The result of the row is that of",
        "the fastest one that fits in memory, since published runs are tuned; `bracket_low_s` and `bracket_high_s` are",
        "the fastest and the slowest. Neither depends on what was measured.",
    ]
    for title, columns in SECTIONS.items():
        lines += ["", f"## {title}", "", "| column | Megatron's argument | meaning |", "|---|---|---|"]
        lines += [
            f"| `{c.name}`{' *' if c.needed else ''} | {f'`{c.flag}`' if c.flag else ''} | {c.meaning} |"
            for c in columns
        ]
        if columns is MACHINE:
            lines += _clusters()
    flags = sorted({*VALUES, *SWITCHES, *LISTS} - {c.flag for c in COLUMNS.values()})
    names = ", ".join(f"`{column_of(flag)}`" for flag in flags if not flag.startswith("--no-"))
    lines += ["", "## Other arguments", "", "A column may also be named as another argument of Megatron that is"]
    lines += ["simulated, with underscores for dashes:", "", f"{names}."]
    lines += ["", "Not read, since other columns say the same or they are about the publication:", ""]
    lines += [", ".join(f"`{name}`" for name in sorted(ASIDE)) + "."]
    return "\n".join(lines) + "\n"


def _clusters() -> list[str]:
    """The values of two columns that are known, and the presets that they choose."""
    names = [f"| {gpu} | {gbps or '(empty)'} | `{preset}` |" for (gpu, gbps), preset in CLUSTERS.items()]
    head = "These GPUs and bandwidths choose a preset; rows with others need `--cluster`, and have a reason without it."
    return ["", head, "", "| `gpu` | `inter_node_gbps_per_node` | cluster |", "|---|---|---|", *names]


def is_documented(name: str) -> bool:
    """Whether a column is one of these lists, or named as an argument of Megatron."""
    return name in COLUMNS or name in ASIDE or arity(flag_of(name)) is not None


def column_of(flag: str) -> str:
    """The column that is named as an argument."""
    return flag.removeprefix("--").replace("-", "_")


def flag_of(column: str) -> str:
    """The argument that a column is named as."""
    return f"--{column.replace('_', '-')}"


if __name__ == "__main__":
    print(reference(), end="")
