"""Memory that a played rank's shard takes, from its flags, before anything is built."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from vtrain_plugin.bench.shard_parameters import ShardParameters

_GRADIENT_BYTES = 4  # main gradients are in fp32


@dataclass(frozen=True)
class ShardMemory:
    """Bytes of each part.

    activations: what the passes in flight keep for their backward passes, at the least: an estimate that is too
    large would refuse what runs.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    @classmethod
    def of(cls, args: argparse.Namespace) -> ShardMemory:
        """Estimate; `args` are those of ``vtrain-profile rank``."""
        parameters = ShardParameters.of(args)
        size = 2 if args.bf16 or args.fp16 else 4
        # Adam's two moments, and beside 16-bit parameters a copy in fp32.
        state = 8 if size == 4 else 12
        return cls(
            weights=parameters.total * size,
            gradients=parameters.total * _GRADIENT_BYTES,
            optimizer=state * _owned(args, parameters),
            activations=_in_flight(args) * sum(_layer_bytes(args, mixture, size) for mixture in parameters.layers),
            logits=_logits_bytes(args, size),
        )

    def refusal(self, free_bytes: int | None) -> str:
        """Why the shard cannot run in so much memory; empty where it may."""
        if free_bytes is None or self.total <= free_bytes:
            return ""
        parts = ", ".join(f"{name} {_gigabytes(value)}" for name, value in vars(self).items() if value)
        return (
            f"the shard needs {_gigabytes(self.total)} GB or more ({parts}) and {_gigabytes(free_bytes)} GB of the "
            "device's memory are free: more tensor, pipeline or expert parallelism, --use-distributed-optimizer, "
            "--recompute-full, a smaller --micro-batch-size or fewer --layers take less"
        )


def _gigabytes(value: int) -> str:
    return f"{value / 1e9:.3g}"


def _owned(args: argparse.Namespace, parameters: ShardParameters) -> int:
    """Parameters whose optimizer state is on this rank."""
    if not args.use_distributed_optimizer:
        return parameters.total
    per_stage = args.world_size // args.pipeline_model_parallel_size
    etp = args.expert_tensor_parallel_size or args.tensor_model_parallel_size
    replicas = max(1, per_stage // args.tensor_model_parallel_size)
    expert_replicas = max(1, per_stage // (etp * args.expert_model_parallel_size))
    return int(-(-parameters.dense // replicas) - (-parameters.experts // expert_replicas))


def _in_flight(args: argparse.Namespace) -> int:
    """Microbatches that this stage holds at once in the one-forward-one-backward schedule."""
    pp = args.pipeline_model_parallel_size
    stage = args.rank // (args.world_size // pp)
    return int(max(1, min(pp - stage, args.num_microbatches)))


def _layer_bytes(args: argparse.Namespace, mixture: int, size: int) -> int:
    """Inputs of one layer's linear layers, attention and activation, of one microbatch."""
    tp, h = args.tensor_model_parallel_size, args.hidden_size
    tokens = args.seq_length * args.micro_batch_size // args.context_parallel_size
    local = tokens // tp if args.sequence_parallel else tokens
    if args.recompute_full:
        return int(local * h * size)
    heads = args.num_attention_heads // tp
    kv = max(1, (args.num_query_groups or args.num_attention_heads) // tp)
    head_dim = args.kv_channels or h // args.num_attention_heads
    attention = (2 * heads + 2 * kv) * head_dim
    if args.multi_latent_attention:
        attention = heads * (2 * (args.qk_head_dim + args.qk_pos_emb_head_dim) + 2 * args.v_head_dim)
    gates = 2 if args.swiglu else 1
    ffn = args.ffn_hidden_size or 4 * h
    if mixture:
        etp = args.expert_tensor_parallel_size or tp
        routed = tokens * args.moe_router_topk // (tp // etp or 1)
        feed_forward = routed * (h + (gates + 1) * (args.moe_ffn_hidden_size or ffn) // etp)
    else:
        feed_forward = local * h + tokens * (gates + 1) * ffn // tp
    # Inputs of both norms, and of the attention's projection.
    return int((3 * local * h + tokens * attention + feed_forward) * size)


def _logits_bytes(args: argparse.Namespace, size: int) -> int:
    """Logits and their softmax in fp32, on the last stage."""
    pp = args.pipeline_model_parallel_size
    if args.rank // (args.world_size // pp) != pp - 1:
        return 0
    tokens = args.seq_length * args.micro_batch_size // args.context_parallel_size
    return int(tokens * (args.vocab_size // args.tensor_model_parallel_size) * (size + 4))
