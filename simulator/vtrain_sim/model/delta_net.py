"""The gated delta net block (Yang et al. 2024, arXiv:2412.06464), as Megatron-Core's GatedDeltaNet runs it."""

from __future__ import annotations

from vtrain_schemas.operators import Operator
from vtrain_sim.model.mixer import exchanged, mixer_block, there_and_back
from vtrain_sim.model.program import Compute, Item
from vtrain_sim.model.shard import Region, Shard

# Tokens of a chunk in flash-linear-attention's kernels.
CHUNK = 64
# Parameters of a head: logarithm of its decay, bias of its step.
_PER_HEAD = 2


def delta_net_block(shard: Shard) -> Region:
    """Norm, projection in, convolution, delta rule, gated norm of heads, projection out: forward and backward.

    Tensor parallel ranks share heads. Queries, keys and values are convolved; keys are copied to the heads that share
    them.
    """
    model, tokens = shard.model, shard.tokens
    heads, key_heads = model.linear_num_value_heads // shard.tp, model.linear_num_key_heads // shard.tp
    keys, values = key_heads * model.linear_key_head_dim, heads * model.linear_value_head_dim
    norm = shard.norm("input_layernorm", shard.local_tokens, model.hidden_size)
    # Queries, keys, values, the gate of the output, and decay and step of each head.
    width = 2 * keys + 2 * values + 2 * heads
    # A norm of each head with one weight for all, times the gate.
    gated = shard.operator(
        "delta_gated_norm",
        "norm",
        tokens * heads,
        model.linear_value_head_dim,
        parameters=model.linear_value_head_dim,
        saves=2 * tokens * values * shard.size,
    ).replicated()
    return mixer_block(shard, "delta", norm, width, _mix(shard, heads, key_heads), gated, values)


def _mix(shard: Shard, heads: int, key_heads: int) -> Region:
    """What mixes tokens: convolution and delta rule, of the whole sequence.

    Context parallel ranks exchange their parts of it for all of it of some heads, and back.
    """
    model, cp = shard.model, shard.spec.cp.size
    channels = 2 * key_heads * model.linear_key_head_dim + heads * model.linear_value_head_dim
    own, tokens = heads // cp, shard.tokens * cp
    values = own * model.linear_value_head_dim
    convolution = shard.operator(
        "delta_conv1d",
        "causal_conv1d",
        tokens,
        channels // cp,
        model.linear_conv_kernel_dim,
        parameters=channels * model.linear_conv_kernel_dim,
        saves=tokens * channels // cp * shard.size,
    )
    rule = Operator(
        "delta_rule",
        "forward",
        n=model.linear_key_head_dim,
        k=CHUNK,
        batch=shard.spec.micro_batch_size,
        seq_q=model.seq_length,
        heads=own,
        kv_heads=key_heads // cp,
        head_dim=model.linear_value_head_dim,
        dtype=shard.dtype,
    )
    mix = Compute("delta_rule", rule, parameters=_PER_HEAD * heads, saves=sum(shard.saved(rule).values()))
    forward: list[Item] = [
        *exchanged(shard, "delta_in", channels // cp, values, 2 * own),
        convolution,
        mix,
        *exchanged(shard, "delta_out", values),
    ]
    return there_and_back(forward)
