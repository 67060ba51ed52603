"""Megatron's arguments that are read, by what they describe: one spelling each, for people to look through."""

from __future__ import annotations

from functools import cache

from vtrain_sim.inputs.flag_table import LISTS, SWITCHES, VALUES, entry

_GROUPS = {
    "model": """
        num-layers hidden-size ffn-hidden-size num-attention-heads num-query-groups group-query-attention kv-channels
        seq-length max-position-embeddings vocab-size padded-vocab-size make-vocab-size-divisible-by normalization
        position-embedding-type no-position-embedding swiglu quick-geglu squared-relu
        activation-func-clamp-value disable-bias-linear add-qkv-bias qk-layernorm qk-layernorm-weights
        norms-per-layer attention-output-gate untie-embeddings-and-output-weights hidden-dropout attention-dropout""",
    "experts": """
        num-experts moe-router-topk moe-router-num-groups moe-router-group-topk moe-ffn-hidden-size moe-layer-freq
        moe-shared-expert-intermediate-size moe-shared-expert-gate moe-latent-size moe-imbalance-factor
        moe-token-dispatcher-type
        moe-flex-dispatcher-backend moe-enable-deepep moe-shared-expert-overlap overlap-moe-expert-parallel-comm
        moe-expert-capacity-factor moe-pad-expert-input-to-capacity moe-router-padding-for-fp8
        use-transformer-engine-op-fuser no-moe-grouped-gemm expert-model-parallel-size expert-tensor-parallel-size""",
    "latent attention, windows, hybrids, several tokens": """
        multi-latent-attention q-lora-rank kv-lora-rank qk-head-dim qk-pos-emb-head-dim v-head-dim window-size
        window-attn-skip-freq softmax-type hybrid-layer-pattern is-hybrid-model mamba-num-heads mamba-head-dim
        mamba-state-dim mamba-num-groups linear-attention-freq linear-num-key-heads
        linear-key-head-dim linear-num-value-heads linear-value-head-dim linear-conv-kernel-dim mtp-num-layers
        mtp-hybrid-override-pattern mtp-use-repeated-layer""",
    "parallelism": """
        tensor-model-parallel-size sequence-parallel pipeline-model-parallel-size num-virtual-stages-per-pipeline-rank
        num-layers-per-virtual-pipeline-stage microbatch-group-size-per-virtual-pipeline-stage
        decoder-first-pipeline-num-layers decoder-last-pipeline-num-layers pipeline-model-parallel-layout
        account-for-embedding-in-pipeline-split account-for-loss-in-pipeline-split schedule context-parallel-size
        cp-comm-type hierarchical-context-parallel-sizes data-parallel-size use-torch-fsdp2 use-megatron-fsdp
        data-parallel-sharding-strategy""",
    "communication": """
        overlap-grad-reduce overlap-param-gather ddp-bucket-size no-align-grad-reduce tp-comm-overlap
        no-async-tensor-model-parallel-allreduce no-overlap-p2p-communication no-batch-p2p-comm
        scatter-gather-tensors-in-pipeline""",
    "training step": """
        micro-batch-size global-batch-size rampup-batch-size step-batch-size-schedule attention-backend transformer-impl
        cross-entropy-loss-fusion cross-entropy-fusion-impl cuda-graph-impl cuda-graph-scope sft packed-lengths""",
    "precision and optimizer": """
        bf16 fp16 fp32 optimizer muon-num-ns-steps muon-tp-mode muon-use-syrk fp8-format fp8-recipe fp8-param-gather
        fp4-format first-last-layers-bf16
        num-layers-at-start-in-bf16 num-layers-at-end-in-bf16 use-distributed-optimizer use-precision-aware-optimizer
        main-grads-dtype main-params-dtype exp-avg-dtype exp-avg-sq-dtype accumulate-allreduce-grads-in-fp32
        grad-reduce-in-bf16 no-gradient-accumulation-fusion deepspeed-zero""",
    "memory": """
        recompute-granularity recompute-method recompute-num-layers recompute-modules activations-checkpoint-method
        cpu-offloading-num-layers fine-grained-activation-offloading offload-modules min-offloaded-tensor-size
        optimizer-cpu-offload optimizer-offload-fraction overlap-cpu-optimizer-d2h-h2d expandable-segments""",
}
_OTHERS = "others"


@cache
def flag_groups() -> dict[str, tuple[str, ...]]:
    """Flags by group. What is read and is in no group yet comes last, under its first spelling."""
    groups = {title: tuple(f"--{name}" for name in names.split()) for title, names in _GROUPS.items()}
    fields = {flag: read[0] for flag in (*VALUES, *SWITCHES, *LISTS) if (read := entry(flag))}
    grouped = {fields[flag] for flags in groups.values() for flag in flags}
    others = {field: flag for flag, field in reversed(fields.items()) if field not in grouped}
    return {**groups, _OTHERS: tuple(others.values())} if others else groups
