"""The Mamba2 block: state space duality (Dao and Gu 2024, arXiv:2405.21060) as Megatron-Core's MambaMixer runs it."""

from __future__ import annotations

from vtrain_schemas.operators import Operator
from vtrain_sim.model.program import Compute, Item
from vtrain_sim.model.shard import Region, Shard, backward

# Megatron-Core's mixer has no arguments for these: tokens that a convolution sees, and tokens of a chunk of the scan.
CONVOLVED_TOKENS, CHUNK = 4, 128
# Parameters of a head: logarithm of its decay, weight of the skip connection, bias of its step.
_PER_HEAD = 3


def mamba_block(shard: Shard) -> Region:
    """Norm, projection in, convolution, scan, norm of groups, projection out: forward and backward.

    Tensor parallel ranks share heads and groups. Convolution and scan are one function of mamba_ssm, which keeps the
    projection's output and computes the convolution and the states again in its backward pass.
    """
    model, tokens = shard.model, shard.tokens
    heads, groups = model.mamba_num_heads // shard.tp, model.mamba_num_groups // shard.tp
    channels, states = heads * model.mamba_head_dim, 2 * groups * model.mamba_state_dim
    width = 2 * channels + states + heads
    norm = shard.norm("mamba_norm", shard.local_tokens, model.hidden_size)
    project = shard.linear("mamba_in_proj", tokens, width, model.hidden_size, saves=shard.local_input_bytes)
    enter, backward_enter = shard.column_parallel("mamba_in", project)
    filters = (channels + states) * (CONVOLVED_TOKENS + 1)
    convolution = shard.operator(
        "mamba_conv1d", "causal_conv1d", tokens, channels + states, CONVOLVED_TOKENS, parameters=filters
    )
    # A norm over the channels of a group, without biases.
    grouped = shard.operator("mamba_gated_norm", "norm", tokens, channels, parameters=channels)
    mix: list[Compute] = [
        *_reordered(shard, "mamba_in_order", width),
        convolution,
        _scan(shard, heads, groups),
        *_reordered(shard, "mamba_out_order", channels),
        grouped,
    ]
    leave, backward_leave = shard.row_parallel(
        "mamba_out", shard.linear("mamba_out_proj", tokens, model.hidden_size, channels)
    )
    back: list[Item] = [backward(item) for item in reversed(mix)]
    return [norm, *enter, *mix, *leave], [*backward_leave, *back, *backward_enter, backward(norm)]


def _scan(shard: Shard, heads: int, groups: int) -> Compute:
    model = shard.model
    operator = Operator(
        "chunk_scan",
        "forward",
        n=model.mamba_state_dim,
        k=CHUNK,
        batch=shard.spec.micro_batch_size,
        seq_q=model.seq_length,
        heads=heads,
        kv_heads=groups,
        head_dim=model.mamba_head_dim,
        dtype=shard.dtype,
        fused=True,
    )
    return Compute("mamba_scan", operator, parameters=_PER_HEAD * heads, saves=sum(shard.saved(operator).values()))


def _reordered(shard: Shard, name: str, width: int) -> list[Compute]:
    """Megatron-Core's [sequence, batch] as mamba_ssm's [batch, sequence] or back: nothing to do for one sequence."""
    if shard.spec.micro_batch_size == 1:
        return []
    return [shard.operator(name, "transpose", shard.tokens, width)]
