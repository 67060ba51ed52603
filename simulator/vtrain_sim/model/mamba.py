"""The Mamba2 block: state space duality (Dao and Gu 2024, arXiv:2405.21060) as Megatron-Core's MambaMixer runs it."""

from __future__ import annotations

from vtrain_schemas.operators import Operator
from vtrain_sim.model.mixer import exchanged, mixer_block, there_and_back
from vtrain_sim.model.program import Compute, Item
from vtrain_sim.model.shard import Region, Shard
from vtrain_sim.specs.hybrid_pattern import CONVOLVED_TOKENS

# Tokens of a chunk of the scan: Megatron-Core's mixer has no argument for it.
CHUNK = 128
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
    # A norm over the channels of a group, without biases.
    grouped = shard.operator("mamba_gated_norm", "norm", tokens, channels, parameters=channels)
    return mixer_block(shard, "mamba", norm, width, _mix(shard, heads, groups), grouped, channels)


def _mix(shard: Shard, heads: int, groups: int) -> Region:
    """What mixes tokens: convolution and scan, of the whole sequence.

    Context parallel ranks exchange their parts of the sequence for all of it of some heads, and back after the scan
    (DeepSpeed-Ulysses, arXiv:2309.14509); Megatron-Core's exchanges are one for each of gate, inputs, B, C and steps.
    Groups that are fewer than the ranks are copied.
    """
    model, cp = shard.model, shard.spec.cp.size
    own_heads, own_groups = heads // cp, max(1, groups // cp)
    channels, states = own_heads * model.mamba_head_dim, own_groups * model.mamba_state_dim
    tokens = shard.tokens * cp
    convolution = shard.operator(
        "mamba_conv1d",
        "causal_conv1d",
        tokens,
        channels + 2 * states,
        CONVOLVED_TOKENS,
        parameters=(heads * model.mamba_head_dim + 2 * groups * model.mamba_state_dim) * (CONVOLVED_TOKENS + 1),
    )
    scan = _scan(shard, own_heads, own_groups, _PER_HEAD * heads)
    forward: list[Item] = [
        *exchanged(shard, "mamba_in", channels, channels, states, states, own_heads),
        *_reordered(shard, "mamba_in_order", 2 * channels + 2 * states + own_heads),
        convolution,
        scan,
        *_reordered(shard, "mamba_out_order", channels),
        *exchanged(shard, "mamba_out", channels),
    ]
    return there_and_back(forward)


def _scan(shard: Shard, heads: int, groups: int, parameters: int) -> Compute:
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
    return Compute("mamba_scan", operator, parameters=parameters, saves=sum(shard.saved(operator).values()))


def _reordered(shard: Shard, name: str, width: int) -> list[Compute]:
    """Megatron-Core's [sequence, batch] as mamba_ssm's [batch, sequence] or back: nothing to do for one sequence."""
    if shard.spec.micro_batch_size == 1:
        return []
    return [shard.operator(name, "transpose", shard.tokens * shard.spec.cp.size, width)]
