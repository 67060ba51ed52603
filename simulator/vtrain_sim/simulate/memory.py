"""How much memory each pipeline stage needs.

Activations per layer follow Korthikanti et al. 2022 (arXiv:2205.05198), equations 1-6, counted from
the tensors that each operator keeps for its backward pass. The formulas take numbers or arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vtrain_schemas.operators import dtype_bytes
from vtrain_sim.model.sharding import Shard
from vtrain_sim.specs import Configuration

# CUDA context, cuBLAS workspaces and the buffers of NCCL's communicators in one process, bytes.
RUNTIME_BYTES = 7 << 29
# A process without a GPU: the interpreter and its libraries.
HOST_RUNTIME_BYTES = 400 << 20
# Memory that the caching allocator holds but cannot use, as part of the activations. Both are what the memory
# logged while BLOOM was tuned (arXiv:2211.05100) leaves beyond what tensors need.
FRAGMENTATION = 0.15
TERMS = ("parameters", "gradients", "optimizer", "activations", "working", "logits", "runtime")


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one rank of a stage, by term.

    activations: kept for the backward pass, of all microbatches in flight. working: alive only while
    something runs: a layer being recomputed, gathered parameters, communication buffers. logits: the
    output's and the loss's. runtime: context, libraries, and what the allocator cannot use.
    """

    stage: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    working_bytes: int
    logits_bytes: int
    runtime_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Sum of the terms."""
        return sum(self.terms().values())

    @property
    def allocated_bytes(self) -> int:
        """What tensors need: ``torch.cuda.max_memory_allocated``."""
        return self.peak_bytes - self.runtime_bytes

    def terms(self) -> dict[str, int]:
        """The terms by name."""
        return {name: getattr(self, f"{name}_bytes") for name in TERMS}


@dataclass(frozen=True)
class MemoryVerdict:
    """Whether the configuration fits, and what decides. remedy: the nearest change that fits, in words."""

    fits: bool
    capacity_bytes: int
    stages: tuple[StageMemory, ...]
    remedy: str = ""

    @property
    def worst(self) -> StageMemory:
        """The stage that needs most."""
        return max(self.stages, key=lambda s: s.peak_bytes)

    def sentence(self) -> str:
        """The verdict in words."""
        worst, gib = self.worst, 1 << 30
        term, size = max(worst.terms().items(), key=lambda t: t[1])
        state = "fits" if self.fits else "does not fit"
        return (
            f"{state}: stage {worst.stage} needs {worst.peak_bytes / gib:.1f} of "
            f"{self.capacity_bytes / gib:.1f} GiB, most of it {term} ({size / gib:.1f} GiB)"
            + (f"; {self.remedy}" if self.remedy else "")
        )


@dataclass(frozen=True)
class ActivationBytes:
    """What one rank keeps of one microbatch: by layer kind, and while a recomputed layer runs again."""

    dense: int
    moe: int
    checkpoint: int
    working: int
    logits: int


def activation_bytes(configuration: Configuration) -> ActivationBytes:
    """Bytes of activations of one microbatch on one rank."""
    model, train = configuration.model, configuration.train
    shard = Shard(configuration)
    dense = _attention_bytes(shard) + _mlp_bytes(shard)
    moe = _attention_bytes(shard) + _moe_bytes(shard) if model.num_experts else dense
    scores = 0 if train.recompute_granularity == "selective" else _score_bytes(shard)
    largest = max(dense, moe) + _score_bytes(shard)
    # A checkpointed layer keeps its input; a recomputed core attention has its scores back while it runs.
    working = {"full": largest, "selective": _score_bytes(shard)}.get(train.recompute_granularity, 0)
    # Around each sharded block the whole sequence and its gradient are alive.
    working += 2 * shard.hidden_bytes if configuration.parallel.sequence_parallel else 0
    columns = model.padded_vocab_size(shard.tp) // shard.tp
    # Logits, their fp32 copy that becomes the softmax, and its gradient.
    logits = shard.tokens * columns * (shard.size + 8)
    return ActivationBytes(
        dense + scores, moe + scores, shard.local_tokens * model.hidden_size * shard.size, working, logits
    )


def _attention_bytes(shard: Shard) -> int:
    model, h, size = shard.configuration.model, shard.configuration.model.hidden_size, shard.size
    linear = 1 if shard.configuration.train.fp8 else size
    # Input of the norm, input of the projection, mask of the dropout after the block.
    kept = shard.local_tokens * h * (size + linear + (1 if model.dropout else 0))
    if model.multi_latent_attention:
        heads = model.num_attention_heads // shard.tp
        compressed = model.q_lora_rank + model.kv_lora_rank + model.qk_pos_emb_head_dim
        kept += shard.local_tokens * compressed * (size + linear)
        width = heads * (2 * (model.qk_head_dim + model.qk_pos_emb_head_dim) + model.v_head_dim)
    else:
        width = model.qkv_width // shard.tp
        if model.qk_layernorm:
            kept += shard.tokens * width * size
    kept += shard.tokens * width * size
    out = shard.tokens * (model.attention_width // shard.tp)
    return kept + out * size + (out * linear if shard.configuration.train.fp8 else 0)


def _score_bytes(shard: Shard) -> int:
    """Softmax output, dropout mask and dropout output of unfused attention; row sums of a fused one."""
    configuration = shard.configuration
    model, parallel, train = configuration.model, configuration.parallel, configuration.train
    heads = model.num_attention_heads // shard.tp
    rows = train.micro_batch_size * heads * (model.seq_length // parallel.cp)
    if train.attention_kernel != "unfused":
        return rows * 4
    return rows * model.seq_length * ((2 * shard.size + 1) if model.dropout else shard.size)


def _mlp_bytes(shard: Shard) -> int:
    model, h, size = shard.configuration.model, shard.configuration.model.hidden_size, shard.size
    linear = 1 if shard.configuration.train.fp8 else size
    gate = 2 if model.swiglu else 1
    ffn = model.ffn_hidden_size // shard.tp
    return shard.local_tokens * h * (size + linear + (1 if model.dropout else 0)) + shard.tokens * ffn * (
        gate * size + linear
    )


def _moe_bytes(shard: Shard) -> int:
    model, h, size = shard.configuration.model, shard.configuration.model.hidden_size, shard.size
    parallel = shard.configuration.parallel
    linear = 1 if shard.configuration.train.fp8 else size
    gate = 2 if model.swiglu else 1
    routed = round(shard.local_tokens * model.moe_router_topk * model.moe_imbalance_factor)
    ffn = model.moe_ffn_hidden_size // parallel.etp
    kept = shard.local_tokens * (h * (2 * size + (1 if model.dropout else 0)) + model.num_experts * 4)
    # Dispatched rows, both sides of the activation, and the expert outputs that are weighted and summed.
    kept += routed * parallel.etp * (h * linear + ffn * (gate * size + linear)) + routed * h * size
    shared = model.moe_shared_expert_intermediate_size // shard.tp
    return kept + shard.tokens * shared * (gate * size + linear)


def in_flight(schedule: Any, stage: Any, pp: Any, vpp: Any, microbatches: Any) -> Any:
    """Most microbatches of a whole stage's layers whose activations a stage holds at once (a fraction
    where chunks interleave). schedule: index into `vtrain_sim.replay.SCHEDULES`."""
    plain = np.minimum(pp - stage, microbatches)
    chunks = np.minimum((pp - stage - 1) * 2 + (vpp - 1) * pp + 1, microbatches * vpp)
    return np.select(
        [schedule == 0, schedule == 1, schedule == 2, schedule == 3],
        [plain, microbatches, chunks / vpp, np.minimum(pp, microbatches)],
        np.minimum(2 * pp - 1, microbatches),
    )


def parameter_terms(
    configuration: Configuration, dense: int, expert: int, largest_layer: int
) -> tuple[int, int, int, int]:
    """Bytes of weights, gradients, optimizer states and working buffers of so many parameters.

    Adam keeps two fp32 moments, and an fp32 copy of parameters that are stored in less (with fp16
    gradients also of those, for the step).
    """
    parallel, train = configuration.parallel, configuration.train
    weight, gradient = dtype_bytes(train.params_dtype), dtype_bytes(train.main_grads_dtype)
    total = dense + expert
    replicas = parallel.dp * parallel.cp
    shards = -(-dense // replicas) + -(-expert // parallel.expert_dp)
    state = 8 if weight == 4 else 12 + (4 if gradient < 4 else 0)
    working = 0
    if parallel.fsdp:
        # Two layers gathered at a time: the one that runs and the one that is fetched.
        return shards * weight, shards * gradient, shards * state, 2 * largest_layer * (weight + gradient)
    sharded = shards if parallel.distributed_optimizer else total
    if train.fp8:
        # Two 8-bit copies of the linear layers' weights: as they are, and transposed.
        working += 2 * total
    return total * weight, total * gradient, sharded * state, working
